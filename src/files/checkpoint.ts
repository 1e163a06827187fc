/** @file A folder of weights as the Hub lays it out: one file, or shards with an index; safetensors before pickles. */
import { readdir, realpath, stat } from "node:fs/promises"
import { join } from "node:path"
import { fail, listed } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import type { TensorEntry } from "../tensor/safetensors-header.ts"
import { byteLength, type StoredTensor, type Tensor } from "../tensor/tensor.ts"
import { blobFolders } from "./blob-folders.ts"
import { isWithin } from "./paths.ts"
import { openSafetensors } from "./safetensors-file.ts"
import { readShardIndex, type ShardIndex } from "./shard-index.ts"
import { readError, systemCode } from "./system-errors.ts"

type Format = "safetensors" | "pickle"

export interface Checkpoint {
  readonly format: Format
  /** The name, inside the folder, of the weight file or shard index that was chosen. */
  readonly source: string
  /** Others of its format that are there too and that it goes before. */
  readonly unused: readonly string[]
  /** Real paths of the files that hold the weights. */
  readonly files: readonly string[]
  readonly tensors: ReadonlyMap<string, StoredTensor | Tensor>
  /** Tensors of formats that have no dtype here, such as F8_E4M3. */
  readonly opaque: ReadonlyMap<string, TensorEntry>
  readonly warnings: readonly string[]
}

/** The names weights go by, in the order they are looked for: the order of transformers, then open_clip's, then pickles. */
const NAMES: readonly (readonly [name: string, format: Format])[] = [
  ["model.safetensors", "safetensors"],
  ["model.safetensors.index.json", "safetensors"],
  ["open_clip_model.safetensors", "safetensors"],
  ["open_clip_model.safetensors.index.json", "safetensors"],
  ["pytorch_model.bin", "pickle"],
  ["pytorch_model.bin.index.json", "pickle"],
  ["open_clip_pytorch_model.bin", "pickle"],
  ["model.pth", "pickle"],
  ["model.bin", "pickle"],
]
const LONE_PICKLE = /\.(pth|pt)$/

const CONVERT = "https://huggingface.co/spaces/safetensors/convert"

interface Weights {
  readonly path: string
  readonly tensors: ReadonlyMap<string, StoredTensor | Tensor>
  readonly opaque: ReadonlyMap<string, TensorEntry>
  readonly warnings: readonly string[]
}

const OPEN: { [F in Format]: (path: string) => Promise<Weights> } = {
  safetensors: async (path) => {
    const file = await openSafetensors(path)
    const entries = [...file.entries.values()]
    return {
      path: file.path,
      tensors: new Map(entries.filter((e) => e.dtype !== undefined).map((e) => [e.name, file.stored(e.name)])),
      opaque: new Map(entries.filter((e) => e.dtype === undefined).map((e) => [e.name, e])),
      warnings: file.warnings,
    }
  },
  pickle: async (path) => {
    const { openTorchFile } = await import("./torch-file.ts")
    return { path, tensors: await openTorchFile(path), opaque: new Map(), warnings: [] }
  },
}

/** Open the weights in the folder `dir`, reading headers only. Pickles are opened where `allowPickle` is true and there is no
 * safetensors. Errors: E_HUB_NOT_FOUND (no weights), E_UNSAFE_FORMAT (pickles only), E_INPUT (no such folder), E_INDEX,
 * E_SHARD_MISSING, E_INDEX_MISMATCH, E_DUPLICATE_TENSOR, E_UNSAFE_PATH, E_CACHE_CORRUPT, and those of the files. */
export async function openCheckpoint(dir: string, { allowPickle = false } = {}): Promise<Checkpoint> {
  const place = await placeOf(dir)
  const { source, format, unused } = chooseWeights(
    dir,
    await readdir(place.folder).catch((e: unknown) => readError(e, dir)),
    allowPickle,
  )
  const warnings = unused.map((name) => `${dir}: ${name} is there too and was not used; ${source} goes before it`)
  const path = await locate(place, source, "pointer")
  if (!source.endsWith(".index.json")) {
    const weights = await OPEN[format](path)
    const { tensors, opaque } = weights
    const found = { format, source, unused, files: [weights.path], tensors, opaque }
    return { ...found, warnings: [...warnings, ...weights.warnings] }
  }
  const index = await readShardIndex(join(dir, source))
  const paths = await locateShards(place, index, join(dir, source))
  const shards = new Map<string, Weights>()
  for (const [name, path] of paths) shards.set(name, await OPEN[format](path))
  const { tensors, opaque, bytes } = merge(shards, index, join(dir, source))
  for (const shard of shards.values()) warnings.push(...shard.warnings)
  if (index.totalSize !== undefined && index.totalSize !== bytes) {
    warnings.push(`${join(dir, source)}: total_size is ${index.totalSize}, the tensors have ${bytes} bytes`)
  }
  return { format, source, unused, files: [...shards.values()].map((s) => s.path), tensors, opaque, warnings }
}

export function chooseWeights(dir: string, names: readonly string[], allowPickle: boolean) {
  const lone = names.filter((name) => LONE_PICKLE.test(name))
  const known = NAMES.filter(([name]) => names.includes(name))
  const found = known.length === 0 && lone.length === 1 ? [[lone[0]!, "pickle"] as const] : known
  if (found.length === 0) {
    const tried = [...NAMES.map(([name]) => name), "a single .pth or .pt file"].join(", ")
    const several = lone.length > 1 ? `; there are ${lone.length} .pth and .pt files, keep one` : ""
    return fail("E_HUB_NOT_FOUND", `${dir}: holds no weights; looked for ${tried}${several}`, { file: dir })
  }
  const [source, format] = found[0]!
  if (format === "pickle" && !allowPickle) {
    const what = `holds weights only as a pickle (${source}), which can carry code; convert it at ${CONVERT}`
    fail("E_UNSAFE_FORMAT", `${dir}: ${what} or, if you trust it, read it with --allow-pickle`, { file: dir })
  }
  const unused = found.slice(1).filter(([, other]) => other === format)
  return { source, format, unused: unused.map(([name]) => name) }
}

interface Place {
  readonly dir: string
  /** The real path of the folder. */
  readonly folder: string
  /** The real paths of the folders of blobs that its links may lead to, if it is a snapshot in a Hub cache. */
  readonly blobs: readonly string[] | undefined
}

const SNAPSHOT = /^(.*[\\/](?:models|datasets|spaces)--[^\\/]+)[\\/]snapshots[\\/]/

async function placeOf(dir: string): Promise<Place> {
  const folder = await realpath(dir).catch(() => fail("E_INPUT", `${dir}: no such folder`, { file: dir }))
  if (!(await stat(folder)).isDirectory())
    fail("E_INPUT", `${dir}: is not a folder; give the folder it is in`, { file: dir })
  const repo = SNAPSHOT.exec(`${folder}/`)?.[1]
  return { dir, folder, blobs: repo === undefined ? undefined : await blobFolders(repo) }
}

/** The real path of a file of the folder. A snapshot's file lies in it or in `blobs`; a shard, which foreign text names, lies
 * in the folder or in `blobs`; a user's own single file may be a link to anywhere. */
async function locate({ dir, folder, blobs }: Place, name: string, kind: "pointer" | "shard"): Promise<string> {
  const path = join(dir, name)
  const corrupt = (what: string): never =>
    fail("E_CACHE_CORRUPT", `${path}: ${what}; delete this snapshot and download it again`, { file: path })
  const real = await realpath(join(folder, name)).catch((e: unknown) => {
    if (blobs !== undefined && systemCode(e) === "ENOENT") corrupt("points to a blob that is not there")
    return readError(e, path)
  })
  if ([folder, ...(blobs ?? [])].some((home) => isWithin(home, real))) return real
  if (kind === "shard")
    fail("E_UNSAFE_PATH", `${path}: is a link out of its folder; shards must lie in it`, { file: path })
  if (blobs !== undefined) corrupt("points outside the cache's blobs")
  return real
}

async function locateShards(place: Place, { shards }: ShardIndex, index: string): Promise<ReadonlyMap<string, string>> {
  const missing: string[] = []
  for (const name of shards) {
    await stat(join(place.folder, name)).catch((e: unknown) => {
      if (["ENOENT", "ENOTDIR"].includes(systemCode(e) ?? "")) missing.push(name)
      else readError(e, join(place.dir, name))
    })
  }
  if (missing.length > 0) {
    const what = `${missing.length} of ${shards.length} shards are missing: ${listed(missing, Infinity)}`
    fail("E_SHARD_MISSING", `${index}: ${what}; download them`, { file: index })
  }
  const paths = new Map<string, string>()
  for (const name of shards) paths.set(name, await locate(place, name, "shard"))
  return paths
}

/** All shards' tensors, each once and where the index says. */
function merge(shards: ReadonlyMap<string, Weights>, { shardOf }: ShardIndex, index: string) {
  const tensors = new Map<string, StoredTensor | Tensor>()
  const opaque = new Map<string, TensorEntry>()
  const home = new Map<string, string>()
  const wrong: string[] = []
  let bytes = 0
  for (const [shard, weights] of shards) {
    for (const name of [...weights.tensors.keys(), ...weights.opaque.keys()]) {
      const other = home.get(name)
      if (other !== undefined) {
        const what = `tensor ${quote(name)} is in ${quote(other)} and in ${quote(shard)}; expected it once`
        fail("E_DUPLICATE_TENSOR", `${index}: ${what}`, { file: index, tensor: name })
      }
      home.set(name, shard)
      const said = shardOf.get(name)
      if (said === undefined) wrong.push(`${quote(name)} of ${quote(shard)} is not in the index`)
      else if (said !== shard) wrong.push(`${quote(name)} is in ${quote(shard)}, not in ${quote(said)}`)
    }
    for (const [name, t] of weights.tensors) {
      tensors.set(name, t)
      bytes += byteLength(t)
    }
    for (const [name, entry] of weights.opaque) {
      opaque.set(name, entry)
      bytes += entry.end - entry.begin
    }
  }
  for (const name of shardOf.keys()) if (!home.has(name)) wrong.push(`${quote(name)} is in no shard`)
  if (wrong.length > 0) {
    fail("E_INDEX_MISMATCH", `${index}: does not fit its shards: ${listed(wrong)}; download all again`, { file: index })
  }
  return { tensors, opaque, bytes }
}
