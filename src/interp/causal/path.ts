/**
 * @file Path patching: one component's change, sent to one reader alone, everything else frozen (arXiv:2211.00593,
 * arXiv:2304.05969).
 *
 * A sender writes to the residual stream. Between it and the reader every other component keeps its value, so what the
 * reader meets is its own input plus the change of what the sender wrote: no run but the sender's is needed to know it.
 */
import { fail } from "../../errors.ts"
import { float32, size, type Tensor } from "../../tensor/tensor.ts"
import { scalarMetric, type Metric } from "../gradients.ts"
import type { HookedViT } from "../hooked-vit.ts"
import { valuesAt } from "./sources.ts"

/** A head's output, an MLP's, or the embeddings: the stream before the first block. */
export type Sender =
  | { readonly layer: number; readonly head: number }
  | { readonly layer: number; readonly mlp: true }
  | { readonly embed: true }

/** A head's queries, keys or values; an MLP's input; or the end of the stream, that is all outputs. */
export type Receiver =
  | { readonly layer: number; readonly head: number; readonly input: "q" | "k" | "v" }
  | { readonly layer: number; readonly input: "mlp" }
  | { readonly input: "end" }

export interface PathOptions {
  /** The run that is changed, images [n, c, H, W], and the run that the sender's value comes from. */
  readonly base: Tensor
  readonly source: Tensor
  readonly sender: Sender
  readonly receivers: readonly Receiver[]
  /** One number for each image. */
  readonly metric: Metric
  /** Tokens at which the sender's change counts; all where left out. */
  readonly tokens?: readonly number[]
}

/** The metric of each image with the sender's change in the receivers' inputs. Errors: E_HOOK, E_INPUT. */
export async function pathPatch(model: HookedViT, options: PathOptions): Promise<number[]> {
  const { base, source, sender, receivers, metric, tokens } = options
  for (const r of receivers) checkEdge(model, sender, r)
  const change = await changeOf(model, base, source, sender, tokens)
  const patch = new Map<string, Tensor<"float32">>()
  for (const receiver of receivers) {
    const name = receiverHook(model, receiver)
    const own = patch.get(name) ?? copyOf((await valuesAt(model, base, [name])).get(name)!)
    patch.set(name, own)
    const [n, T, d] = change.shape as readonly [number, number, number]
    const heads = own.shape.length === 4 ? own.shape[2]! : 1
    const head = "head" in receiver ? receiver.head : 0
    for (let row = 0; row < n * T; row++)
      for (let i = 0; i < d; i++) own.data[(row * heads + head) * d + i]! += change.data[row * d + i]!
  }
  const { value } = await model.run(base, {
    patch: Object.fromEntries(patch),
    outputs: (view) => ({ value: scalarMetric(metric, view) }),
  })
  return Array.from(value!.data as Float32Array)
}

/** What the sender writes to the stream in the source's run less what it writes in the base's: [n, T, d]. */
async function changeOf(
  model: HookedViT,
  base: Tensor,
  source: Tensor,
  sender: Sender,
  tokens: readonly number[] | undefined,
): Promise<Tensor<"float32">> {
  const at = `blocks.${"embed" in sender ? 0 : sender.layer}`
  const own = "embed" in sender ? `${at}.hook_resid_pre` : "head" in sender ? `${at}.attn.hook_z` : `${at}.hook_mlp_out`
  const written = "head" in sender ? `${at}.hook_attn_out` : own
  const ours = await valuesAt(model, base, [...new Set([own, written])])
  const theirs = (await valuesAt(model, source, [own])).get(own)!
  const before = ours.get(written)!
  const after = "head" in sender ? await withHead(model, base, own, written, sender.head, ours, theirs) : theirs
  if (String(before.shape) !== String(after.shape)) {
    fail("E_INPUT", `base and source must have as many images, got ${before.shape[0]} and ${after.shape[0]}`)
  }
  const [, T, d] = before.shape as readonly [number, number, number]
  const counts = (token: number) => !tokens || tokens.includes(token)
  return float32(
    before.shape,
    before.data.map((x, i) => (counts(Math.floor(i / d) % T) ? after.data[i]! - x : 0)),
  )
}

/** What attention writes where one head's output is the source's. */
async function withHead(
  model: HookedViT,
  base: Tensor,
  z: string,
  written: string,
  head: number,
  ours: ReadonlyMap<string, Tensor<"float32">>,
  theirs: Tensor<"float32">,
): Promise<Tensor<"float32">> {
  const mixed = copyOf(ours.get(z)!)
  const [, , h, e] = mixed.shape as readonly [number, number, number, number]
  for (let i = 0; i < mixed.data.length; i++) {
    if (Math.floor(i / e) % h === head) mixed.data[i] = theirs.data[i]!
  }
  const got = await model.run(base, { patch: { [z]: mixed }, outputs: [written] })
  return got[written] as Tensor<"float32">
}

/** The hook of a receiver's own input. */
export function receiverHook({ config }: HookedViT, receiver: Receiver): string {
  if (receiver.input === "end") return `blocks.${config.vision.nLayers - 1}.hook_resid_post`
  return `blocks.${receiver.layer}.hook_${receiver.input === "mlp" ? "mlp_in" : `${receiver.input}_input`}`
}

/**
 * A receiver comes after its sender; errors (E_INPUT) name what is there. In a post-norm model what is written goes
 * through the norms on its way, so that no reader's input is a sum of it: refused.
 */
export function checkEdge({ config }: HookedViT, sender: Sender, receiver: Receiver): void {
  const { nLayers, nHeads, norm } = config.vision
  if (norm === "post")
    fail("E_INPUT", "paths and edges need a stream that is a sum; a post-norm model norms it at each block")
  const layer = (l: number) =>
    (Number.isInteger(l) && l >= 0 && l < nLayers) ||
    fail("E_INPUT", `layer ${l} does not exist; the model has layers 0 to ${nLayers - 1}`)
  const head = (h: number) =>
    (Number.isInteger(h) && h >= 0 && h < nHeads) ||
    fail("E_INPUT", `head ${h} does not exist; the model has heads 0 to ${nHeads - 1}`)
  if (!("embed" in sender)) layer(sender.layer)
  if ("head" in sender) head(sender.head)
  if (receiver.input === "end") return
  layer(receiver.layer)
  if ("head" in receiver) head(receiver.head)
  if ("embed" in sender) return
  const later =
    receiver.layer > sender.layer || (receiver.layer === sender.layer && "head" in sender && receiver.input === "mlp")
  if (later) return
  const from = "head" in sender ? `head ${sender.head}` : "the MLP"
  fail(
    "E_INPUT",
    `the receiver in layer ${receiver.layer} does not read ${from} of layer ${sender.layer}, which writes after it`,
  )
}

const copyOf = ({ shape, data }: Tensor<"float32">): Tensor<"float32"> => {
  const copy = new Float32Array(size(shape))
  copy.set(data)
  return float32(shape, copy)
}
