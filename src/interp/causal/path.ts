/**
 * @file Path patching: one component's change, sent to one reader alone, everything else frozen (arXiv:2211.00593,
 * arXiv:2304.05969).
 *
 * Two runs on the base: in the first every other component's output is what it was, so that a reader meets the sender's
 * change alone, through whatever norms lie between; in the second the readers are given what they met there.
 */
import { fail } from "../../errors.ts"
import { add } from "../../graph/ops.ts"
import { float32, size, type Tensor } from "../../tensor/tensor.ts"
import type { ModelInput } from "../feeds.ts"
import { imageMetric, type Metric } from "../gradients.ts"
import type { HookedViT } from "../hooked-vit.ts"
import { checkSite, writeSite, type Site } from "./sites.ts"
import { imagesIn, sourceRows, valuesAt } from "./sources.ts"

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
  /** The run that is changed: images [n, c, H, W]; of a dual encoder also `input_ids`. */
  readonly base: ModelInput
  /** Images of the run that the sender's value comes from, one for each of the base or one for all. */
  readonly source: Tensor
  readonly sender: Sender
  readonly receivers: readonly Receiver[]
  /** One number for each image. */
  readonly metric: Metric
  /** Tokens at which the sender's change counts; all where left out. */
  readonly tokens?: readonly number[]
}

/**
 * The metric of each image with the sender's change in the receivers' inputs; of several receivers none meets what the
 * others make of it, but the end meets all. Errors: E_HOOK, E_INPUT.
 */
export async function pathPatch(model: HookedViT, options: PathOptions): Promise<number[]> {
  const { base, source, sender, receivers, metric, tokens } = options
  if (!receivers.length) fail("E_INPUT", `no receiver was named; one is ${RECEIVERS}`)
  for (const r of receivers) checkEdge(model, sender, r)
  const site: Site = { ...senderSite(sender), ...(tokens && { tokens }) }
  checkSite(model, site)
  const hooks = [...new Set(receivers.map((r) => receiverHook(model, r)))]
  const others = written(model).filter((hook) => hook !== writtenHook(sender))
  const n = imagesIn(model, base).shape[0]!
  const ours = await valuesAt(model, base, [...new Set([...others, ...hooks, site.hook])])
  const theirs = (await sourceRows(model, { run: source }, n, n)([site.hook], 0, n)).get(site.hook)!
  const frozen = Object.fromEntries(others.map((hook) => [hook, ours.get(hook)!]))
  const changed = mixed(model, [site], ours.get(site.hook)!, theirs)
  const met = await model.run(base, { patch: { ...frozen, [site.hook]: changed }, outputs: hooks })

  const end = receiverHook(model, { input: "end" })
  const patch = hooks.flatMap((hook) => {
    const sites = receivers.flatMap((r) =>
      receiverHook(model, r) === hook ? [{ hook, ...("head" in r && { head: r.head }) }] : [],
    )
    return hook === end ? [] : [[hook, mixed(model, sites, ours.get(hook)!, met[hook] as Tensor<"float32">)] as const]
  })
  const change = hooks.includes(end) && less(met[end] as Tensor<"float32">, ours.get(end)!)
  const { value } = await model.run(base, {
    patch: Object.fromEntries(patch),
    ...(change && { inputs: { [CHANGE]: change }, edit: { [end]: (x, _, at) => add(x, at(CHANGE)) } }),
    outputs: (view) => ({ value: imageMetric(metric, view) }),
  })
  return Array.from(value!.data as Float32Array)
}

const CHANGE = "path.change"

/** Where a sender's own value is, and what it then writes to the stream. */
function senderSite(sender: Sender): Site {
  if ("embed" in sender) return { hook: "blocks.0.hook_resid_pre" }
  const at = `blocks.${sender.layer}`
  return "head" in sender ? { hook: `${at}.attn.hook_z`, head: sender.head } : { hook: `${at}.hook_mlp_out` }
}
const writtenHook = (sender: Sender): string =>
  "head" in sender ? `blocks.${sender.layer}.hook_attn_out` : senderSite(sender).hook

/** What every block adds to the stream. */
const written = ({ hooks }: HookedViT): string[] =>
  [...hooks.keys()].filter((name) => /^blocks\.\d+\.hook_(attn|mlp)_out$/.test(name))

/** A value with these sites of another. */
function mixed(
  model: HookedViT,
  sites: readonly Site[],
  own: Tensor<"float32">,
  other: Tensor<"float32">,
): Tensor<"float32"> {
  const out = float32(own.shape, Float32Array.from(own.data))
  const row = size(own.shape.slice(1))
  for (let at = 0; at < out.data.length; at += row) {
    const from = at % other.data.length // of one row it is everybody's
    for (const site of sites)
      writeSite(model, site, out.data.subarray(at, at + row), other.data.subarray(from, from + row))
  }
  return out
}

const less = (a: Tensor<"float32">, b: Tensor<"float32">): Tensor<"float32"> =>
  float32(
    a.shape,
    a.data.map((x, i) => x - b.data[i]!),
  )

/** The hook of a receiver's own input. */
export function receiverHook({ config }: HookedViT, receiver: Receiver): string {
  if (receiver.input === "end") return `blocks.${config.vision.nLayers - 1}.hook_resid_post`
  return `blocks.${receiver.layer}.hook_${receiver.input === "mlp" ? "mlp_in" : `${receiver.input}_input`}`
}

const SENDERS = "{ layer, head }, { layer, mlp: true } or { embed: true }"
const RECEIVERS = '{ layer, head, input: "q", "k" or "v" }, { layer, input: "mlp" } or { input: "end" }'

/** A receiver comes after its sender; errors (E_INPUT) name what is there. */
export function checkEdge({ config }: HookedViT, sender: Sender, receiver: Receiver): void {
  const { nLayers, nHeads } = config.vision
  const layer = (l: number) =>
    (Number.isInteger(l) && l >= 0 && l < nLayers) ||
    fail("E_INPUT", `layer ${l} does not exist; the model has layers 0 to ${nLayers - 1}`)
  const head = (h: number) =>
    (Number.isInteger(h) && h >= 0 && h < nHeads) ||
    fail("E_INPUT", `head ${h} does not exist; the model has heads 0 to ${nHeads - 1}`)
  if (!("embed" in sender)) {
    if ("head" in sender === "mlp" in sender) fail("E_INPUT", `a sender is ${SENDERS}, got ${JSON.stringify(sender)}`)
    layer(sender.layer)
    if ("head" in sender) head(sender.head)
  }
  if (receiver.input === "end") return
  const known =
    receiver.input === "mlp" ? !("head" in receiver) : ["q", "k", "v"].includes(receiver.input) && "head" in receiver
  if (!known) fail("E_INPUT", `a receiver is ${RECEIVERS}, got ${JSON.stringify(receiver)}`)
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
