/** @file One model of a batch: converted, unless its output is there by the same content key and whole. */
import { stat } from "node:fs/promises"
import { join } from "node:path"
import { sha256 } from "../datasets/whole.ts"
import { fail } from "../errors.ts"
import { convertModel } from "../export/convert.ts"
import { readJson } from "../files/json.ts"
import { checkManifest } from "../files/manifest.ts"
import { repoId } from "../files/paths.ts"
import { type LoadedViT, loadPretrained } from "../hub/load-pretrained.ts"
import { pushFolder } from "../hub/push.ts"
import { byteLength } from "../tensor/tensor.ts"
import { version } from "../version.ts"
import type { JobContext } from "./child.ts"
import { sourceIdentity } from "./identity.ts"
import { type ConvertJob, type JobValue, repoNameOf } from "./job.ts"
import { doneBefore, knownSource, outputBytes, recordBegun, recordDone } from "./record.ts"

/** Errors: those of loadPretrained, convertModel and pushFolder; E_OUTPUT where something else stands at the output's name. */
export async function convertJob(job: ConvertJob, { reserve, progress }: JobContext): Promise<JobValue> {
  const { out, slug, certify = false, tolerance, hooks, inputs } = job
  repoOf(job) // a name that no repo may have costs no conversion
  const model = await loadPretrained(job.model, job)
  try {
    const source = await sourceIdentity(model, await knownSource(job))
    const { allowPickle, imageSize } = job
    const options = { hooks, inputs, certify, tolerance, allowPickle, imageSize }
    const key = sha256("convert", version, source.digest, JSON.stringify(options))
    const folder = join(out, slug)
    const before = await doneBefore(job, key, () => measured(job))
    if (before) return { already: true, ...before, ...(await pushed(job, folder)) }
    if (!job.force) await refuseForeign(folder)
    await reserve(neededBytes(model, job))
    await recordBegun(job, { key, source })
    const { warnings } = await convertModel(model, folder, {
      ...(hooks?.length && { hooks }),
      ...(inputs?.length && { inputs }),
      ...(tolerance !== undefined && { tolerance }),
      certify,
      force: true,
      onProgress: progress,
    })
    const value = { ...(await measured(job)), ...(warnings.length && { warnings }) }
    await recordDone(job, { key, source }, value)
    return { already: false, ...value, ...(await pushed(job, folder)) }
  } finally {
    await model.release()
  }
}

/** Its repo's commit; that of before where nothing differs. */
async function pushed(job: ConvertJob, folder: string): Promise<Pick<JobValue, "pushed">> {
  const repo = repoOf(job)
  if (repo === undefined) return {}
  const { commit } = await pushFolder(folder, repo, { offline: job.offline, private: job.private })
  return commit === undefined ? {} : { pushed: commit }
}

const repoOf = ({ push, slug }: ConvertJob): string | undefined =>
  push === undefined ? undefined : repoId(`${push}/${repoNameOf(slug)}`)

/** What the output itself says of it. */
async function measured(job: ConvertJob): Promise<Omit<JobValue, "already">> {
  const path = join(job.out, job.slug, "manifest.json")
  const about = (await readJson(path, MANIFEST)) as { readonly certificate?: { readonly worst?: number } }
  const worst = about.certificate?.worst
  return { bytes: await outputBytes(job), ...(worst !== undefined && { worst }) }
}

const MANIFEST = { limit: 2 ** 24, malformed: "E_INTEGRITY", tooLarge: "E_INTEGRITY" } as const

/** What this package wrote, whole or damaged, is replaced; anything else is not. */
async function refuseForeign(folder: string): Promise<void> {
  const found = await stat(folder).catch(() => undefined)
  if (found === undefined) return
  const ours = found.isDirectory() && (await checkManifest(folder, () => false))
  if (!ours) fail("E_OUTPUT", `${folder}: holds something else; move it, choose another --out or give --force`)
}

const MIB = 2 ** 20

/**
 * Bytes that converting holds at its peak beyond those of its process: one tensor is looked through at a time as float32;
 * certifying reads all weights as float64 and keeps every value that is put out, of one image, several times. Of a ViT-B/16
 * 106 MiB were measured, certified 798, certified with all hooks 1311; in all three cases more is asked for.
 */
function neededBytes(model: LoadedViT, { certify = false, hooks = [] }: ConvertJob): number {
  const { tensors } = model.source.checkpoint
  const largest = Math.max(...[...tensors.values()].map((t) => byteLength({ ...t, dtype: "float32" })))
  const values = hooks.length ? model.cacheBytes({ names: hooks, texts: 2 }) : 0
  return 64 * MIB + 3 * largest + (certify ? 10 * model.nParameters + 6 * values : 0)
}
