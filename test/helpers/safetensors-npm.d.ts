/** @file Types of the npm package `safetensors` 0.0.1, which ships none; it opens only files without metadata. */
declare module "safetensors" {
  export class SafeTensor {
    constructor(file: Uint8Array)
    readonly metadata: ReadonlyMap<string, { dtype: string; shape: number[]; data_offsets: number[] }>
    getTensor(name: string): Uint8Array
  }
}
