/** @file Foreign names: the published list of names that escaped a download folder, more of their kind, and repository ids. */
import { isAbsolute, join, normalize, posix, relative, win32 } from "node:path"
import { describe, expect, it } from "vitest"
import { cpuMs } from "./helpers/cpu.ts"
import { CVE_NAMES } from "./helpers/unsafe-names.ts"
import { type ErrorCode, PrismaError } from "../src/errors.ts"
import { checkListing, repoFolderName, repoId, safeRelPath } from "../src/files/paths.ts"

function code(work: () => unknown): ErrorCode | undefined {
  try {
    work()
    return undefined
  } catch (error) {
    if (error instanceof PrismaError) return error.code
    throw error
  }
}

const MORE = [
  "",
  ".",
  "..",
  "...",
  "./x",
  "x/.",
  "x/..",
  "../",
  "x/",
  "//x",
  "x//y",
  "/",
  "a/b/../../../x",
  ".. /x",
  " ",
  "x/ /y",
  ". ./x",
  "D:x",
  "D:",
  "x/d:y",
  "\\",
  "..\\x",
  "x\\y",
  "x\0",
  "x\0/../y",
  "x\ny",
  "x\x7f",
  "\u0085",
  "\ud800",
  "x/\udc00y",
  "x".repeat(256),
  "\u6743".repeat(86),
  "x/".repeat(2000) + "x",
]

const SAFE = [
  "file.txt",
  "path/in/repo.txt",
  "weird but valid/name.txt",
  "..dots/...file.txt",
  ".gitattributes",
  "model-00001-of-00002.safetensors",
  "caf\u00e9/\u6743\u91cd.bin",
  "a%2e%2e%2fb#?&'\"$(x).txt",
  "\u{1f600}",
  "x".repeat(255),
  "ab:c",
  "~/x",
  "__proto__",
]

describe("safeRelPath", () => {
  it.each([...CVE_NAMES, ...MORE].map((name) => [JSON.stringify(name).slice(0, 40), name]))("refuses %s", (_, name) => {
    expect(code(() => safeRelPath(name, "index.json"))).toBe("E_UNSAFE_PATH")
  })

  it.each(SAFE)("passes %j", (name) => expect(safeRelPath(name, "index.json")).toBe(name))

  it("passes nothing that leaves a folder by Node's own rules, on any system", () => {
    for (const name of [...CVE_NAMES, ...MORE, ...SAFE]) {
      for (const path of [posix, win32]) {
        const escapes = path.isAbsolute(name) || path.relative("/base", path.join("/base", name)).startsWith("..")
        const outside = escapes && !name.startsWith("..dots")
        if (outside)
          expect(
            code(() => safeRelPath(name, "x")),
            name,
          ).toBe("E_UNSAFE_PATH")
      }
    }
  })

  it("says on one line which name, where and why", () => {
    expect(() => safeRelPath("a\n/../b", "repo x/y")).toThrow(
      /^repo x\/y: file name "a\\u\{a\}\/\.\.\/b" has a control/,
    )
    expect(() => safeRelPath("x".repeat(5000), "x")).toThrow(/^.{0,250}$/)
  })
})

describe("checkListing", () => {
  it("passes a listing whole", () => expect(checkListing(SAFE, "x")).toEqual(SAFE))

  it("refuses it whole for each unsafe name", () => {
    for (const name of CVE_NAMES) expect(code(() => checkListing(["a", name, "b"], "x"))).toBe("E_UNSAFE_PATH")
  })

  it.each([[["a", "a/b"]], [["a/b/c", "x", "a/b"]], [["a", "a"]], [["a/b", "a/b/c/d"]]])("refuses %j", (names) => {
    expect(code(() => checkListing(names, "x"))).toBe("E_NAME_COLLISION")
  })

  it("refuses it for its folders too (PA-01, PA-07)", () => {
    for (const name of CVE_NAMES) expect(code(() => checkListing(["a"], "x", ["b", name]))).toBe("E_UNSAFE_PATH")
    expect(code(() => checkListing(["b/c", "a"], "x", ["b", "a"]))).toBe("E_NAME_COLLISION")
    expect(checkListing(["b/c", "a"], "x", ["b"])).toEqual(["b/c", "a"])
  })

  it("tells folders from names that begin alike", () => {
    const names = ["a", "ab/c", "a.b/c", "b/a", "b/ab"]
    expect(checkListing(names, "x")).toEqual(names)
  })

  it("does not compare each of 50,000 names with each", () => {
    const names = Array.from({ length: 50_000 }, (_, i) => `a/b/c/d/${i}/x`)
    const start = cpuMs()
    checkListing(names, "x")
    expect(cpuMs() - start).toBeLessThan(5000)
  })
})

describe("repository ids", () => {
  it.each(["gpt2", "google/vit-base-patch16-224", "a/b", "_/_", "Foo-BAR_foo.bar123", "1/2.3", "x".repeat(96)])(
    "%s",
    (id) => expect(repoId(id)).toBe(id),
  )

  it.each([
    "",
    "/",
    "a/",
    "/a",
    ".",
    "..",
    "a/b/c",
    "a--b/c",
    "a/b--c",
    "-x",
    "x-",
    ".x",
    "x.",
    "a/-x",
    "a-/x",
    "a/x.",
    "a..b/c",
    "x".repeat(97),
    `${"x".repeat(97)}/y`,
    "x.git",
    "a/x.git",
    "datasets/a/b",
    "https://huggingface.co/a/b",
    "a b/c",
    "a/b\n",
    "a\\b",
    "a/b?c",
    "a/b#c",
    "a/%2e%2e",
    "a@b/c",
    "caf\u00e9/x",
    "a\0",
  ])("refuses %j", (id) => {
    expect(code(() => repoId(id))).toBe("E_REPO_ID")
    expect(code(() => repoFolderName(id))).toBe("E_REPO_ID")
  })

  it("get a folder each, as the Hub cache names them", () => {
    expect(repoFolderName("google/vit-base")).toBe("models--google--vit-base")
    expect(repoFolderName("gpt2")).toBe("models--gpt2")
    const parts = ["a", "b", "a-b", "a_b", "a.b", "ab", "b-a"]
    const ids = [...parts, ...parts.flatMap((x) => parts.map((y) => `${x}/${y}`))]
    expect(new Set(ids.map(repoFolderName)).size).toBe(ids.length)
    for (const id of ids) {
      const folder = repoFolderName(id)
      expect(isAbsolute(folder) || relative("cache", normalize(join("cache", folder))).includes("/")).toBe(false)
    }
  })
})
