/**
 * @file The edges of a pre-norm model: what each head, MLP and the embeddings send to each later reader's own input.
 *
 * Every reader's input gets `gate * (other - own)` of each sender before it, so that an edge is a number of the graph:
 * 0 leaves it, 1 puts the other run's value there, and the metric's slope at 0 is edge attribution patching
 * (arXiv:2310.10348), averaged along the images between the two (arXiv:2403.17806).
 */
import { grad } from "../../autodiff/grad.ts"
import { fail } from "../../errors.ts"
import type { Dim } from "../../graph/dims.ts"
import { add, concat, constant, matmul, mul, reshape, slice, sub, sum, transpose } from "../../graph/ops.ts"
import type { Value } from "../../graph/value.ts"
import { float32, size, type Tensor } from "../../tensor/tensor.ts"
import { imageMetric, type Metric } from "../gradients.ts"
import type { HookedViT, RunOptions } from "../hooked-vit.ts"
import type { Edit } from "../interventions.ts"
import { receiverHook, type Receiver, type Sender } from "./path.ts"
import type { Rows } from "./sources.ts"

/** From what is written to what reads it. */
export interface Edge {
  readonly sender: Sender
  readonly receiver: Receiver
}

/** Readers that share a hook (the heads of one projection), and how many senders come before them. */
interface Reader {
  readonly hook: string
  readonly receivers: readonly Receiver[]
  readonly reads: number
}

/** Senders in the order in which they write. */
export interface EdgeLayout {
  readonly senders: readonly Sender[]
  readonly readers: readonly Reader[]
}

type At = (name: string) => Value

const TO = "edges.to"
const CHANGE = "edges.change"
const gate = ({ hook }: Reader): string => `edges.${hook}`

/** Error: E_INPUT for a post-norm model. */
export function edgeLayout(model: HookedViT): EdgeLayout {
  const { nLayers, nHeads, norm } = model.config.vision
  if (norm === "post") fail("E_INPUT", "edges need a stream that is a sum; a post-norm model norms it at each block")
  const heads = Array.from({ length: nHeads }, (_, head) => head)
  const senders: Sender[] = [{ embed: true }]
  const readers: Reader[] = []
  const reader = (receivers: readonly Receiver[]) =>
    readers.push({ hook: receiverHook(model, receivers[0]!), receivers, reads: senders.length })
  for (let layer = 0; layer < nLayers; layer++) {
    for (const input of ["q", "k", "v"] as const) reader(heads.map((head) => ({ layer, head, input })))
    senders.push(...heads.map((head) => ({ layer, head })))
    if (!model.hooks.has(`blocks.${layer}.hook_mlp_out`)) continue
    reader([{ layer, input: "mlp" }])
    senders.push({ layer, mlp: true })
  }
  reader([{ input: "end" }])
  return { senders, readers }
}

/** Every edge, by reader and then by sender. */
export const edgesOf = ({ senders, readers }: EdgeLayout): Edge[] =>
  readers.flatMap(({ receivers, reads }) =>
    receivers.flatMap((receiver) => senders.slice(0, reads).map((sender) => ({ sender, receiver }))),
  )

/** "embed -> 2.1.q", "0.3 -> 2.mlp", "1.mlp -> end" */
export function edgeName({ sender, receiver }: Edge): string {
  const from = "embed" in sender ? "embed" : `${sender.layer}.${"head" in sender ? sender.head : "mlp"}`
  if (receiver.input === "end") return `${from} -> end`
  return `${from} -> ${receiver.layer}.${"head" in receiver ? `${receiver.head}.` : ""}${receiver.input}`
}

const senderHook = (sender: Sender): string =>
  "embed" in sender
    ? "blocks.0.hook_resid_pre"
    : `blocks.${sender.layer}.${"head" in sender ? "attn.hook_result" : "hook_mlp_out"}`

/** The hooks that hold what is written. */
export const senderHooks = ({ senders }: EdgeLayout): string[] => [...new Set(senders.map(senderHook))]

/** LayerScale of each layer's heads, [d]; none where the model has none. */
export type Scales = readonly Tensor<"float32">[]

export async function headScales(model: HookedViT): Promise<Scales> {
  const { nLayers, layerScale } = model.config.vision
  if (!layerScale) return []
  return Promise.all(Array.from({ length: nLayers }, (_, l) => model.weight(`blocks.${l}.ls1.gamma`)))
}

/** What every sender wrote, [n, senders, T * d], of the values of `senderHooks`. */
export function writtenOf({ senders }: EdgeLayout, rows: Rows, scales: Scales, n: number): Tensor<"float32"> {
  const [, T, d] = rows.get("blocks.0.hook_resid_pre")!.shape as readonly [number, number, number]
  const out = new Float32Array(n * senders.length * T * d)
  for (const [s, sender] of senders.entries()) {
    const { shape, data } = rows.get(senderHook(sender))!
    const [heads, head] = "head" in sender ? [shape[2]!, sender.head] : [1, 0]
    const scale = "head" in sender ? scales[sender.layer]?.data : undefined
    for (let i = 0; i < n; i++)
      for (let t = 0; t < T; t++) {
        const from = (((i % shape[0]!) * T + t) * heads + head) * d
        const to = ((i * senders.length + s) * T + t) * d
        for (let k = 0; k < d; k++) out[to + k] = data[from + k]! * (scale?.[k] ?? 1)
      }
  }
  return float32([n, senders.length, T * d], out)
}

/** The same in the graph, of the first `reads` senders. */
function written({ senders }: EdgeLayout, scales: Scales, at: At, reads: number): Value {
  const some = senders.slice(0, reads)
  const rows = [...new Set(some.map(senderHook))].map((hook) => {
    const value = at(hook)
    if (value.shape.length === 3) return flat(value, 1)
    const layer = Number(hook.split(".")[1])
    const scaled = scales[layer] ? mul(value, constant(scales[layer])) : value
    return flat(transpose(scaled, [0, 2, 1, 3]), scaled.shape[2]!) // [b, h, T * d]
  })
  return concat(rows, 1)
}

const flat = (x: Value, rows: Dim): Value => {
  const [T, d] = x.shape.slice(-2) as [number, number]
  return reshape(x, [x.shape[0]!, rows, T * d])
}

/** Each reader's input with its edges: gates [b, readers, senders] times what would change [b, senders, T * d]. */
function edits({ readers }: EdgeLayout, change: (at: At, reads: number) => Value): Record<string, Edit> {
  return Object.fromEntries(
    readers.map((reader): [string, Edit] => [
      reader.hook,
      (value, _, at) => {
        const [b, T, ...rest] = value.shape as [Dim, number, ...number[]]
        const [heads, d] = rest.length === 2 ? (rest as [number, number]) : [1, rest[0]!]
        const moved = reshape(matmul(at(gate(reader)), change(at, reader.reads)), [b, heads, T, d])
        return add(value, rest.length === 2 ? transpose(moved, [0, 2, 1, 3]) : reshape(moved, [b, T, d]))
      },
    ]),
  )
}

/** What is asked at all gates at once. */
interface EdgeRun {
  readonly model: HookedViT
  readonly layout: EdgeLayout
  readonly images: Tensor
  readonly metric: Metric
}

/** d metric / d gate of every edge at gates 0, per image, in the order of `edgesOf`: [n, edges]. One session. */
export async function edgeSlopes(
  { model, layout, images, metric }: EdgeRun,
  change: Tensor,
): Promise<Tensor<"float32">> {
  const n = images.shape[0]!
  const { readers } = layout
  const got = await model.run(images, {
    edit: edits(layout, (at, reads) => slice(at(CHANGE), 1, 0, reads)),
    inputs: { [CHANGE]: change, ...gates(layout, n, () => 0) },
    outputs: (view) => {
      const slopes = grad(
        sum(imageMetric(metric, view), [0]),
        readers.map((r) => view.hook(gate(r))),
      )
      return Object.fromEntries(readers.map((r, i) => [r.hook, slopes[i]!]))
    },
  })
  const count = edgesOf(layout).length
  const out = new Float32Array(n * count)
  for (let i = 0, start = 0; i < n; i++)
    for (const { hook } of readers) {
      const { shape, data } = got[hook]!
      const row = size(shape.slice(1))
      out.set((data as Float32Array).subarray(i * row, (i + 1) * row), start)
      start += row
    }
  return float32([n, count], out)
}

/** The metric of each image where these edges carry what `other` [n, senders, T * d] has. One session for all choices. */
export async function metricWithout(
  { model, layout, images, metric }: EdgeRun,
  other: Tensor,
  scales: Scales,
  cut: (edge: Edge) => boolean,
): Promise<number[]> {
  const options: RunOptions = {
    at: senderHooks(layout).filter((hook) => hook.endsWith("hook_result")),
    edit: edits(layout, (at, reads) => sub(slice(at(TO), 1, 0, reads), written(layout, scales, at, reads))),
    inputs: { [TO]: other, ...gates(layout, images.shape[0]!, (edge) => (cut(edge) ? 1 : 0)) },
    outputs: (view) => ({ value: imageMetric(metric, view) }),
  }
  const { value } = await model.run(images, options)
  return Array.from(value!.data as Float32Array)
}

/** A number for each edge, the same for all images: [n, receivers, senders] for each reader. */
function gates({ senders, readers }: EdgeLayout, n: number, value: (edge: Edge) => number): Record<string, Tensor> {
  return Object.fromEntries(
    readers.map((reader) => {
      const { receivers, reads } = reader
      const one = receivers.flatMap((receiver) => senders.slice(0, reads).map((sender) => value({ sender, receiver })))
      const all = Float32Array.from({ length: n * one.length }, (_, i) => one[i % one.length]!)
      return [gate(reader), float32([n, receivers.length, reads], all)]
    }),
  )
}
