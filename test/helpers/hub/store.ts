/** @file What the test Hub keeps, in a folder: contents by their hashes, and per repo its commits, branches and tags as JSON. */
import { createHash, randomBytes } from "node:crypto"
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"

/** A file of a commit; `lfs` where its content is stored apart. */
export interface TreeFile {
  /** git's hash of the content, or of the pointer that stands for it. */
  readonly oid: string
  readonly size: number
  readonly lfs?: { readonly oid: string; readonly size: number; readonly pointerSize: number }
}

export interface StoredCommit {
  readonly id: string
  readonly parents: readonly string[]
  readonly title: string
  readonly description: string
  readonly date: string
  readonly author: string
  readonly tree: Readonly<Record<string, TreeFile>>
}

export interface Meta {
  readonly id: string
  readonly type: "model" | "dataset" | "space"
  readonly private: boolean
  readonly gated: boolean
  readonly createdAt: string
}

export interface Refs {
  readonly branches: Record<string, string>
  readonly tags: Record<string, string>
}

export const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex")
/** git's hash of a blob. */
export const gitSha1 = (bytes: Uint8Array): string =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex")
export const pointerOf = (oid: string, size: number): Buffer =>
  Buffer.from(`version https://git-lfs.github.com/spec/v1\noid sha256:${oid}\nsize ${size}\n`)

const DEFAULT_ATTRIBUTES =
  ["bin", "ckpt", "gz", "h5", "msgpack", "npy", "npz", "onnx", "parquet", "pt", "pth", "safetensors"] // prettier-ignore
    .map((end) => `*.${end} filter=lfs diff=lfs merge=lfs -text\n`)
    .join("")

export type Store = ReturnType<typeof openStore>

export function openStore(root: string) {
  for (const folder of ["git", "lfs", "repos", "incoming"]) mkdirSync(join(root, folder), { recursive: true })
  const gitPath = (oid: string) => join(root, "git", oid)
  const lfsPath = (oid: string) => join(root, "lfs", oid)
  const repoPath = (id: string, ...rest: string[]) => join(root, "repos", id.replace("/", "--"), ...rest)
  const read = (path: string): unknown => JSON.parse(readFileSync(path, "utf8"))
  const write = (path: string, value: unknown) => {
    writeFileSync(`${path}.new`, JSON.stringify(value, undefined, 1))
    renameSync(`${path}.new`, path)
  }

  const meta = (id: string): Meta | undefined =>
    existsSync(repoPath(id, "meta.json")) ? (read(repoPath(id, "meta.json")) as Meta) : undefined
  const refs = (id: string): Refs => read(repoPath(id, "refs.json")) as Refs
  const setRefs = (id: string, value: Refs) => write(repoPath(id, "refs.json"), value)
  const commit = (id: string, oid: string): StoredCommit => read(repoPath(id, "commits", `${oid}.json`)) as StoredCommit

  function putGit(bytes: Uint8Array): TreeFile {
    const oid = gitSha1(bytes)
    if (!existsSync(gitPath(oid))) writeFileSync(gitPath(oid), bytes)
    return { oid, size: bytes.length }
  }
  /** The entry of a content that is stored apart and lies there already. */
  function lfsEntry(oid: string, size: number): TreeFile {
    const pointer = pointerOf(oid, size)
    return { ...putGit(pointer), size, lfs: { oid, size, pointerSize: pointer.length } }
  }
  function putLfs(bytes: Uint8Array): TreeFile {
    const oid = sha256(bytes)
    if (!existsSync(lfsPath(oid))) writeFileSync(lfsPath(oid), bytes)
    return lfsEntry(oid, bytes.length)
  }
  const hasLfs = (oid: string, size: number) => existsSync(lfsPath(oid)) && statSync(lfsPath(oid)).size === size

  /** Append a commit to a branch, which is made if it is not there. */
  function addCommit(
    id: string,
    branch: string,
    change: (tree: Record<string, TreeFile>) => void,
    about: {
      readonly title: string
      readonly description?: string
      readonly author?: string
      readonly parent?: string
    },
  ): StoredCommit {
    const all = refs(id)
    const parent = about.parent ?? all.branches[branch]
    const tree = { ...(parent === undefined ? {} : commit(id, parent).tree) }
    change(tree)
    const made: StoredCommit = {
      id: randomBytes(20).toString("hex"),
      parents: parent === undefined ? [] : [parent],
      title: about.title,
      description: about.description ?? "",
      date: new Date().toISOString(),
      author: about.author ?? "owner",
      tree,
    }
    write(repoPath(id, "commits", `${made.id}.json`), made)
    setRefs(id, { ...all, branches: { ...all.branches, [branch]: made.id } })
    return made
  }

  function createRepo(id: string, about: Partial<Meta> = {}): Meta {
    mkdirSync(repoPath(id, "commits"), { recursive: true })
    const made: Meta = {
      id,
      type: "model",
      private: false,
      gated: false,
      createdAt: new Date().toISOString(),
      ...about,
    }
    write(repoPath(id, "meta.json"), made)
    setRefs(id, { branches: {}, tags: {} })
    addCommit(id, "main", (tree) => (tree[".gitattributes"] = putGit(Buffer.from(DEFAULT_ATTRIBUTES))), { title: "initial commit" }) // prettier-ignore
    return made
  }

  /** The commit that a branch, tag, ref or (short) commit means. */
  function resolve(id: string, revision: string): StoredCommit | undefined {
    const { branches, tags } = refs(id)
    const name = revision === "HEAD" ? "main" : revision.replace(/^refs\/(heads|tags)\//, "")
    const oid = branches[name] ?? tags[name] ?? (/^[0-9a-f]{7,40}$/.test(name) ? commitIds(id).find((c) => c.startsWith(name)) : undefined) // prettier-ignore
    return oid === undefined ? undefined : commit(id, oid)
  }
  const commitIds = (id: string) => readdirSync(repoPath(id, "commits")).map((name) => name.replace(/\.json$/, ""))

  /** From the newest on. */
  function log(id: string, revision: string): StoredCommit[] {
    const all: StoredCommit[] = []
    for (let c = resolve(id, revision); c; c = c.parents[0] === undefined ? undefined : commit(id, c.parents[0])) all.push(c) // prettier-ignore
    return all
  }

  /** Where a file's content lies. */
  const contentPath = ({ oid, lfs }: TreeFile) => (lfs ? lfsPath(lfs.oid) : gitPath(oid))

  return {
    root,
    meta,
    refs,
    setRefs,
    commit,
    putGit,
    putLfs,
    lfsEntry,
    hasLfs,
    lfsPath,
    addCommit,
    createRepo,
    resolve,
    log,
    contentPath,
    pointerPath: ({ oid }: TreeFile) => gitPath(oid),
    readText: (file: TreeFile) => readFileSync(contentPath(file), "utf8"),
    incoming: () => join(root, "incoming", randomBytes(8).toString("hex")),
    removeRepo: (id: string) => rmSync(repoPath(id), { recursive: true }),
    rename: (from: string, to: string) => {
      renameSync(repoPath(from), repoPath(to))
      write(repoPath(to, "meta.json"), { ...(read(repoPath(to, "meta.json")) as Meta), id: to })
    },
    ids: () => readdirSync(join(root, "repos")).map((name) => name.replace("--", "/")),
  }
}

/** Does git's attribute file say that a file is stored apart? Patterns are `*.end`, a name or a path with stars. */
export const isLfsByAttributes = (attributes: string, path: string): boolean =>
  attributes.split("\n").some((line) => {
    const [pattern, ...rest] = line.trim().split(/\s+/)
    return pattern !== undefined && rest.includes("filter=lfs") && globMatches(pattern, path)
  })

/** git's way: a pattern without a slash is about the last part of a path. */
export function globMatches(pattern: string, path: string): boolean {
  const subject = pattern.includes("/") ? path : path.slice(path.lastIndexOf("/") + 1)
  const source = pattern
    .replace(/^\//, "")
    .replace(/[.+?^${}()|[\]\\]/g, "\\$&")
    .replaceAll("**", "\0")
    .replaceAll("*", "[^/]*")
    .replaceAll("\0", ".*")
  return new RegExp(`^${source}$`).test(subject)
}
