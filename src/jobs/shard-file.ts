/** @file A safetensors file written row by row: every tensor's first axis is the rows, and no more than some rows are held. */
import { fail } from "../errors.ts"
import { writeFileAtomic } from "../files/atomic.ts"
import { encodeHeader, type Metadata } from "../tensor/safetensors.ts"
import { byteLength, bytesOf, type DType, show, type Tensor } from "../tensor/tensor.ts"

/** What a tensor is for one row. */
export interface RowTensor {
  readonly dtype: DType
  readonly shape: readonly number[]
}

/** Some rows of every tensor, by name. */
export type RowValues = ReadonlyMap<string, Tensor>

/**
 * Write `rows` rows of `tensors` to `path`, which appears when it is whole. Errors: E_RUNTIME for rows of another shape or
 * number than said; those of `values` and of writeFileAtomic.
 */
export async function writeRows(
  path: string,
  rows: number,
  tensors: ReadonlyMap<string, RowTensor>,
  values: AsyncIterable<RowValues>,
  metadata: Metadata,
): Promise<void> {
  const whole = new Map([...tensors].map(([name, { dtype, shape }]) => [name, { dtype, shape: [rows, ...shape] }]))
  const { head, names } = encodeHeader(whole, metadata)
  const starts = new Map<string, number>()
  let end = head.length
  for (const name of names) {
    starts.set(name, end)
    end += byteLength(whole.get(name)!)
  }
  await writeFileAtomic(path, async (file) => {
    await file.writeAt(head, 0)
    let done = 0
    for await (const some of values) {
      const n = some.get(names[0]!)?.shape[0] ?? 0
      for (const name of names) {
        const { dtype, shape } = tensors.get(name)!
        const t = some.get(name)
        if (t?.dtype !== dtype || String(t.shape) !== String([n, ...shape])) wrong(name, [n, ...shape], t)
        await file.writeAt(bytesOf(t), starts.get(name)! + done * byteLength({ dtype, shape }))
      }
      done += n
    }
    if (done !== rows) fail("E_RUNTIME", `${path}: ${done} rows were computed, expected ${rows}`)
  })
}

function wrong(name: string, shape: readonly number[], t: Tensor | undefined): never {
  const got = t ? `${t.dtype} ${show(t.shape)}` : "missing"
  return fail("E_RUNTIME", `"${name}" is ${got} in a batch, expected ${show(shape)}`)
}
