/** @file What a model's source is by its content: the commit of a repo, or a hash over the files of a folder. */
import { readdir, realpath, stat } from "node:fs/promises"
import { join } from "node:path"
import { sha256 } from "../datasets/whole.ts"
import { digestOf } from "../files/digest.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"

export interface Identity {
  /** Changes whenever the files may have changed: names, sizes, times. */
  readonly stamp: string
  /** The same for the same content, wherever it lies. */
  readonly digest: string
}

/** Configs, tokenizers and vocabularies. */
const SMALL = /\.(json|txt|model)$/

/** What `model` was loaded from. Where the stamp is that of `known`, nothing is read. Errors: E_NOT_A_FILE, E_IO. */
export async function sourceIdentity({ source }: LoadedViT, known?: Identity): Promise<Identity> {
  if (source.commit !== undefined) {
    const digest = `${source.name}@${source.commit}`
    return { stamp: digest, digest }
  }
  const weights = new Set(source.checkpoint.files)
  const files: { readonly name: string; readonly path: string; readonly stamp: string }[] = []
  for (const name of (await readdir(source.folder)).sort()) {
    const path = await realpath(join(source.folder, name)).catch(() => undefined)
    if (path === undefined || !(SMALL.test(name) || weights.has(path))) continue
    const stamp = await fileStamp(path)
    if (stamp !== undefined) files.push({ name, path, stamp })
  }
  const stamp = sha256(...files.flatMap((f) => [f.name, f.stamp]))
  if (known?.stamp === stamp) return known
  const parts: string[] = []
  for (const { name, path } of files) parts.push(name, (await digestOf(path)).sha256)
  return { stamp, digest: sha256(...parts) }
}

/** Changes whenever a file is written or replaced; undefined for what is no ordinary file. */
export async function fileStamp(path: string): Promise<string | undefined> {
  const stats = await stat(path, { bigint: true }).catch(() => undefined)
  return stats?.isFile() ? `${stats.ino}:${stats.size}:${stats.mtimeNs}` : undefined
}
