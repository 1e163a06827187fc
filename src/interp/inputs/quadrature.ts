/** @file Gauss and Legendre's quadrature (https://dlmf.nist.gov/3.5#v). */

/** The n points in [0, 1], rising, and their weights, which sum to 1: exact for polynomials of degree 2 n - 1. */
export function gaussLegendre(n: number): readonly [nodes: Float64Array, weights: Float64Array] {
  const [nodes, weights] = [new Float64Array(n), new Float64Array(n)]
  for (let i = 0; i < n; i++) {
    let x = -Math.cos((Math.PI * (i + 0.75)) / (n + 0.5))
    let slope = 0
    // Newton's method doubles the digits of a start that is right to 1 / n^2: five steps are enough for any n.
    for (let step = 0; step < 6; step++) {
      let [before, value] = [1, x]
      for (let k = 2; k <= n; k++) [before, value] = [value, ((2 * k - 1) * x * value - (k - 1) * before) / k]
      slope = (n * (x * value - before)) / (x * x - 1)
      x -= value / slope
    }
    nodes[i] = (1 + x) / 2
    weights[i] = 1 / ((1 - x * x) * slope * slope)
  }
  return [nodes, weights]
}
