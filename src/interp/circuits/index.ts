/** @file Circuits in weights, as one namespace: `circuits.svd(await circuits.ovCircuits(model, 3))`. */
export { compose, dense, eigenvaluesOf, factored, head, norm, productShape, svd, transpose } from "./factored.ts"
export { compositionScores, COMPOSITIONS, ovCircuits, qkCircuits } from "./heads.ts"
export type { CircuitOptions, Composition, CompositionScores } from "./heads.ts"
