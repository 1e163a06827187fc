/** @file Where the Hub is, who asks and where its files are kept, as huggingface_hub reads it from the environment
 * (https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables). */
import { stat } from "node:fs/promises"
import { homedir } from "node:os"
import { join } from "node:path"
import { fail, keepSecret } from "../errors.ts"
import { readFully, withFile } from "../files/read.ts"
import { quote } from "../tensor/quote.ts"
import { plainUrl } from "./redirects.ts"

/** What goes before the environment. */
export interface HubOptions {
  /** The Hub's address; HF_ENDPOINT, else https://huggingface.co. */
  readonly endpoint?: string | undefined
  /** An access token; false for none, also where the environment has one. */
  readonly token?: string | false | undefined
  /** The cache's folder. */
  readonly cacheDir?: string | undefined
  /** Ask no server. */
  readonly offline?: boolean | undefined
  /** Milliseconds that a request may wait for a Hub that is busy and says for how long; 120,000. */
  readonly wait?: number | undefined
}

export interface HubSettings {
  readonly endpoint: string
  readonly token?: string
  /** What the token was read from: "HF_TOKEN", a file's path, ... */
  readonly tokenFrom?: string
  readonly cacheDir: string
  readonly wait?: number
  readonly offline: boolean
  /** Make copies in place of links. */
  readonly noSymlinks: boolean
  readonly noProgress: boolean
  /** Milliseconds to wait for news of a branch that is in the cache already. */
  readonly freshness: number
  /** What is odd about the environment. */
  readonly warnings: readonly string[]
}

type Env = Readonly<Record<string, string | undefined>>

const ENDPOINT = "https://huggingface.co"
/** huggingface_hub waits as long for a file's ETag. */
const FRESHNESS = 10
/** Variables that hold a token; the first that does counts. */
const TOKENS = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] as const
/** What a header may carry (RFC 6750, with room). */
const SENDABLE = /^[\x21-\x7e]+$/
/** Bytes of a token's file; a token has 37. */
const MAX_TOKEN = 10_000

/** From now on no error says the tokens that the environment holds. */
export function keepTokens(env: Env = process.env): void {
  for (const name of TOKENS) {
    const token = cleaned(env[name] ?? "")
    if (SENDABLE.test(token)) keepSecret(token)
  }
}

/** Errors: E_USAGE for an address that is none, a token that no header can carry, a wait that is no number; E_IO, E_NOT_A_FILE. */
export async function hubSettings(given: HubOptions = {}, env: Env = process.env): Promise<HubSettings> {
  refuseOtherTypes(given)
  const warnings: string[] = []
  const flag = (name: string): boolean => {
    const value = env[name]
    const [yes, no] = [/^(1|on|yes|true)$/i, /^(0|off|no|false|)$/i].map((rule) => rule.test(value ?? ""))
    if (!yes && !no) warnings.push(`${name} is ${quote(value!)}, which counts as no; use 1 or 0`)
    return yes!
  }
  // As in Python: HF_HUB_OFFLINE, if it says anything, goes before the other.
  const offline = given.offline ?? flag(env["HF_HUB_OFFLINE"] ? "HF_HUB_OFFLINE" : "TRANSFORMERS_OFFLINE")
  const found = await tokenOf(given.token, env, flag("HF_HUB_DISABLE_IMPLICIT_TOKEN"))
  return {
    endpoint: endpointOf(given.endpoint, env),
    ...found,
    cacheDir: given.cacheDir || cacheFolder(env),
    ...(given.wait !== undefined && { wait: given.wait }),
    offline,
    noSymlinks: flag("HF_HUB_DISABLE_SYMLINKS"),
    noProgress: flag("HF_HUB_DISABLE_PROGRESS_BARS"),
    freshness: 1000 * seconds("HF_HUB_ETAG_TIMEOUT", env, FRESHNESS),
    warnings,
  }
}

/** Of callers without types. */
function refuseOtherTypes({ endpoint, token, cacheDir, wait }: HubOptions): void {
  const text = { endpoint, token: token === false ? undefined : token, cacheDir }
  for (const [name, value] of Object.entries(text)) {
    if (value !== undefined && typeof value !== "string") fail("E_USAGE", `${name} must be text, got ${typeof value}`)
  }
  if (wait === undefined || (typeof wait === "number" && wait >= 0)) return
  fail("E_USAGE", `wait must be milliseconds from 0 on, got ${String(wait)}`)
}

function endpointOf(given: string | undefined, env: Env): string {
  const [name, text] = given === undefined ? ["HF_ENDPOINT", env["HF_ENDPOINT"] || ENDPOINT] : ["endpoint", given]
  const bad = (what: string): never =>
    fail("E_USAGE", `${name} must be an address such as ${ENDPOINT}, got ${quote(plainUrl(text))}, which ${what}`)
  if (!URL.canParse(text)) fail("E_USAGE", `${name} must be an address such as ${ENDPOINT}, got ${quote(text)}`)
  const url = new URL(text)
  if (!/^https?:$/.test(url.protocol)) bad("is neither https nor http")
  if (url.username || url.password) bad("has a user name or password in it; give the token by HF_TOKEN")
  if (url.search || url.hash) bad("has a query or a fragment")
  return text.replace(/\/+$/, "")
}

/** Python's os.path.expanduser and expandvars; ~user stays, for Node knows only one home. */
function expanded(path: string, env: Env): string {
  const home = env["HOME"] || homedir()
  const below = path.replace(/^~(?=$|[/\\])/, () => home)
  return below.replace(/\$(?:(\w+)|\{([^}]*)\})/g, (whole, plain: string | undefined, braced: string | undefined) => {
    return env[plain ?? braced ?? ""] ?? whole
  })
}

// An empty variable counts as none, as XDG has it.
const hfHome = (env: Env): string =>
  expanded(env["HF_HOME"] || join(env["XDG_CACHE_HOME"] || join("~", ".cache"), "huggingface"), env)

const cacheFolder = (env: Env): string =>
  expanded(env["HF_HUB_CACHE"] || env["HUGGINGFACE_HUB_CACHE"] || join(hfHome(env), "hub"), env)

/** Where `hf auth login` writes the token. */
export const tokenPath = (env: Env = process.env): string =>
  expanded(env["HF_TOKEN_PATH"] || join(hfHome(env), "token"), env)

async function tokenOf(
  given: string | false | undefined,
  env: Env,
  disabled: boolean,
): Promise<{ token?: string; tokenFrom?: string }> {
  if (given === false) return {}
  if (given !== undefined) return checked(cleaned(given), "the token option")
  if (disabled) return {}
  const [first, second] = TOKENS
  const name = env[first] ? first : second
  const set = cleaned(env[name] ?? "")
  if (set) return checked(set, name)
  const path = tokenPath(env)
  return checked(cleaned(await textOf(path)), path)
}

const cleaned = (text: string): string => text.replace(/[\r\n]/g, "").trim()

function checked(token: string, tokenFrom: string): { token?: string; tokenFrom?: string } {
  if (!token) return {}
  // The token itself is never shown.
  if (!SENDABLE.test(token)) {
    fail("E_USAGE", `${tokenFrom}: holds a space or a character that no token has; copy the token again`)
  }
  keepSecret(token) // from here on: an address that is none may hold it
  return { token, tokenFrom }
}

async function textOf(path: string): Promise<string> {
  const there = await stat(path).catch(() => undefined)
  // Docker mounts a folder where the file of a volume is missing.
  if (!there?.isFile()) return ""
  return withFile(path, async (file, size) => {
    const bytes = new Uint8Array(Math.min(size, MAX_TOKEN))
    return new TextDecoder().decode(bytes.subarray(0, await readFully(file, path, bytes, 0)))
  })
}

function seconds(name: string, env: Env, otherwise: number): number {
  const text = env[name]?.trim()
  if (!text) return otherwise
  if (!/^\d{1,6}$/.test(text)) fail("E_USAGE", `${name} must be a whole number of seconds, got ${quote(text)}`)
  return Number(text) || otherwise
}
