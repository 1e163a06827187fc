/**
 * @file `npm run bench:interp`: what patching and attribution cost, in forward passes of the bench's own ViT-B/16.
 *
 * `-- --all` runs all 12 x 197 patches once besides the sample; `--json` prints JSON.
 */
import { readFileSync } from "node:fs"
import { parseArgs } from "node:util"
import { attributionPatching } from "../src/interp/causal/attribution.ts"
import type { Source } from "../src/interp/causal/sources.ts"
import { denoise } from "../src/interp/causal/patching.ts"
import { sitesOf, type Site } from "../src/interp/causal/sites.ts"
import { loadPretrained } from "../src/index.ts"
import { checkpoint, images } from "./checkpoint.ts"
import { median } from "./measure.ts"

const { values: options } = parseArgs({
  options: {
    all: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
    rounds: { type: "string", default: "5" },
  },
})
const { model: path } = await checkpoint()
const model = await loadPretrained(path)
const pair = images(2)
const half = pair.data.length / 2
const one = (i: number) => ({
  ...pair,
  shape: [1, ...pair.shape.slice(1)],
  data: pair.data.slice(i * half, (i + 1) * half),
})
const [clean, corrupt] = [one(0), one(1)]
const metric = "logits[:, 0]"
const { nLayers } = model.config.vision

const HOOKS = [
  "blocks.*.hook_resid_*",
  "blocks.*.hook_attn_out",
  "blocks.*.hook_mlp_out",
  "blocks.*.attn.hook_q",
  "blocks.*.attn.hook_k",
  "blocks.*.attn.hook_v",
  "blocks.*.attn.hook_z",
  "blocks.*.attn.hook_pattern",
  "blocks.*.mlp.hook_p*",
]

/** Of three in a row: all are measured as warm as a forward pass. */
const ofThree = async (work: () => Promise<unknown>) => median([await ms(work), await ms(work), await ms(work)])

async function ms(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now()
  await work()
  return performance.now() - start
}
const patches = async (sites: readonly Site[]) => {
  let n = 0
  for await (const _ of denoise(model, { clean, corrupt, sites, metric })) n += 1
  return n
}
const residentMiB = () => Number(/RssAnon:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? NaN) / 1024

const all = sitesOf(model, "blocks.*.hook_resid_pre", ["token"])
const tokens = all.length / nLayers
// Of each layer the same tokens, evenly spread: 16 of 197.
const sample = all.filter((_, i) => (i % tokens) % Math.ceil(tokens / 16) === 0)
const forward = () => model.run(corrupt)
/** Against zero, against a run that is in a cache, and with that run. */
const attribute = (source: Source) => attributionPatching(model, { base: corrupt, source, hooks: HOOKS, metric })

await forward()
await patches(sample.filter((_, i) => i % 4 === 0))
const { cache } = await model.runWithCache(clean, { names: HOOKS })
const SOURCES: Readonly<Record<string, Source>> = { zero: { zero: true }, cache: { cache }, run: { run: clean } }
for (const source of Object.values(SOURCES)) await attribute(source)
const rows = {
  forward: [] as number[],
  patch: [] as number[],
  zero: [] as number[],
  cache: [] as number[],
  run: [] as number[],
}
for (let i = 0; i < Number(options.rounds); i++) {
  const forwards = [await ms(forward), await ms(forward), await ms(forward)]
  rows.forward.push(median(forwards))
  const sweepMs = await ms(() => patches(sample))
  const later = [await ms(forward), await ms(forward), await ms(forward)]
  const pass = median([...forwards, ...later])
  rows.patch.push(sweepMs / (sample.length * pass))
  for (const name of ["zero", "cache", "run"] as const) {
    rows[name].push((await ofThree(() => attribute(SOURCES[name]!))) / pass)
  }
  process.stderr.write(
    `round ${i + 1}: forward ${pass.toFixed(0)} ms, a patch ${rows.patch.at(-1)!.toFixed(3)}, attribution ${[rows.zero, rows.cache, rows.run].map((r) => r.at(-1)!.toFixed(2)).join(", ")} forwards\n`,
  )
}
const few = residentMiB()
await patches(all.slice(-tokens, -tokens + 8))
const afterFew = residentMiB()
await patches(all.slice(-tokens))
const afterMany = residentMiB()
const result = {
  sites: sample.length,
  of: all.length,
  forwardMs: median(rows.forward),
  patchForwards: median(rows.patch),
  attributionForwards: { zero: median(rows.zero), cache: median(rows.cache), run: median(rows.run) },
  anonymousMiB: { before: few, after8: afterFew, after197: afterMany },
}
if (options.json) console.log(JSON.stringify(result, undefined, 2))
else {
  console.log("| figure | limit | median |\n|---|---|---|")
  console.log(
    `| one of ${all.length} patches of resid_pre, in forwards of one image (${result.forwardMs.toFixed(0)} ms), from ${sample.length} of them | 0.55 | ${result.patchForwards.toFixed(3)} |`,
  )
  const { zero, cache: kept, run } = result.attributionForwards
  console.log(`| attribution of all hooks against zero, in forwards | 2.5 | ${zero.toFixed(2)} |`)
  console.log(`| against another image's cached values | 2.5 | ${kept.toFixed(2)} |`)
  console.log(`| against another image, its own run with all hooks included | | ${run.toFixed(2)} |`)
  console.log(
    `| private memory before, after 8 and after 197 patches of a layer, MiB | flat | ${few.toFixed(0)}, ${afterFew.toFixed(0)}, ${afterMany.toFixed(0)} |`,
  )
}
if (options.all) {
  const pass = await ofThree(forward)
  const whole = await ms(() => patches(all))
  console.log(
    `all ${all.length} patches: ${(whole / 1000).toFixed(1)} s, ${(whole / all.length / pass).toFixed(3)} forwards each`,
  )
}
await model.release()
