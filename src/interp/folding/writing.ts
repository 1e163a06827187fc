/** @file What writes to the residual stream: centred, with its LayerScale, with the biases of the values. */
import { fail } from "../../errors.ts"
import { layersOf, type Draft, type Tower } from "./draft.ts"

/** The LayerScale of each block multiplied into the output weights, so that they alone say what is written. */
export async function foldLayerScale(draft: Draft): Promise<void> {
  for (const tower of draft.towers) {
    if (!tower.config.layerScale) continue
    expectOutput(draft, tower, "LayerScale")
    for (const at of layersOf(tower)) {
      for (const [scale, dense] of [
        ["ls1", "attn.out"],
        ["ls2", "mlp.out"],
      ] as const) {
        if (!draft.has(`${at}.${scale}.gamma`)) continue
        const gamma = (await draft.get(`${at}.${scale}.gamma`)).data
        for (const kind of ["weight", "bias"]) {
          if (draft.has(`${at}.${dense}.${kind}`)) await scaleRows(draft, `${at}.${dense}.${kind}`, gamma)
        }
        draft.remove(`${at}.${scale}.gamma`)
      }
    }
    draft.configure(tower.prefix, { layerScale: false })
  }
}

async function scaleRows(draft: Draft, name: string, gamma: Float32Array): Promise<void> {
  const { shape, data } = await draft.get(name)
  const width = data.length / gamma.length
  draft.set(
    name,
    shape,
    data.map((x, i) => x * gamma[Math.floor(i / width)]!),
  )
}

/**
 * Every weight that writes to the stream without its mean along the stream: each LayerNorm that reads the stream takes
 * the mean off anyway. TransformerLens' center_writing_weights. Error: E_INPUT where something reads the mean.
 */
export async function centreWriting(draft: Draft): Promise<void> {
  const { vision, family } = draft.config
  const refuse = (why: string): never => fail("E_INPUT", `${family}: writing weights cannot be centred: ${why}`)
  for (const tower of draft.towers) {
    const { norm = "pre", layerScale } = tower.config
    if (norm !== "pre") refuse(`${norm === "post" ? "post-norm" : "norm-free"} blocks read the mean of the stream`)
    if (layerScale) refuse("LayerScale stands behind them; fold it first (layerScale: true)")
    expectOutput(draft, tower, "writing weights")
  }
  const normed = vision.lnFinal || (vision.lnPooled && (vision.pool === "cls" || vision.pool === "mean"))
  if (!normed && vision.pool !== "none") refuse("no norm stands between the stream and the head")
  if (vision.outputs.includes("last_hidden_state") && (vision.rawHiddenState || !vision.lnFinal)) {
    refuse("last_hidden_state is the stream itself; ask for other outputs")
  }
  const embedded = ["pos", "cls", "dist", "reg", "mask"].map((name) => `embed.${name}`)
  if (!vision.lnPre) {
    for (const name of embedded) if (draft.has(name)) await centreAlong(draft, name, "rows")
    await centreAlong(draft, "embed.proj.weight", "columns")
    if (draft.has("embed.proj.bias")) await centreAlong(draft, "embed.proj.bias", "columns")
  }
  if (draft.config.text) for (const name of ["tokens", "pos"]) await centreAlong(draft, `text.embed.${name}`, "rows")
  for (const at of draft.towers.flatMap(layersOf)) {
    for (const name of ["attn.out.weight", "attn.out.bias", "mlp.out.weight", "mlp.out.bias"]) {
      if (draft.has(`${at}.${name}`)) await centreAlong(draft, `${at}.${name}`, "columns")
    }
  }
}

/** Take the mean off each row [n, d], or off each column [d, n], also of a vector [d]. */
async function centreAlong(draft: Draft, name: string, along: "rows" | "columns"): Promise<void> {
  const { shape, data } = await draft.get(name)
  const [d, n] = along === "rows" ? [shape.at(-1)!, data.length / shape.at(-1)!] : [shape[0]!, data.length / shape[0]!]
  const place = (i: number, j: number): number => (along === "rows" ? i * d + j : j * n + i)
  const out = Float64Array.from(data)
  for (let i = 0; i < n; i++) {
    let mean = 0
    for (let j = 0; j < d; j++) mean += data[place(i, j)]! / d
    for (let j = 0; j < d; j++) out[place(i, j)]! -= mean
  }
  draft.set(name, shape, out)
}

/**
 * The value biases moved into the output bias: a pattern's rows sum to 1, so each head adds W_O b_V whatever it sees.
 * TransformerLens' fold_value_biases. No longer so for a pattern that is edited to another sum.
 */
export async function foldValueBiases(draft: Draft): Promise<void> {
  for (const tower of draft.towers) {
    if (!tower.config.qkvBias) continue
    expectOutput(draft, tower, "value biases")
    for (const at of layersOf(tower)) await foldValues(draft, `${at}.attn`)
    draft.configure(tower.prefix, { attnOutBias: true })
  }
  if (draft.config.vision.pool === "attention") await foldValues(draft, "pool.attn")
}

async function foldValues(draft: Draft, attn: string): Promise<void> {
  const { shape, data } = await draft.get(`${attn}.out.weight`) // [d, h * e]
  const [d, width] = shape as [number, number]
  const values = (await draft.get(`${attn}.v.bias`)).data
  const shift = Float64Array.from(await draft.shift(`${attn}.out.bias`, d))
  for (let i = 0; i < d; i++) for (let j = 0; j < width; j++) shift[i]! += data[i * width + j]! * values[j]!
  draft.set(`${attn}.out.bias`, [d], shift)
  draft.set(`${attn}.v.bias`, [width], new Float32Array(width))
}

/** Error: E_INPUT where attention has no output projection. */
export function expectOutput({ config: { family } }: Draft, { config }: Tower, what: string): void {
  if (config.attnOutIdentity) {
    fail("E_INPUT", `${family}: ${what} cannot be folded: attention has no output projection`)
  }
}
