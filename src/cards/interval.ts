/** @file The interval in which a measured share may lie: Wilson's (https://doi.org/10.1080/01621459.1927.10502953). */

/** The 0.975 quantile of the normal distribution: 95 % lie within it on both sides. */
const Z = 1.959963984540054

/** The 95 % confidence interval of a share found in `n` independent cases, within 0 to 1. */
export function wilson(share: number, n: number): readonly [low: number, high: number] {
  const z = Z ** 2 / n
  const middle = (share + z / 2) / (1 + z)
  const half = (Z * Math.sqrt((share * (1 - share)) / n + z / (4 * n))) / (1 + z)
  return [share === 0 ? 0 : Math.max(0, middle - half), share === 1 ? 1 : Math.min(1, middle + half)]
}

/** How many cases the share is, where it is a whole number of `n`. */
export function casesOf(share: number, n: number): number | undefined {
  const cases = Math.round(share * n)
  // float32 sums and printed decimals move a share by no more than this.
  return Math.abs(share * n - cases) < 1e-3 ? cases : undefined
}
