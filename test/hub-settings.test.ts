/** @file What the environment says of the Hub: test/fixtures/hub-settings.json is what huggingface_hub 1.33 makes of it. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { hubSettings, tokenPath } from "../src/hub/settings.ts"
import { thrown } from "./helpers/thrown.ts"
import { scratch } from "./helpers/variants.ts"

const home = scratch()
mkdirSync(join(home, ".cache/huggingface"), { recursive: true })
mkdirSync(join(home, "hfh"))
writeFileSync(join(home, ".cache/huggingface/token"), " hf_filetoken \n")
writeFileSync(join(home, "hfh/token"), "hf_other\r\n")

type Env = Record<string, string>
interface Expected {
  readonly token: string | null
  readonly tokenPath: string
}
const text = readFileSync(join(import.meta.dirname, "fixtures/hub-settings.json"), "utf8")
const rows = JSON.parse(text.replaceAll("<home>", home)) as [Env, Expected][]

describe("the Hub's settings", () => {
  it.each(rows)("of %j are huggingface_hub's", async (given, { token, tokenPath: path, ...expected }) => {
    const env = { HOME: home, ...given }
    const settings = await hubSettings({}, env)
    expect(settings).toMatchObject(expected)
    expect(settings.token ?? null).toBe(token)
    expect(tokenPath(env)).toBe(path)
    expect(settings.warnings).toHaveLength(given["HF_HUB_OFFLINE"] === "maybe" ? 1 : 0)
  })

  it("that are options go before the environment", async () => {
    const env = { HOME: home, HF_ENDPOINT: "https://a.test", HF_TOKEN: "hf_a", HF_HUB_OFFLINE: "1", HF_HUB_CACHE: "/hub" }
    const given = { endpoint: "https://b.test/", token: " hf_b\n", cacheDir: "/c", offline: false }
    expect(await hubSettings(given, env)).toMatchObject({ endpoint: "https://b.test", token: "hf_b", cacheDir: "/c", offline: false })
    expect((await hubSettings({ token: false }, env)).token).toBe(undefined)
    expect((await hubSettings({ token: "hf_b" }, { ...env, HF_HUB_DISABLE_IMPLICIT_TOKEN: "1" })).token).toBe("hf_b")
  }) // prettier-ignore

  it("that are empty count as unset, as XDG has it", async () => {
    const env = { HOME: home, HF_ENDPOINT: "", HF_HOME: "", XDG_CACHE_HOME: "", HF_HUB_CACHE: "", HF_TOKEN_PATH: "" }
    expect(await hubSettings({}, env)).toEqual(await hubSettings({}, { HOME: home }))
  })

  it.each<[string, Env, RegExp]>([
    [
      "an address that is none and holds the token",
      { HF_TOKEN: "hf_abcdefgh/secret+1", HF_ENDPOINT: "htt p://x/hf_abcdefgh/secret+1" },
      /got "htt p:\/\/x\/\*\*\*"$/,
    ],
    ["an address that is none", { HF_ENDPOINT: "huggingface.co" }, /HF_ENDPOINT must be an address.*"huggingface\.co"/],
    ["another protocol", { HF_ENDPOINT: "ftp://hub.test" }, /neither https nor http/],
    ["a password", { HF_ENDPOINT: "https://user:secret@hub.test" }, /user name or password/],
    ["a query", { HF_ENDPOINT: "https://hub.test/?token=secret" }, /query/],
    ["a wait that is no number", { HF_HUB_ETAG_TIMEOUT: "soon" }, /whole number of seconds, got "soon"/],
    ["a token with a space", { HF_TOKEN: "hf_secret token" }, /HF_TOKEN: holds a space/],
    ["a token of other letters", { HF_TOKEN: "hf_secret\u00e9" }, /HF_TOKEN/],
  ])("with %s are refused, and secrets not shown", async (_, env, message) => {
    const error = await thrown(hubSettings({}, { HOME: home, ...env }))
    expect([error.code, error.exitCode]).toEqual(["E_USAGE", 2])
    expect(error.message).toMatch(message)
    expect(error.message).not.toContain("secret")
  })

  it.each<[string, object]>([
    ["endpoint must be text, got number", { endpoint: 5 }],
    ["cacheDir must be text, got object", { cacheDir: {} }],
    ["token must be text, got boolean", { token: true }],
    ["wait must be milliseconds from 0 on, got NaN", { wait: NaN }],
    ["wait must be milliseconds from 0 on, got -1", { wait: -1 }],
  ])("of another type are refused: %s", async (said, given) => {
    expect(await thrown(hubSettings(given, { HOME: home }))).toMatchObject({ code: "E_USAGE", message: said })
  })

  it("with an empty folder of the cache have that of the environment", async () => {
    expect((await hubSettings({ cacheDir: "" }, { HOME: home })).cacheDir).toBe(
      (await hubSettings({}, { HOME: home })).cacheDir,
    )
  })

  it("take no folder for a token, and no more of a file than a token is long", async () => {
    mkdirSync(join(home, "dir"))
    expect((await hubSettings({}, { HOME: home, HF_TOKEN_PATH: join(home, "dir") })).token).toBe(undefined)
    writeFileSync(join(home, "long"), "x".repeat(1e6))
    expect((await hubSettings({}, { HOME: home, HF_TOKEN_PATH: join(home, "long") })).token).toHaveLength(10_000)
  })
})
