/** @file The index of a sharded checkpoint, `{ metadata: { total_size }, weight_map: { tensor: shard } }`
 * (https://huggingface.co/docs/safetensors/metadata_parsing). */
import { fail } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import { type JsonRules, readJson } from "./json.ts"
import { safeRelPath } from "./paths.ts"
import { isRecord } from "../tensor/record.ts"

/** 5 MB hold the index of 50,000 tensors; the costliest JSON of that size takes 160 MiB while it is parsed. */
const RULES: JsonRules = { limit: 5_000_000, malformed: "E_INDEX", tooLarge: "E_INDEX" }
/** The largest published models have a few hundred. */
const MAX_SHARDS = 1000

export interface ShardIndex {
  /** The shards' names, each once, safe to join to the index's folder. */
  readonly shards: readonly string[]
  readonly shardOf: ReadonlyMap<string, string>
  /** Bytes of all tensors together, if the index says. */
  readonly totalSize: number | undefined
}

/** Read an index. Errors: E_INDEX, E_UNSAFE_PATH for a shard outside the index's folder, E_NOT_A_FILE, E_IO. */
export async function readShardIndex(path: string): Promise<ShardIndex> {
  const bad = (what: string): never => fail("E_INDEX", `${path}: ${what}`, { file: path })
  const root = await readJson(path, RULES)
  if (!isRecord(root)) return bad("must be an object with a weight_map")
  const { weight_map: map, metadata } = root
  if (!isRecord(map)) return bad("weight_map is missing or not an object; expected tensor names and their shards")
  const shardOf = new Map<string, string>()
  const shards = new Set<string>()
  for (const [name, shard] of Object.entries(map)) {
    if (typeof shard !== "string") return bad(`weight_map: the shard of ${quote(name)} is not a string`)
    if (!shards.has(shard)) shards.add(safeRelPath(shard, path))
    if (shards.size > MAX_SHARDS) bad(`weight_map names more than ${MAX_SHARDS} shards`)
    shardOf.set(name, shard)
  }
  if (shards.size === 0) bad("weight_map is empty")
  const totalSize = isRecord(metadata) && typeof metadata.total_size === "number" ? metadata.total_size : undefined
  return { shards: [...shards], shardOf, totalSize }
}
