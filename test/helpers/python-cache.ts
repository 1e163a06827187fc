/** @file The Hub cache by huggingface_hub's own rules, in plain code that shares nothing with src/hub
 * (https://huggingface.co/docs/huggingface_hub/guides/manage-cache). */
import { createHash } from "node:crypto"
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, statSync, symlinkSync, writeFileSync } from "node:fs" // prettier-ignore
import { dirname, join } from "node:path"
import type { StoredCommit } from "./hub/store.ts"

export const repoIn = (cache: string, id: string): string => join(cache, `models--${id.replace("/", "--")}`)

/** What try_to_load_from_cache gives: a path, "absent" where that is known, or undefined. */
export function pythonFinds(cache: string, id: string, revision: string, file: string): string | undefined {
  const repo = repoIn(cache, id)
  const ref = join(repo, "refs", revision)
  const commit = existsSync(ref) ? readFileSync(ref, "utf8") : revision
  if (existsSync(join(repo, ".no_exist", commit, file))) return "absent"
  const path = join(repo, "snapshots", commit, file)
  return existsSync(path) && statSync(path).isFile() ? path : undefined
}

/** "links": blobs and relative links; "copies": no links can be made; "shared": equal blobs of several repos lie once. */
export type Way = "links" | "copies" | "shared"

/** A cache as it is left when these files of a commit were loaded by these branches and tags. */
export function writePythonCache(
  cache: string,
  id: string,
  { id: commit, tree }: StoredCommit,
  files: ReadonlyMap<string, Uint8Array>,
  refs: readonly string[],
  way: Way = "links",
): string {
  const repo = repoIn(cache, id)
  const locks = join(cache, ".locks", `models--${id.replace("/", "--")}`)
  for (const folder of [join(repo, "snapshots", commit), join(repo, "blobs"), locks])
    mkdirSync(folder, { recursive: true })
  for (const [name, bytes] of files) {
    const { oid, lfs } = tree[name]!
    const etag = lfs?.oid ?? oid
    const path = join(repo, "snapshots", commit, name)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(join(locks, `${etag}.lock`), "")
    if (way === "copies") {
      writeFileSync(path, bytes)
      continue
    }
    const blob = join(repo, "blobs", etag)
    if (way === "shared" && lfs) {
      const start = etag.slice(0, 2)
      mkdirSync(join(cache, "blobs", start), { recursive: true })
      writeFileSync(join(cache, "blobs", ".huggingface-shared-blobs"), "1\n")
      writeFileSync(join(cache, "blobs", start, etag), bytes)
      symlinkSync(`../../blobs/${start}/${etag}`, blob)
    } else writeFileSync(blob, bytes)
    symlinkSync(`${"../".repeat(1 + name.split("/").length)}blobs/${etag}`, path)
  }
  for (const ref of refs) {
    mkdirSync(dirname(join(repo, "refs", ref)), { recursive: true })
    writeFileSync(join(repo, "refs", ref), commit)
  }
  return repo
}

/** What in a repo's folder of the cache is not as huggingface_hub lays it out. */
export function layoutProblems(repo: string): string[] {
  const problems: string[] = []
  const rule = (kept: boolean, what: string) => void (kept || problems.push(what))
  const names = (folder: string): string[] => {
    const at = join(repo, folder)
    return existsSync(at) ? readdirSync(at, { recursive: true, encoding: "utf8" }).sort() : []
  }
  for (const name of readdirSync(repo))
    rule(["blobs", "refs", "snapshots", "trees", ".no_exist"].includes(name), `${name} does not belong there`)
  const used = new Set<string>()
  for (const blob of names("blobs")) {
    const bytes = readFileSync(join(repo, "blobs", blob))
    const git = blob.length === 40
    const hash = createHash(git ? "sha1" : "sha256")
    if (git) hash.update(`blob ${bytes.length}\0`)
    rule(hash.update(bytes).digest("hex") === blob, `blobs/${blob} holds something else`)
  }
  for (const name of names("snapshots")) {
    const path = join(repo, "snapshots", name)
    const [commit, ...inside] = name.split("/")
    rule(/^[0-9a-f]{40}$/.test(commit!), `snapshots/${commit} is no commit`)
    if (lstatSync(path).isDirectory()) continue
    const link = lstatSync(path).isSymbolicLink() ? readlinkSync(path) : "none"
    const blob = link.slice(link.lastIndexOf("/") + 1)
    used.add(blob)
    rule(link === `${"../".repeat(1 + inside.length)}blobs/${blob}`, `snapshots/${name} is no relative link: ${link}`)
    rule(existsSync(path), `snapshots/${name} leads to nothing`)
  }
  for (const blob of names("blobs")) rule(used.has(blob), `blobs/${blob} is of no use`)
  for (const name of names("refs")) {
    const path = join(repo, "refs", name)
    if (lstatSync(path).isDirectory()) continue
    const text = readFileSync(path, "utf8")
    rule(/^[0-9a-f]{40}$/.test(text), `refs/${name} holds ${JSON.stringify(text)}`)
    rule(existsSync(join(repo, "snapshots", text)), `refs/${name} is of no snapshot`)
  }
  return problems
}
