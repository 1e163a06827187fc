/** @file From a repo id to a folder with what a model needs: from the cache where it has it, else from the Hub into the cache. */
import { stat } from "node:fs/promises"
import { join, resolve } from "node:path"
import { type ErrorCode, fail, listed, PrismaError } from "../errors.ts"
import { makeFolder, writeFileAtomic } from "../files/atomic.ts"
import { writeLink } from "../files/links.ts"
import { withLock } from "../files/lock-file.ts"
import { parallel } from "../files/parallel.ts"
import { safeRelPath } from "../files/paths.ts"
import { resumableBytes } from "../files/resumable.ts"
import { readShardIndex } from "../files/shard-index.ts"
import {
  cachedCommit,
  cachedSnapshot,
  checkRevision,
  isCommit,
  isFile,
  notCached,
  repoPlace,
  type RepoPlace,
} from "./cache.ts"
import { hubHttp, type HubHttp } from "./http.ts"
import { commitOf, filesAt, type RepoFile } from "./listing.ts"
import { MAX_SMALL, needed } from "./needed.ts"
import { hubSettings, type HubOptions, type HubSettings } from "./settings.ts"
import { inspect, type Wanted } from "./snapshot.ts"
import { sweepRepo } from "./sweep.ts"
import { checkSpace } from "./space.ts"
import { transfer } from "./transfer.ts"
import { readTree, writeTree } from "./tree.ts"

/** How far a download is. */
export interface DownloadProgress {
  readonly repo: string
  readonly commit: string
  /** The file of which bytes came, and how many of its bytes are there. */
  readonly file: string
  readonly done: number
  readonly size: number
  /** Bytes of all files that are known to be needed; the shards are known once their index is there. */
  readonly totalDone: number
  readonly total: number
}

export interface DownloadOptions extends HubOptions {
  /** Branch, tag or commit; "main". */
  readonly revision?: string | undefined
  /** The folder of the repo that the model is in; by default its root. */
  readonly subfolder?: string | undefined
  /** Download PyTorch pickles where there is no safetensors. */
  readonly allowPickle?: boolean | undefined
  /** Given the path of the model's config before its weights are fetched; throws where they are not wanted. */
  readonly seeConfig?: ((path: string) => Promise<void>) | undefined
  readonly onProgress?: ((progress: DownloadProgress) => void) | undefined
  /** Told at once why a request waits; by default such lines are among the warnings. */
  readonly onWait?: ((text: string) => void) | undefined
  readonly signal?: AbortSignal | undefined
  /** In place of one of the settings' own. */
  readonly http?: HubHttp
}

export interface Snapshot {
  /** The real path of snapshots/<commit>. */
  readonly folder: string
  readonly repo: string
  readonly commit: string
  readonly warnings: readonly string[]
}

/** Files that come at once. */
const WIDTH = 4

/** Failures for which what is in the cache already is used, with a warning. */
const UNREACHED: ReadonlySet<ErrorCode> = new Set([
  "E_NETWORK", "E_HUB_TIMEOUT", "E_HUB_UNAVAILABLE", "E_HUB_RATE_LIMIT", "E_HUB_PROTOCOL", "E_HUB_AUTH", "E_HUB_GATED", "E_HUB_NOT_FOUND",
]) // prettier-ignore
/** Those for which it may lack files that a model can do without. */
const UNKEPT: ReadonlySet<ErrorCode> = new Set([...UNREACHED, "E_OUTPUT"])

/**
 * The files of a model in the Hub cache. What is there is used: a commit without a request, a branch or tag after one that
 * asks for its commit. What is not there is downloaded. Offline nothing is asked.
 *
 * Errors: E_REPO_ID, E_REVISION, E_OFFLINE, E_HUB_*, E_NETWORK, E_INTEGRITY, E_UNSAFE_PATH, E_UNSAFE_FORMAT,
 * E_CACHE_CORRUPT, E_CACHE_READONLY, E_DISK_FULL, E_IO, E_INTERRUPTED.
 */
export async function downloadModel(id: string, options: DownloadOptions = {}): Promise<Snapshot> {
  const { revision = "main", allowPickle = false, subfolder } = options
  const wanted: Wanted = { allowPickle, prefix: subfolder ? `${safeRelPath(subfolder, "subfolder")}/` : "" }
  const settings = await hubSettings(options)
  const place = repoPlace(settings.cacheDir, id)
  checkRevision(place.repo, revision)
  const warnings = [...settings.warnings]
  const warn = (text: string) => void warnings.push(text)
  const cached = await cachedCommit(place, revision)
  const found = (folder: string, commit: string): Snapshot => ({ folder, repo: place.repo, commit, warnings })

  if (settings.offline) {
    const there = cached && (await inspect(place, cached, wanted))
    if (there && !there.missing.length) return found(there.folder, cached)
    return offlineWithout(place, revision, there ? there.missing : [])
  }
  if (cached) await sweepRepo(place, cached)
  if (isCommit(revision)) {
    const there = await inspect(place, revision, wanted)
    if (there && !there.missing.length && !there.unsure) return found(there.folder, revision)
  }
  const http = options.http ?? hubHttp({ ...settings, onWait: options.onWait ?? warn })
  const commit = await currentCommit(http, place, revision, cached, settings, warn, options.signal)
  if (commit !== cached) await sweepRepo(place, commit)
  const there = await inspect(place, commit, wanted)
  if (there && !there.missing.length && !there.unsure) {
    await keepRef(place, revision, commit).catch(unlessReadonly)
    return found(there.folder, commit)
  }
  try {
    await bring(http, place, revision, commit, { ...options, ...wanted }, settings)
  } catch (error) {
    const usable = there && !there.missing.length && error instanceof PrismaError && UNKEPT.has(error.code)
    if (!usable) throw readonly(lacking(error, place, revision, there?.missing ?? []), settings)
    warn(`${place.repo}: it is not known whether it has more files: ${error.message}`)
  }
  return found(resolve((await cachedSnapshot(place, commit))!, wanted.prefix), commit)
}

/** The commit that the Hub has for a revision; where it cannot be asked, the one in the cache. */
async function currentCommit(
  http: HubHttp,
  place: RepoPlace,
  revision: string,
  cached: string | undefined,
  { freshness }: HubSettings,
  warn: (text: string) => void,
  signal: AbortSignal | undefined,
): Promise<string> {
  if (isCommit(revision)) return revision
  const there = cached !== undefined && (await cachedSnapshot(place, cached)) !== undefined
  // News of what is there already is not worth a long wait.
  const short = there ? { tries: 1, stall: freshness } : {}
  try {
    return await commitOf(http, place.repo, revision, { ...short, ...(signal && { signal }) })
  } catch (error) {
    if (!(error instanceof PrismaError)) throw error
    if (there && UNREACHED.has(error.code)) {
      warn(
        `${place.repo}: commit ${cached} of ${revision} is used, as it is in the cache; news of it: ${error.message}`,
      )
      return cached
    }
    if (error.code !== "E_HUB_NOT_FOUND") throw error
    const what = await notCached(place, revision)
    return fail("E_HUB_NOT_FOUND", `${what}; nor on the Hub: ${error.message}`, {
      repo: place.repo,
      ...(error.url && { url: error.url }),
      cause: error,
    })
  }
}

async function offlineWithout(place: RepoPlace, revision: string, missing: readonly string[]): Promise<never> {
  const what = missing.length
    ? `${place.repo} at revision ${revision} lacks ${listed(missing, 5)} in the Hub cache (${place.folder})`
    : await notCached(place, revision)
  const how = `offline is set (HF_HUB_OFFLINE or --offline); load it once with a network, or run "hf download ${place.repo}" where there is one`
  return fail("E_OFFLINE", `${what}; ${how}`, { repo: place.repo })
}

type Bringing = Omit<DownloadOptions, "allowPickle"> & Wanted

/** List the repo, fetch what a model needs of it, and make the snapshot; the ref comes last. */
async function bring(
  http: HubHttp,
  place: RepoPlace,
  revision: string,
  commit: string,
  options: Bringing,
  settings: HubSettings,
): Promise<void> {
  const { repo } = place
  const { prefix, allowPickle } = options
  const all = await filesAt(http, repo, commit)
  // By their paths in the model's folder.
  const below = all.filter(({ path }) => path.startsWith(prefix))
  const files = new Map(below.map((file) => [file.path.slice(prefix.length), file]))
  const { config, small, weights, absent } = needed([...files.keys()], `${repo} at revision ${revision}`, allowPickle)
  await makeFolder(place.snapshot(commit))
  await tag(place.cache)
  const get = fetcher(http, place, commit, options, settings)
  const isIndex = weights.endsWith(".index.json")
  const configs = [...small, ...(isIndex ? [weights] : [])].map((name) => files.get(name)!)
  for (const { path, size } of configs) {
    if (size > MAX_SMALL) {
      const what = `${path} of ${repo}: ${size} bytes, above the limit of ${MAX_SMALL} for such a file`
      fail(path.endsWith(".index.json") ? "E_INDEX" : "E_CONFIG_LIMIT", what, { repo, file: path })
    }
  }
  // A snapshot that has all its files is not looked at again, so what is known of them comes first.
  if (!(await readTree(place, commit))) await writeTree(place, commit, all)
  for (const name of absent) {
    const path = place.absent(commit, `${prefix}${name}`)
    if (!(await isFile(path))) await writeFileAtomic(path, "")
  }
  const whole = isIndex ? [] : [files.get(weights)!]
  await get(configs, whole)
  await options.seeConfig?.(join(place.snapshot(commit), prefix, config))
  await get(isIndex ? await shardsOf(place, commit, prefix, weights, files) : whole)
  await keepRef(place, revision, commit)
}

async function shardsOf(
  place: RepoPlace,
  commit: string,
  prefix: string,
  index: string,
  files: ReadonlyMap<string, RepoFile>,
): Promise<RepoFile[]> {
  const { shards } = await readShardIndex(join(place.snapshot(commit), prefix, index))
  const missing = shards.filter((shard) => !files.has(shard))
  if (missing.length) {
    const what = `${missing.length} of ${shards.length} shards are not in the repo: ${listed(missing)}`
    fail("E_SHARD_MISSING", `${index} of ${place.repo}: ${what}`, { repo: place.repo, file: index })
  }
  return shards.map((shard) => files.get(shard)!)
}

/** Fetches files that the cache lacks, and links all of them into the snapshot; there is to be room for what comes `later`. */
function fetcher(http: HubHttp, place: RepoPlace, commit: string, options: Bringing, { noSymlinks }: HubSettings) {
  const { onProgress, signal } = options
  const done = new Map<RepoFile, number>()
  const report = (file: RepoFile, bytes: number) => {
    done.set(file, bytes)
    if (!onProgress) return
    let [totalDone, total] = [0, 0]
    for (const [{ size }, n] of done) {
      totalDone += n
      total += size
    }
    onProgress({ repo: place.repo, commit, file: file.path, done: bytes, size: file.size, totalDone, total })
  }
  const has = async ({ etag, size }: RepoFile) =>
    stat(place.blob(etag)).then(
      (s) => s.isFile() && s.size === size,
      () => false,
    )
  return async (files: readonly RepoFile[], later: readonly RepoFile[] = []): Promise<void> => {
    const all = [...files, ...later]
    const there = await Promise.all(all.map(has))
    for (const [i, file] of all.entries()) done.set(file, there[i] ? file.size : 0)
    const lacking = all.filter((_, i) => !there[i])
    const begun = await Promise.all(lacking.map((file) => resumableBytes(place.blob(file.etag))))
    await checkSpace(place.cache, lacking.reduce((n, f, i) => n + Math.max(0, f.size - begun[i]!), 0)) // prettier-ignore
    const now = lacking.filter((file) => files.includes(file))
    await parallel(now, WIDTH, async (file, failed) => {
      const stop = signal ? AbortSignal.any([signal, failed]) : failed
      const target = place.blob(file.etag)
      const fetched = async () => {
        // Another process may have fetched it while this one waited.
        if (await has(file)) return
        const onBytes = (n: number) => report(file, n)
        await transfer({ http, repo: place.repo, commit, file, target, signal: stop, onBytes })
      }
      await withLock(place.lock(file.etag), fetched, { signal: stop })
      report(file, file.size)
    })
    for (const { path, etag } of files) {
      await writeLink(join(place.snapshot(commit), ...path.split("/")), place.blob(etag), { copy: noSymlinks })
    }
  }
}

async function keepRef(place: RepoPlace, revision: string, commit: string): Promise<void> {
  if (revision === commit || (await cachedCommit(place, revision).catch(() => undefined)) === commit) return
  await writeFileAtomic(place.ref(revision), commit)
}

/** So that backups pass over the cache (https://bford.info/cachedir/). */
async function tag(cache: string): Promise<void> {
  const path = join(cache, "CACHEDIR.TAG")
  if (await isFile(path)) return
  const text = "Signature: 8a477f597d28d172789f06886806bc55\n# This is a cache of the Hugging Face Hub.\n"
  await writeFileAtomic(path, text).catch(() => {})
}

/** A failure to fetch what a snapshot lacks says so. */
function lacking(error: unknown, { repo, folder }: RepoPlace, revision: string, missing: readonly string[]): unknown {
  if (!missing.length || !(error instanceof PrismaError && UNREACHED.has(error.code))) return error
  const what = `${repo} at revision ${revision} lacks ${listed(missing, 5)} in the Hub cache (${folder})`
  const { code, retryable, url } = error
  return new PrismaError(code, `${what}: ${error.message}`, { repo, retryable, ...(url && { url }), cause: error })
}

/** What is there is of use also where nothing can be written. */
function unlessReadonly(error: unknown): void {
  if (!(error instanceof PrismaError && error.code === "E_OUTPUT")) throw error
}

function readonly(error: unknown, { cacheDir }: HubSettings): unknown {
  if (!(error instanceof PrismaError && error.code === "E_OUTPUT")) return error
  const how = "set HF_HOME, or --cache-dir, to a folder that can be written to"
  const what = `${cacheDir}: the Hub cache takes no new files; ${how}: ${error.message}`
  return new PrismaError("E_CACHE_READONLY", what, { file: cacheDir, cause: error })
}
