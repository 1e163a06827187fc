/** @file vit-prisma cache: what the Hub cache holds, whether it is whole, and its repair. */
import { fail, PrismaError } from "../errors.ts"
import { repoPlace, type RepoPlace } from "../hub/cache.ts"
import { cachedRepos, findDamage, type Checked } from "../hub/damage.ts"
import { heal, type Healed } from "../hub/heal.ts"
import { hubHttp } from "../hub/http.ts"
import { inventory } from "../hub/inventory.ts"
import { hubSettings, type HubSettings } from "../hub/settings.ts"
import { bytes, counted, note, plain, print, printJson, style, table, warn, type ModelOptions } from "./output.ts"

export interface CacheOptions extends Pick<ModelOptions, "format"> {
  readonly cacheDir?: string
  readonly offline?: boolean
}

async function settingsOf({ cacheDir, offline, format }: CacheOptions): Promise<HubSettings> {
  const settings = await hubSettings({ cacheDir, offline })
  for (const text of settings.warnings) warn(text, { format })
  return settings
}

async function placesOf({ cacheDir }: HubSettings, repo: string | undefined): Promise<readonly RepoPlace[]> {
  const all = await cachedRepos(cacheDir)
  if (repo === undefined) return all
  const { folder } = repoPlace(cacheDir, repo)
  const found = all.filter((place) => place.folder === folder)
  return found.length ? found : fail("E_INPUT", `${repo} is not in the Hub cache (looked for ${folder})`, { repo })
}

export async function list(options: CacheOptions): Promise<void> {
  const { cacheDir } = await settingsOf(options)
  const repos = await inventory(cacheDir)
  const total = repos.reduce((n, r) => n + r.bytes, 0)
  if (options.format === "json") return printJson({ cache: cacheDir, bytes: total, repos })
  const rows = repos.flatMap((r) =>
    r.commits.map((c) => [r.repo, c.commit.slice(0, 12), c.refs.join(", "), counted(c.files, "file"), bytes(r.bytes)]),
  )
  if (rows.length) print(table(rows))
  print(style("bold", `${counted(repos.length, "repo")}, ${bytes(total)} in ${plain(cacheDir)}`))
}

const shown = (checked: readonly Checked[]) =>
  checked.map(({ repo, blobs, bytes: n, damages }) => ({ repo, blobs, bytes: n, damages }))

/** Read every blob. Exit 3 where something is damaged. */
export async function verify(repo: string | undefined, options: CacheOptions): Promise<void> {
  const settings = await settingsOf(options)
  const checked: Checked[] = []
  for (const place of await placesOf(settings, repo)) checked.push(await findDamage(place))
  const damages = checked.flatMap((c) => c.damages)
  if (options.format === "json") printJson({ cache: settings.cacheDir, repos: shown(checked) })
  else {
    for (const { path, what } of damages) print(plain(`${path}: ${what}`))
    const [blobs, n] = [checked.reduce((s, c) => s + c.blobs, 0), checked.reduce((s, c) => s + c.bytes, 0)]
    print(style("bold", `${counted(blobs, "blob")}, ${bytes(n)}: ${counted(damages.length, "damage")}`))
  }
  if (damages.length === 0) return
  const first = damages[0]!
  const rest = damages.length > 1 ? ` and ${damages.length - 1} more` : ""
  const how = `repair with "vit-prisma cache heal${repo === undefined ? "" : ` ${repo}`}"`
  fail("E_CACHE_CORRUPT", `${first.path}: ${first.what}${rest}; ${how}`, { file: first.path, repo: first.repo })
}

/** Find and repair. Exit as the first thing that could not be repaired says. */
export async function healCache(repo: string | undefined, options: CacheOptions): Promise<void> {
  const settings = await settingsOf(options)
  const http = hubHttp({ ...settings, onWait: note })
  const healed: Healed[] = []
  for (const place of await placesOf(settings, repo)) {
    healed.push(...(await heal(place, http, (await findDamage(place)).damages)))
  }
  if (options.format === "json")
    printJson({ cache: settings.cacheDir, repaired: healed.map(({ damage, error }) => ({ ...damage, error })) })
  else {
    for (const { damage, error } of healed)
      print(plain(`${damage.path}: ${damage.what}; ${error ? error.message : "repaired"}`))
    const done = healed.filter((h) => !h.error).length
    print(style("bold", `${counted(healed.length, "damage")}, ${done} repaired`))
  }
  const left = healed.find((h) => h.error)
  if (left?.error) {
    const { code, retryable } = left.error
    throw new PrismaError(
      code,
      `${left.damage.path}: ${left.damage.what}, and is not repaired: ${left.error.message}`,
      { file: left.damage.path, repo: left.damage.repo, retryable, cause: left.error },
    )
  }
}
