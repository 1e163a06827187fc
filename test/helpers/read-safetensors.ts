/** @file A reader of trusted safetensors fixtures that shares no code with the project's own. */
import { readFileSync } from "node:fs"

export interface Stored {
  readonly dtype: string
  readonly shape: readonly number[]
  readonly bytes: Uint8Array
}

/** The tensors of a file by name, and its metadata. */
export function readSafetensors(file: URL | string): { tensors: Map<string, Stored>; metadata: Map<string, string> } {
  const all = new Uint8Array(readFileSync(file)) // a copy, so that offsets below are relative to an aligned start
  const length = Number(new DataView(all.buffer).getBigUint64(0, true))
  const header = JSON.parse(new TextDecoder().decode(all.subarray(8, 8 + length))) as Record<string, unknown>
  const { __metadata__: metadata = {}, ...entries } = header
  const tensors = new Map<string, Stored>()
  for (const [name, entry] of Object.entries(entries)) {
    const { dtype, shape, data_offsets } = entry as { dtype: string; shape: number[]; data_offsets: [number, number] }
    tensors.set(name, { dtype, shape, bytes: all.slice(8 + length + data_offsets[0], 8 + length + data_offsets[1]) })
  }
  return { tensors, metadata: new Map(Object.entries(metadata as Record<string, string>)) }
}

/** The values of an F32 tensor. */
export const floats = ({ bytes }: Stored): Float32Array => new Float32Array(bytes.buffer, 0, bytes.byteLength / 4)
