/** @file sha256 of files against node:crypto over all of their bytes, and when a file is read again. */
import { createHash } from "node:crypto"
import { mkdtempSync, readFileSync, renameSync, rmSync, utimesSync, writeFileSync } from "node:fs"
import { open } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, afterEach, beforeEach, expect, it, vi } from "vitest"
import { writeFileAtomic } from "../src/files/atomic.ts"
import type { Content } from "../src/files/output.ts"
import { digestOf } from "../src/files/digest.ts"

const scratch = mkdtempSync(join(tmpdir(), "digest-"))
const at = (name: string) => join(scratch, name)
afterAll(() => rmSync(scratch, { recursive: true }))

const wanted = (path: string) => {
  const bytes = readFileSync(path)
  return { bytes: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") }
}

let reads: { mockClear(): void; readonly mock: { readonly calls: readonly unknown[] } }
beforeEach(async () => {
  const handle = await open(scratch)
  reads = vi.spyOn(Object.getPrototypeOf(handle) as { read(): unknown }, "read")
  await handle.close()
})
afterEach(() => void vi.restoreAllMocks())

/** The digest, and in how many calls the file was read for it. */
async function found(path: string) {
  reads.mockClear()
  const { bytes, sha256 } = await digestOf(path)
  return { bytes, sha256, reads: reads.mock.calls.length }
}

/** More than is written at once, and no multiple of it. */
const large = Uint8Array.from({ length: 2 ** 24 + 12_345 }, (_, i) => (i * 7 + (i >> 9)) & 255)

const inOrder: readonly (readonly [string, Content])[] = [
  ["nothing", ""],
  ["text", "caf\u00e9"],
  ["bytes", large],
  [
    "several pieces",
    async (file) => {
      for (const [from, to] of [[0, 5], [5, 5], [5, 2 ** 20], [2 ** 20, large.length]] as const) await file.write(large.subarray(from, to)) // prettier-ignore
    },
  ],
]

it.each(inOrder)("of %s is known from writing it, wherever its folder goes", async (name, content) => {
  const folder = at(`folder of ${name}`)
  await writeFileAtomic(join(folder, "x"), content)
  expect(await found(join(folder, "x"))).toEqual({ ...wanted(join(folder, "x")), reads: 0 })
  renameSync(folder, `${folder}, moved`)
  expect(await found(join(`${folder}, moved`, "x"))).toEqual({ ...wanted(join(`${folder}, moved`, "x")), reads: 0 })
})

it("of a file that was written here and there is read, once", async () => {
  await writeFileAtomic(at("parts"), async (file) => {
    await file.writeAt(large.subarray(100, 300), 100)
    await file.writeAt(large.subarray(0, 100), 0)
  })
  expect(readFileSync(at("parts")).equals(large.subarray(0, 300))).toBe(true)
  const first = await found(at("parts"))
  expect(first).toEqual({ ...wanted(at("parts")), reads: expect.any(Number) })
  expect(first.reads).toBeGreaterThan(0)
  expect(await found(at("parts"))).toEqual({ ...wanted(at("parts")), reads: 0 })
})

it("of a file that somebody touched is read again, though its size and time are the same", async () => {
  await writeFileAtomic(at("touched"), "as it was")
  utimesSync(at("touched"), 1e9, 1e9)
  await digestOf(at("touched"))
  expect((await found(at("touched"))).reads).toBe(0)
  writeFileSync(at("touched"), "as it is.")
  utimesSync(at("touched"), 1e9, 1e9)
  const now = await found(at("touched"))
  expect(now).toMatchObject(wanted(at("touched")))
  expect(now.reads).toBeGreaterThan(0)
})

it("of a file in whose place another came is that other's", async () => {
  await writeFileAtomic(at("replaced"), "first")
  await digestOf(at("replaced"))
  writeFileSync(at("other"), "other")
  renameSync(at("other"), at("replaced"))
  expect(await found(at("replaced"))).toMatchObject(wanted(at("replaced")))
  await writeFileAtomic(at("replaced"), "third")
  expect(await found(at("replaced"))).toEqual({ ...wanted(at("replaced")), reads: 0 })
})

it("of what is no ordinary file is refused", async () => {
  await expect(digestOf(scratch)).rejects.toMatchObject({ code: "E_NOT_A_FILE" })
  await expect(digestOf(at("absent"))).rejects.toMatchObject({ code: "E_NOT_A_FILE" })
})
