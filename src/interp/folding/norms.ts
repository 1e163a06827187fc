/** @file A norm's weight and bias moved into the layers that read it; TransformerLens' fold_ln, with the centring of readers. */
import { fail } from "../../errors.ts"
import { layersOf, type Draft, type Tower } from "./draft.ts"

/** Norms that were folded, and those that could not be, with the reason. */
export interface Folded {
  readonly norms: readonly string[]
  readonly kept: readonly string[]
}

/**
 * norm(x) = xn * w + b with xn of mean 0, so a reader W, c of it becomes W diag(w), c + W b, and each of its rows may
 * lose its mean. The norm stays as it is built, with w = 1 and b = 0. Error: E_INPUT for post-norm blocks.
 */
export async function foldNorms(draft: Draft): Promise<Folded> {
  const norms: string[] = []
  for (const tower of draft.towers) norms.push(...(await foldBlocks(draft, tower)))
  const { vision, text } = draft.config
  if (vision.pool === "attention") norms.push(await fold(draft, "pool.ln", ["pool.mlp.in"]))
  if (text) {
    draft.configure("text.", { projectionBias: true })
    norms.push(await fold(draft, "text.ln_final", ["text.projection"]))
  }
  const kept: string[] = []
  for (const name of ["ln_final", "ln_pooled"] as const) {
    if (!draft.has(`${name}.weight`)) continue
    const because = outside(draft, name)
    if (because === undefined) norms.push(await fold(draft, name, readers(draft, name)))
    else kept.push(`${name}: ${because}`)
  }
  if (vision.lnPre) kept.push("ln_pre: what it gives is the residual stream itself")
  return { norms, kept }
}

async function foldBlocks(draft: Draft, tower: Tower): Promise<string[]> {
  const { norm = "pre", attnOnly, gatedMlp } = tower.config
  if (norm === "post") {
    fail(
      "E_INPUT",
      `the norms of ${draft.config.family} models cannot be folded: post-norm blocks norm the stream itself`,
    )
  }
  if (norm === "none") return []
  draft.configure(tower.prefix, { qkvBias: true, keyBias: true, ...(!attnOnly && { mlpBias: true }) })
  const done: string[] = []
  for (const at of layersOf(tower)) {
    done.push(
      await fold(
        draft,
        `${at}.ln1`,
        ["q", "k", "v"].map((kind) => `${at}.attn.${kind}`),
      ),
    )
    if (attnOnly) continue
    done.push(await fold(draft, `${at}.ln2`, [`${at}.mlp.in`, ...(gatedMlp ? [`${at}.mlp.linear`] : [])]))
    const d = tower.config.dModel
    if (!draft.has(`${at}.mlp.out.bias`)) draft.set(`${at}.mlp.out.bias`, [d], new Float32Array(d))
  }
  return done
}

/** Why a norm at the end cannot be folded; undefined where it can. */
function outside({ config: { vision } }: Draft, norm: "ln_final" | "ln_pooled"): string | undefined {
  const { outputs, pool } = vision
  const final = norm === "ln_final"
  if (final && outputs.includes("last_hidden_state") && !vision.rawHiddenState)
    return "last_hidden_state is what it gives"
  if (vision.reconstructs || pool === "distilled" || (final && pool === "attention")) return undefined
  if (final && vision.lnPooled) return "ln_pooled norms what it gives"
  if (vision.pooler && pool !== "none") return undefined
  if (outputs.includes("pooler_output")) return "pooler_output is what it gives"
  if (outputs.includes("image_embeds")) return "the projection that reads it has no bias"
  return vision.nClasses > 0 && pool !== "none" ? undefined : "nothing reads it"
}

/** The dense layers that read the norm at the end. */
function readers({ config: { vision } }: Draft, norm: "ln_final" | "ln_pooled"): string[] {
  if (vision.pool === "attention" && norm === "ln_final") return ["pool.attn.k", "pool.attn.v"]
  if (vision.pool === "distilled") return ["head", "head_dist"]
  return vision.pooler ? ["pooler"] : ["head"]
}

/** Fold one norm into its readers [out, in], whose input is the norm's width or a multiple of it. */
async function fold(draft: Draft, norm: string, dense: readonly string[]): Promise<string> {
  const [w, b] = [(await draft.get(`${norm}.weight`)).data, (await draft.get(`${norm}.bias`)).data]
  const d = w.length
  for (const name of dense) {
    const { shape, data } = await draft.get(`${name}.weight`)
    const [rows, width] = shape as [number, number]
    const shift = Float64Array.from(await draft.shift(`${name}.bias`, rows))
    const scaled = Float64Array.from(data)
    for (let at = 0; at < scaled.length; at += d) {
      let mean = 0
      for (let j = 0; j < d; j++) {
        shift[Math.floor(at / width)]! += data[at + j]! * b[j]!
        scaled[at + j] = data[at + j]! * w[j]!
        mean += scaled[at + j]! / d
      }
      for (let j = 0; j < d; j++) scaled[at + j]! -= mean
    }
    draft.set(`${name}.weight`, shape, scaled)
    draft.set(`${name}.bias`, [rows], shift)
  }
  draft.set(`${norm}.weight`, [d], new Float32Array(d).fill(1))
  draft.set(`${norm}.bias`, [d], new Float32Array(d))
  return norm
}
