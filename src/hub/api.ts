/** @file What pushing asks of a Hub about accounts, repos and refs, each answer checked (https://huggingface.co/docs/hub/api). */
import { fail, PrismaError } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import { fieldsOf } from "../tensor/record.ts"
import { isCommit } from "./cache.ts"
import { hubUrl, segments, type HubHttp } from "./http.ts"
import { plainUrl } from "./redirects.ts"

/** A request that may be sent again, where its answer did not come or was cut. */
export const posted = (body: unknown) => ({
  method: "POST" as const,
  whole: true,
  body: JSON.stringify(body),
  headers: { "content-type": "application/json" },
})

export const apiUrl = ({ endpoint }: HubHttp, repo: string, ...rest: readonly string[]): string =>
  hubUrl(endpoint, "api", "models", ...segments(repo), ...rest)

export function protocol(url: string | URL, repo: string, what: string, file?: string): never {
  const place = { url: plainUrl(url), repo, ...(file !== undefined && { file }) }
  return fail("E_HUB_PROTOCOL", `${place.url}: ${what}; check that HF_ENDPOINT is a Hub`, place)
}

export interface Account {
  readonly name: string
  /** What its token may do: "read", "write", "fineGrained". */
  readonly role: string
}

/** Whose token it is. Errors: E_HUB_AUTH (none, refused); those of the Hub. */
export async function account(http: HubHttp, signal?: AbortSignal): Promise<Account> {
  if (!http.authorized) {
    fail(
      "E_HUB_AUTH",
      `${http.endpoint}: pushing wants a token that may write; give one by HF_TOKEN or "hf auth login"`,
    )
  }
  const { name, auth } = fieldsOf(await http.json(hubUrl(http.endpoint, "api", "whoami-v2"), { ...(signal && { signal }) })) // prettier-ignore
  const { role } = fieldsOf(fieldsOf(auth)["accessToken"])
  if (typeof name !== "string") return protocol(hubUrl(http.endpoint, "api", "whoami-v2"), "", "names no account")
  return { name, role: typeof role === "string" ? role : "" }
}

/** Whom the Hub takes the asker for; undefined for nobody, who has no token. Errors: E_HUB_AUTH, those of the Hub. */
export async function visitor(http: HubHttp, stall: number): Promise<string | undefined> {
  const init = { tries: 1, stall, ...(!http.authorized && { accept: [401] }) }
  const { name } = fieldsOf(await http.json(hubUrl(http.endpoint, "api", "whoami-v2"), init))
  return typeof name === "string" ? name : undefined
}

/** A model repo's name now; undefined where there is none that this account may see. */
export async function repoName(http: HubHttp, repo: string, signal?: AbortSignal): Promise<string | undefined> {
  const url = apiUrl(http, repo)
  const answer = await http.json(url, { repo, ...(signal && { signal }) }).catch((error: unknown) => {
    if (error instanceof PrismaError && error.code === "E_HUB_NOT_FOUND") return undefined
    throw error
  })
  if (answer === undefined) return undefined
  const { id } = fieldsOf(answer)
  if (typeof id !== "string") return protocol(url, repo, `names no repo, got id ${quote(JSON.stringify(id) ?? "none")}`)
  return id
}

/** Make a model repo. Errors: E_HUB_CONFLICT where another type of repo has its name; E_HUB_AUTH; those of the Hub. */
export async function createRepo(http: HubHttp, repo: string, isPrivate: boolean, signal?: AbortSignal): Promise<void> {
  const [organization, name] = repo.split("/")
  const body = { name, organization, type: "model", visibility: isPrivate ? "private" : "public" }
  try {
    await http.json(hubUrl(http.endpoint, "api", "repos", "create"), {
      ...posted(body),
      repo,
      ...(signal && { signal }),
    })
  } catch (error) {
    if (!(error instanceof PrismaError && error.code === "E_HUB_CONFLICT")) throw error
    // An answer that was lost, or another process that was quicker, made the very repo.
    if (await repoName(http, repo, signal)) return
    const what = "the name is taken by a dataset or space; choose another"
    fail("E_HUB_CONFLICT", `${repo}: ${what}`, { repo, cause: error })
  }
}

/** The commits that branches and tags mean. */
export interface Refs {
  readonly branches: ReadonlyMap<string, string>
  readonly tags: ReadonlyMap<string, string>
}

export async function refsOf(http: HubHttp, repo: string, signal?: AbortSignal): Promise<Refs> {
  const url = apiUrl(http, repo, "refs")
  const { branches, tags } = fieldsOf(await http.json(url, { repo, ...(signal && { signal }) }))
  const named = (list: unknown): ReadonlyMap<string, string> => {
    if (!Array.isArray(list)) return protocol(url, repo, "lists no refs")
    return new Map(
      list.map((entry) => {
        const { name, targetCommit } = fieldsOf(entry)
        const isRef = typeof name === "string" && typeof targetCommit === "string" && isCommit(targetCommit)
        return isRef ? ([name, targetCommit] as const) : protocol(url, repo, "lists a ref without its commit")
      }),
    )
  }
  return { branches: named(branches), tags: named(tags) }
}

/** Make a branch that begins at a revision; one that is there already stays as it is. */
export async function createBranch(http: HubHttp, repo: string, branch: string, from: string): Promise<void> {
  await http.request(apiUrl(http, repo, "branch", branch), { ...posted({ startingPoint: from }), repo, accept: [409] })
}

/** Let a tag mean this commit, whatever it meant before. Error: E_HUB_CONFLICT where another made it mean something else. */
export async function setTag(http: HubHttp, repo: string, tag: string, commit: string, before?: string): Promise<void> {
  if (before !== undefined) {
    await http.request(apiUrl(http, repo, "tag", tag), { method: "DELETE", repo, accept: [404] })
  }
  const { status } = await http.request(apiUrl(http, repo, "tag", commit), { ...posted({ tag }), repo, accept: [409] })
  if (status !== 409) return
  // An answer that was lost had made it; so may have someone else.
  const is = (await refsOf(http, repo)).tags.get(tag)
  if (is === commit) return
  const what = `the tag ${tag} means ${is?.slice(0, 12) ?? "nothing"}, expected ${commit.slice(0, 12)}`
  fail("E_HUB_CONFLICT", `${repo}: ${what}; another process pushes to it, push again when it has ended`, { repo })
}
