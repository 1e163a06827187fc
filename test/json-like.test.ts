/** @file Configs written again: a number stays as its source wrote it, for transformers 5 takes no 1 where it wants 1.0. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { convertModel } from "../src/export/convert.ts"
import { jsonLike } from "../src/files/json.ts"
import { loadPretrained } from "../src/index.ts"
import { reference } from "./helpers/cli.ts"

const scratch = mkdtempSync(join(tmpdir(), "json-like-"))
afterAll(() => rmSync(scratch, { recursive: true }))

/** The lines of a JSON text that hold a number, by themselves. */
const numbers = (text: string): string[] =>
  text.split("\n").flatMap((line) => (/^\s*("[^"]*": )?-?\d/.test(line) ? [line.trim().replace(/,$/, "")] : []))

describe("JSON written like its source", () => {
  const like = (value: unknown, source: string) =>
    JSON.stringify(value) && jsonLike(value, source).replaceAll(/\s/g, "")

  it("keeps how a number was written, where the value is the same at the same place", () => {
    const source =
      '\uFEFF{"a": 1.0, "b": [1e-05, 2, -0.0], "c": {"d": 1E2, "1.0": 3.50}, "e": "1.0", "f": 2.0, "g\\"1.0": 4.0}'
    const value = JSON.parse(source.slice(1)) as Record<string, unknown>
    expect(like(value, source)).toBe(source.slice(1).replaceAll(/\s/g, ""))
    expect(like({ ...value, f: 3, h: 1, b: [2] }, source)).toBe(
      '{"a":1.0,"b":[2],"c":{"d":1E2,"1.0":3.50},"e":"1.0","f":3,"g\\"1.0":4.0,"h":1}',
    )
    expect(like({ a: undefined, c: 1, toString: 5 }, source)).toBe('{"c":1,"toString":5}')
  })

  it.each([
    "hf-dinov2",
    "hf-dinov2-registers-base",
    "hf-dinov3",
    "hf-clip-eos-2",
    "hf-siglip-vision",
    "hf-deit",
    "hf-mae",
  ])("is what a converted %s has: every number of its config as before", async (name) => {
    const model = await loadPretrained(reference(name), { threads: 1 })
    await convertModel(model, join(scratch, name))
    await model.release()
    const [was, is] = [reference(name), join(scratch, name)].map((folder) =>
      numbers(readFileSync(join(folder, "config.json"), "utf8")),
    )
    expect(was!.some((line) => /\d\.0$/.test(line))).toBe(true)
    expect(is!.filter((line) => line !== '"model.onnx": 1')).toEqual(was)
    expect(readdirSync(join(scratch, name))).toContain("onnx")
  })
})
