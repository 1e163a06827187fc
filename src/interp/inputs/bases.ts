/** @file How numbers become an image: one row of a basis for each line of pixels, shifted around the edge. */

/** The orthonormal basis that a line of n pixels is written in, [n, n]: row k is the k-th pattern. */
type Basis = (n: number) => { readonly rows: Float64Array; readonly cyclesPerPixel: Float64Array }

/** Each pixel for itself; or the real Fourier basis: the constant, then cosine and sine of each frequency. */
export const BASES = {
  pixels: (n) => ({
    rows: Float64Array.from({ length: n * n }, (_, i) => (i % (n + 1) ? 0 : 1)),
    cyclesPerPixel: new Float64Array(n),
  }),
  fourier: (n) => {
    const cyclesPerPixel = Float64Array.from({ length: n }, (_, k) => Math.ceil(k / 2) / n)
    const rows = Float64Array.from({ length: n * n }, (_, i) => {
      const [k, x] = [Math.floor(i / n), i % n]
      const angle = 2 * Math.PI * cyclesPerPixel[k]! * x
      // Of an even n, the highest frequency has a cosine alone, +1, -1, +1, ...
      const alone = k === 0 || (n % 2 === 0 && k === n - 1)
      return Math.sqrt((alone ? 1 : 2) / n) * (alone || k % 2 ? Math.cos(angle) : Math.sin(angle))
    })
    return { rows, cyclesPerPixel }
  },
} as const satisfies Readonly<Record<string, Basis>>

export type Parametrisation = keyof typeof BASES

/** The basis with every pattern moved `shift` pixels on, what leaves at the end coming in at the beginning: [n, n]. */
export function shifted(rows: Float64Array, n: number, shift: number): Float32Array {
  return Float32Array.from({ length: n * n }, (_, i) => {
    const [k, x] = [Math.floor(i / n), i % n]
    return rows[k * n + ((((x - shift) % n) + n) % n)]!
  })
}

/**
 * How large each coefficient counts, [h, w]: 1 for pixels; for Fourier's, 1 over the frequency in cycles a pixel, as
 * natural images have it, the lowest taken for one cycle over the longer edge (Olah et al., "Feature Visualization",
 * https://distill.pub/2017/feature-visualization).
 */
export function amplitudes(which: Parametrisation, h: number, w: number): Float32Array {
  const [down, across] = [BASES[which](h).cyclesPerPixel, BASES[which](w).cyclesPerPixel]
  if (which === "pixels") return new Float32Array(h * w).fill(1)
  const lowest = 1 / Math.max(h, w)
  return Float32Array.from(
    { length: h * w },
    (_, i) => 1 / Math.max(lowest, Math.hypot(down[Math.floor(i / w)]!, across[i % w]!)),
  )
}
