/** @file Means over images and how sure they are: Student's interval. */

/** A mean over `n` images; `interval` covers the true mean with the confidence asked for, if images are independent
 * and not too few for their spread. Absent for one image. */
export interface Estimate {
  readonly mean: number
  readonly n: number
  readonly interval?: readonly [low: number, high: number]
}

/** Running mean and spread of many quantities (Welford 1962); NaN is passed over. */
export class Moments {
  readonly #n: Float64Array
  readonly #mean: Float64Array
  readonly #squares: Float64Array

  constructor(length: number) {
    this.#n = new Float64Array(length)
    this.#mean = new Float64Array(length)
    this.#squares = new Float64Array(length)
  }

  add(at: number, x: number): void {
    if (Number.isNaN(x)) return
    const n = (this.#n[at]! += 1)
    const before = x - this.#mean[at]!
    this.#mean[at]! += before / n
    this.#squares[at]! += before * (x - this.#mean[at]!)
  }

  /** NaN where nothing was added. */
  mean(at: number): number {
    return this.#n[at] ? this.#mean[at]! : NaN
  }

  estimate(at: number, confidence: number): Estimate {
    const n = this.#n[at]!
    const mean = this.mean(at)
    if (n < 2) return { mean, n }
    const half = studentT(confidence, n - 1) * Math.sqrt(this.#squares[at]! / (n - 1) / n)
    return { mean, n, interval: [mean - half, mean + half] }
  }
}

const quantiles = new Map<string, number>()

/** The t that Student's distribution of `df` degrees stays within, on both sides, with this probability. */
export function studentT(probability: number, df: number): number {
  const key = `${probability}:${df}`
  const known = quantiles.get(key)
  if (known !== undefined) return known
  let [low, high] = [0, Math.PI / 2]
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2
    if (within(middle, df) < probability) low = middle
    else high = middle
  }
  const t = Math.tan((low + high) / 2) * Math.sqrt(df)
  quantiles.set(key, t)
  return t
}

/** P(|T| < t) for t = tan(angle) sqrt(df), a finite sum (Abramowitz and Stegun 26.7.3 and 26.7.4). */
function within(angle: number, df: number): number {
  const [sin, cos] = [Math.sin(angle), Math.cos(angle)]
  const odd = df % 2 === 1
  let [term, sum] = [odd ? cos : 1, 0]
  for (let i = odd ? 1 : 0; i <= df - 2; i += 2) {
    sum += term
    term *= (cos * cos * (i + 1)) / (i + 2)
  }
  return odd ? (2 / Math.PI) * (angle + sin * sum) : sin * sum
}
