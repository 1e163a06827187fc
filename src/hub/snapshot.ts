/** @file Is what the cache has of a commit all that a model needs? */
import { readdir, stat } from "node:fs/promises"
import { join, resolve } from "node:path"
import { PrismaError } from "../errors.ts"
import { chooseWeights } from "../files/checkpoint.ts"
import { readJson } from "../files/json.ts"
import { readShardIndex } from "../files/shard-index.ts"
import { cachedSnapshot, corrupt, fileIn, isFile, type RepoPlace } from "./cache.ts"
import { MAX_SMALL, SMALL } from "./needed.ts"
import { readTree } from "./tree.ts"

/** Which files a model is made of. */
export interface Wanted {
  /** Pickles too. */
  readonly allowPickle: boolean
  /** The folder of the repo that it is in, with a slash at its end; empty for the root. */
  readonly prefix: string
}

export interface Found {
  /** The model's folder, a real path. */
  readonly folder: string
  /** What is missing, without which there is no model. */
  readonly missing: readonly string[]
  /** It is not known whether the repo has a preprocessor_config.json. */
  readonly unsure: boolean
}

/** What the cache has of a commit. Error: E_CACHE_CORRUPT for links that lead astray and files of another size than listed. */
export async function inspect(
  place: RepoPlace,
  commit: string,
  { allowPickle, prefix }: Wanted,
): Promise<Found | undefined> {
  const root = await cachedSnapshot(place, commit)
  if (root === undefined) return undefined
  const folder = resolve(root, prefix)
  const names: readonly string[] = await readdir(folder).catch(() => [])
  const config = ["config.json", "open_clip_config.json"].find((name) => names.includes(name))
  const weights = await weightsOf(folder, names, allowPickle)
  const missing = [...(config ? [] : ["config.json"]), ...weights.missing]
  const used = [...SMALL.filter((name) => names.includes(name)), ...weights.used]
  const tree = await readTree(place, commit)
  for (const name of used) {
    const file = tree?.get(`${prefix}${name}`)
    const { size } = await stat(await fileIn(folder, name))
    if (file && size !== file.size)
      corrupt(place.repo, join(folder, name), `has ${size} bytes, the Hub listed ${file.size}`)
  }
  return { folder, missing, unsure: missing.length === 0 && (await unsure(place, commit, folder, names, prefix)) }
}

async function weightsOf(folder: string, names: readonly string[], allowPickle: boolean) {
  let source: string
  try {
    source = chooseWeights(folder, names, allowPickle).source
  } catch (error) {
    if (!(error instanceof PrismaError)) throw error
    return { used: [], missing: ["model.safetensors"] }
  }
  if (!source.endsWith(".index.json")) return { used: [source], missing: [] }
  const { shards } = await readShardIndex(await fileIn(folder, source))
  const there = await Promise.all(shards.map((shard) => isFile(join(folder, shard))))
  const [used, missing] = [true, false].map((is) => shards.filter((_, i) => there[i] === is)) as [string[], string[]]
  return { used: [source, ...used], missing }
}

const RULES = { limit: MAX_SMALL, malformed: "E_CONFIG", tooLarge: "E_CONFIG_LIMIT" } as const

/** timm's and open_clip's configs say themselves what is done to images. */
async function unsure(
  place: RepoPlace,
  commit: string,
  folder: string,
  names: readonly string[],
  prefix: string,
): Promise<boolean> {
  const isKnown = ["preprocessor_config.json", "processor_config.json"].some((name) => names.includes(name))
  if (isKnown || !names.includes("config.json")) return false
  if (await isFile(place.absent(commit, `${prefix}preprocessor_config.json`))) return false
  const config = await readJson(await fileIn(folder, "config.json"), RULES).catch(() => undefined)
  return typeof config === "object" && config !== null && "model_type" in config
}
