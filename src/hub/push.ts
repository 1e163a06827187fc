/** @file A folder to a repo of the Hub: what differs goes up, in one commit; pushed again, nothing does (docs/upload.md). */
import { basename, resolve } from "node:path"
import { fail } from "../errors.ts"
import { repoId } from "../files/paths.ts"
import { account, apiUrl, createBranch, createRepo, posted, protocol, refsOf, repoName, setTag } from "./api.ts"
import { checkRevision, isCommit } from "./cache.ts"
import { stepOfTag, tagOf } from "./checkpoints.ts"
import type { DownloadProgress } from "./download.ts"
import { blobHash } from "./hash.ts"
import { interrupted } from "./http-errors.ts"
import { hubHttp, type HubHttp } from "./http.ts"
import { filesAt, type RepoFile } from "./listing.ts"
import { HOURLY, recentCommits, waitFor } from "./push-budget.ts"
import { commitFiles, type Committed } from "./push-commit.ts"
import { type Content, pathInRepo, refuseSecret, type Skipped } from "./push-folder.ts"
import { type Large, uploadLarge } from "./push-large.ts"
import { MAX_STEPS, type Plan, planOf } from "./push-plan.ts"
import { hubSettings, type HubOptions } from "./settings.ts"
import { fieldsOf } from "../tensor/record.ts"

export interface PushOptions extends Pick<HubOptions, "endpoint" | "token" | "offline"> {
  /** Of a repo that is made; public by default. */
  readonly private?: boolean | undefined
  /** "main"; one that is not there begins at main. */
  readonly branch?: string | undefined
  /** The commit's title. */
  readonly message?: string | undefined
  /** A folder of the repo; by default its root. */
  readonly path?: string | undefined
  /**
   * What becomes of a run's checkpoints: each a commit of the branch "checkpoints" with a tag "step-1200", or folders
   * "checkpoints/step-00001200" in the one commit. By default revisions, and folders where there are more than 18 and the
   * repo has none of them as revisions yet.
   */
  readonly checkpoints?: "revisions" | "folders" | "none" | undefined
  /** Send nothing, tell what would be sent. */
  readonly dryRun?: boolean | undefined
  readonly onProgress?: ((progress: Omit<DownloadProgress, "commit">) => void) | undefined
  readonly onWait?: ((text: string) => void) | undefined
  readonly signal?: AbortSignal | undefined
  /** In place of one of the settings' own. */
  readonly http?: HubHttp
}

export interface Change {
  readonly path: string
  readonly size: number
  readonly is: "added" | "modified"
}

/** A checkpoint that goes up as a revision. */
export interface PushedStep {
  readonly step: number
  readonly tag: string
  /** Undefined where it is not there yet: in a dry run. */
  readonly commit?: string
  readonly changes: readonly Change[]
}

export interface Pushed {
  readonly repo: string
  readonly branch: string
  readonly url: string
  /** The repo was made, or would be. */
  readonly created: boolean
  /** What the branch means now; undefined in the dry run of a repo that is not there. */
  readonly commit?: string
  /** A commit was made. */
  readonly committed: boolean
  readonly changes: readonly Change[]
  readonly unchanged: number
  /** Bytes that went to the store of large files. */
  readonly sent: number
  readonly skipped: readonly Skipped[]
  readonly checkpoints: readonly PushedStep[]
  /** Checkpoints that wait for a later push, so that no more than 20 commits of the repo are made in an hour. */
  readonly left: readonly number[]
  /** When they can go up, or the first 18 of them; undefined where none is left. */
  readonly leftUntil?: string
}

const BRANCH = "checkpoints"
/** Files asked about in one request, and bytes of each that are shown. */
const [ASKED, SAMPLE] = [100, 512]
/** Files that say how others are stored; those of a push count for it already. */
const RULES = [
  ["gitAttributes", ".gitattributes"],
  ["gitIgnore", ".gitignore"],
] as const

/**
 * Push a folder. Nothing of the repo is taken away; files that are there already are not sent. Errors: E_HUB_AUTH (no token,
 * or one that may not write) before anything is read; E_INPUT, E_UNSAFE_PATH, E_SECRET_FOUND, E_CARD of the folder before
 * anything is sent; E_HUB_CONFLICT; E_CHANGED_DURING_READ; those of the Hub. After each of them the same call goes on.
 */
export async function pushFolder(folder: string, repo: string, options: PushOptions = {}): Promise<Pushed> {
  const { signal, dryRun = false, path = "" } = options
  const settings = await hubSettings(options)
  const http = options.http ?? hubHttp({ ...settings, ...(options.onWait && { onWait: options.onWait }) })
  if (typeof folder !== "string") fail("E_INPUT", `the folder to push must be text, got ${typeof folder}`)
  const given = repoId(repo)
  const branch = branchOf(given, options.branch ?? "main")
  const prefix = path === "" ? "" : pathInRepo(path)
  const { message = `Upload ${basename(resolve(folder))}` } = options
  const shown = { "the message": message, "the branch": branch, "the path": path, "the repo's name": given }
  for (const [where, text] of Object.entries(shown)) refuseSecret(text, where)
  const who = await account(http, signal)
  if (who.role === "read") fail("E_HUB_AUTH", `${http.endpoint}: the token of ${who.name} may only read; give one that may write`) // prettier-ignore
  const wanted = given.includes("/") ? given : `${who.name}/${given}`
  const goOn = () => {
    if (signal?.aborted)
      throw interrupted(signal, { url: `${http.endpoint}/${wanted}`, repo: wanted, authorized: true })
  }
  const there = await repoName(http, wanted, signal)
  const tagsOf = async (): Promise<ReadonlyMap<string, string>> =>
    there === undefined ? new Map<string, string>() : (await refsOf(http, there, signal)).tags
  const hasSteps = async () => [...(await tagsOf()).keys()].some((tag) => stepOfTag(tag) !== undefined)
  const plan = await planOf(folder, wanted, { how: options.checkpoints, hasSteps, goOn })
  // Each push would put the model over the last checkpoint, and that over the model.
  if (branch === BRANCH && plan.steps.length) fail("E_USAGE", `${wanted}: the branch ${BRANCH} is that of the revisions; give another --branch, or --checkpoints folders`) // prettier-ignore
  if (there === undefined && !dryRun) await createRepo(http, wanted, options.private ?? false, signal)
  const tags = plan.steps.length ? await tagsOf() : new Map<string, string>()
  const id = there ?? wanted
  const push = new Push(http, id, options, there !== undefined || !dryRun, goOn)
  const { ignored, ...main } = await push.branch(branch, prefix, plan.contents, message)
  const { done, ...rest } = await push.steps(plan.steps, tags, branch, main)
  return {
    repo: id,
    branch,
    url: `${http.endpoint}/${id}`,
    created: there === undefined,
    ...main,
    sent: push.sent,
    skipped: [...plan.skipped, ...ignored.map((path) => ({ path, why: "is named by the repo's .gitignore" }))],
    checkpoints: done,
    ...rest,
  }
}

function branchOf(repo: string, branch: string): string {
  if (!isCommit(branch)) return checkRevision(repo, branch)
  return fail("E_REVISION", `${repo}: a commit cannot be pushed to; give a branch`, { repo })
}

const changeOf = ({ path, size }: Content, before: ReadonlyMap<string, RepoFile>): Change => ({
  path,
  size,
  is: before.has(path) ? "modified" : "added",
})

async function hashOf(content: Content, kind: "sha256" | "git", goOn: () => void): Promise<string> {
  const hash = blobHash(kind === "git" ? "0".repeat(40) : "0".repeat(64), content.size)
  for await (const piece of content.blob().stream()) {
    goOn()
    hash.update(piece)
  }
  await content.check()
  return hash.hex()
}

/** What one call has to do with one repo. */
class Push {
  sent = 0
  /** The Hub has taken a request that only those who may write here may send. */
  private mayWrite = false

  constructor(
    readonly http: HubHttp,
    readonly repo: string,
    readonly options: PushOptions,
    /** The repo is; false in a dry run alone. */
    readonly isThere: boolean,
    /** Throws where the push is to end. */
    readonly goOn: () => void,
  ) {}

  /** Commit what a branch lacks of `contents`. */
  async branch(branch: string, prefix: string, contents: readonly Content[], message: string, from = "main") {
    const { http, repo, options } = this
    const { dryRun = false, signal } = options
    const placed = prefix ? contents.map((c) => ({ ...c, path: `${prefix}${c.path}` })) : contents
    let parent = await this.head(branch)
    if (parent === undefined && !dryRun) {
      await createBranch(http, repo, branch, from)
      parent = await this.head(branch)
      if (parent === undefined)
        return protocol(apiUrl(http, repo, "refs"), repo, `lists no branch ${branch} after it was made`)
    }
    const at = parent ?? (await this.head("main"))
    const listed = at === undefined ? [] : await filesAt(http, repo, at)
    const before = new Map(listed.map((file) => [file.path, file]))
    const differing = await this.differing(placed, before)
    const modes = at === undefined ? undefined : await this.modes(parent === undefined ? "main" : branch, differing)
    const wanted = differing.filter(({ path }) => modes?.get(path) !== "ignored")
    const changes = wanted.map((content) => changeOf(content, before))
    const ignored = differing.filter(({ path }) => modes?.get(path) === "ignored").map(({ path }) => path)
    const result = { changes, ignored, unchanged: placed.length - differing.length, committed: false, ...(parent !== undefined && { commit: parent }) } // prettier-ignore
    if (dryRun || !wanted.length || parent === undefined || !modes) return result
    const committed: Committed[] = []
    for (const content of wanted) {
      const etag = await hashOf(content, modes.get(content.path) === "lfs" ? "sha256" : "git", this.goOn)
      committed.push({ ...content, etag })
    }
    await this.upload(committed.filter(({ etag }) => etag.length === 64))
    const commit = await commitFiles(http, { repo, branch, message, parent, before, files: committed, signal })
    return { ...result, committed: true, commit }
  }

  /** Checkpoints, each a commit with a tag, after what went to a branch. */
  async steps(
    all: Plan["steps"],
    tags: ReadonlyMap<string, string>,
    branch: string,
    { commit: from, changes: before }: { readonly commit?: string; readonly changes: readonly Change[] },
  ) {
    const { dryRun = false } = this.options
    const done: PushedStep[] = []
    const left: number[] = []
    let ages: number[] | undefined
    for (const { step, contents } of all) {
      const tag = tagOf(step)
      const tagged = tags.get(tag)
      const changes =
        tagged === undefined ? contents.map((c) => changeOf(c, new Map())) : await this.changed(contents, tagged)
      if (!changes.length) {
        done.push({ step, tag, ...(tagged !== undefined && { commit: tagged }), changes })
        continue
      }
      // A dry run has not made that of the branch.
      ages ??= [...(await this.recent(branch)), ...(dryRun && before.length ? [0] : [])]
      if (ages.length >= HOURLY) {
        left.push(step)
        continue
      }
      if (dryRun) {
        done.push({ step, tag, changes })
        ages.push(0)
        continue
      }
      const { commit, committed } = await this.branch(BRANCH, "", contents, `Step ${step}`, from)
      if (committed) ages.push(0)
      await setTag(this.http, this.repo, tag, commit!, tagged)
      done.push({ step, tag, ...(commit !== undefined && { commit }), changes })
    }
    if (!ages || !left.length) return { done, left }
    const ms = waitFor(Math.min(left.length, MAX_STEPS), ages)
    return { done, left, leftUntil: new Date(this.http.clock.now() + ms).toISOString() }
  }

  /** How long ago the repo's commits of the last hour were made; a repo begins with one. */
  private async recent(branch: string): Promise<readonly number[]> {
    if (!this.isThere) return [0]
    const { branches } = await refsOf(this.http, this.repo, this.options.signal)
    const some = new Set(["main", branch, BRANCH].filter((name) => branches.has(name)))
    return recentCommits(this.http, this.repo, some, this.options.signal)
  }

  private async changed(contents: readonly Content[], commit: string): Promise<Change[]> {
    const before = new Map((await filesAt(this.http, this.repo, commit)).map((file) => [file.path, file]))
    return (await this.differing(contents, before)).map((content) => changeOf(content, before))
  }

  /** Those that a commit with the files `before` has not, or has with other bytes. */
  private async differing(
    contents: readonly Content[],
    before: ReadonlyMap<string, RepoFile>,
  ): Promise<readonly Content[]> {
    const found: Content[] = []
    for (const content of contents) {
      const is = before.get(content.path)
      const isAlike = is?.size === content.size
      // What a token may do with this very repo, its account does not tell; who may not write is refused before any is hashed.
      if (isAlike && !this.mayWrite) await this.modes("main", [content])
      const same = isAlike && (await hashOf(content, is.etag.length === 40 ? "git" : "sha256", this.goOn)) === is.etag
      if (!same) found.push(content)
    }
    return found
  }

  /** What a branch means; undefined where there is none, or no repo. */
  private async head(branch: string): Promise<string | undefined> {
    const { http, repo, options } = this
    if (!this.isThere) return undefined
    return (await refsOf(http, repo, options.signal)).branches.get(branch)
  }

  /** How the Hub wants each file: apart, with the commit, or not at all, as the repo's .gitignore says. */
  private async modes(
    branch: string,
    contents: readonly Content[],
  ): Promise<Map<string, "lfs" | "regular" | "ignored">> {
    const { http, repo, options } = this
    const url = apiUrl(http, repo, "preupload", branch)
    const rules: Record<string, string> = {}
    for (const [name, file] of RULES) {
      const own = contents.find(({ path }) => path === file)
      if (own) rules[name] = await new Response(own.blob().stream()).text()
    }
    const modes = new Map<string, "lfs" | "regular" | "ignored">()
    for (let at = 0; at < contents.length; at += ASKED) {
      const some = contents.slice(at, at + ASKED)
      const files: { path: string; size: number; sample: string }[] = []
      for (const { path, size, blob } of some) {
        const start = await new Response(blob(0, Math.min(size, SAMPLE)).stream()).arrayBuffer()
        files.push({ path, size, sample: Buffer.from(start).toString("base64") })
      }
      const asked = { ...posted({ ...rules, files }), repo }
      const answer = fieldsOf(await http.json(url, { ...asked, ...(options.signal && { signal: options.signal }) }))
      const told = Array.isArray(answer["files"]) ? answer["files"].map(fieldsOf) : []
      for (const { path } of some) {
        const { uploadMode, shouldIgnore } = told.find((file) => file["path"] === path) ?? {}
        if (uploadMode !== "lfs" && uploadMode !== "regular") protocol(url, repo, `does not say how ${path} is stored`)
        modes.set(path, shouldIgnore === true ? "ignored" : uploadMode)
      }
      this.mayWrite = true
    }
    return modes
  }

  private async upload(files: readonly Committed[]): Promise<void> {
    const { http, repo, options } = this
    const large: Large[] = files.map((file) => ({ ...file, oid: file.etag }))
    const total = large.reduce((n, { size }) => n + size, 0)
    const done = new Map<string, number>()
    const onBytes = ({ path, size }: Large, n: number) => {
      done.set(path, n)
      const totalDone = [...done.values()].reduce((a, b) => a + b, 0)
      options.onProgress?.({ repo, file: path, done: n, size, totalDone, total })
    }
    this.sent += await uploadLarge(http, repo, large, { signal: options.signal, onBytes })
  }
}
