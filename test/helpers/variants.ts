/** @file Changed copies of the reference checkpoints, and what a refusal must look like. */
import { cpSync, linkSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { afterAll, expect, vi } from "vitest"
import { loadPretrained, PrismaError, type LoadedViT, type LoadOptions, type Tensor } from "../../src/index.ts"
import { floats, readSafetensors, type Stored } from "./read-safetensors.ts"

const FIXTURES = resolve(import.meta.dirname, "../fixtures/reference")

/** A JSON object that a test may change. */
export type Json = { [key: string]: unknown }

/** A folder that is removed after the tests of the file. */
export function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), "vit-prisma-test-"))
  afterAll(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

export const caseFolder = (name: string): string => join(FIXTURES, name)

/** Copy a reference case (weights as hard links where the file system allows) to a new folder below `to`. */
export function copyCase(name: string, to: string): string {
  const folder = mkdtempSync(join(to, `${name}-`))
  for (const file of readdirSync(caseFolder(name)).filter((f) => f !== "expected.safetensors")) {
    const [from, copy] = [join(caseFolder(name), file), join(folder, file)]
    if (file.endsWith(".json")) cpSync(from, copy)
    else linkOrCopy(from, copy)
  }
  return folder
}

function linkOrCopy(from: string, to: string): void {
  try {
    linkSync(from, to)
  } catch {
    cpSync(from, to)
  }
}

export const configName = (name: string): string =>
  name.startsWith("open-clip") ? "open_clip_config.json" : "config.json"

/** The object at `path` inside a config. */
export const inside = (config: Json, path: readonly string[]): Json => path.reduce((at, key) => at[key] as Json, config)

/** A case, and where in its config to change something. */
export interface Part {
  readonly name: string
  readonly at: readonly string[]
}

const root = scratch()
const copies = new Map<string, string>()

/** The case with a config of this text, in one folder for all. */
export function written(name: string, text: string): string {
  const folder = copies.get(name) ?? copyCase(name, root)
  copies.set(name, folder)
  writeFileSync(join(folder, configName(name)), text)
  return folder
}

/** The case with one part of its config changed, in one folder for all. */
export function changed({ name, at }: Part, change: (part: Json, whole: Json) => unknown): string {
  const config = JSON.parse(readFileSync(join(caseFolder(name), configName(name)), "utf8")) as Json
  change(inside(config, at), config)
  return written(name, JSON.stringify(config))
}

/** The same in a folder of its own, so that the weights may be changed too. */
export function apart(part: Part, change: (part: Json, whole: Json) => unknown = () => {}): string {
  const folder = copyCase(part.name, root)
  cpSync(join(changed(part, change), configName(part.name)), join(folder, configName(part.name)))
  return folder
}

/** Write tensors as a safetensors file, replacing it. */
export function writeTensors(path: string, tensors: ReadonlyMap<string, Stored>): void {
  let end = 0
  const header: Record<string, unknown> = {}
  for (const [name, { dtype, shape, bytes }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [end, (end += bytes.length)] }
  }
  const json = new TextEncoder().encode(JSON.stringify(header))
  const length = new Uint8Array(new BigUint64Array([BigInt(json.length)]).buffer)
  rmSync(path, { force: true }) // a hard link to the fixture
  writeFileSync(path, Buffer.concat([length, json, ...[...tensors.values()].map((t) => t.bytes)]))
}

/** Change the tensors of a copied case's only weight file; a map that `change` returns is written instead. */
export function editTensors(folder: string, change: (tensors: Map<string, Stored>) => unknown): void {
  const path = join(
    folder,
    readdirSync(folder).find((f) => f.endsWith(".safetensors"))!,
  )
  const { tensors } = readSafetensors(path)
  const changed = change(tensors)
  writeTensors(path, changed instanceof Map ? (changed as Map<string, Stored>) : tensors)
}

export const f32 = (shape: readonly number[], values?: readonly number[]): Stored => {
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1))
  if (values) data.set(values)
  return { dtype: "F32", shape, bytes: new Uint8Array(data.buffer) }
}

export const scaled = (t: Stored, by: number): Stored =>
  f32(
    t.shape,
    [...floats(t)].map((x) => x * by),
  )

/**
 * Load what must be refused, twice. The error is ours and on one line, both are the same, nothing is printed, and each
 * takes less than 2 s. Returns the message.
 */
export async function refused(folder: string, code: string, options?: LoadOptions): Promise<string> {
  const printed = vi.spyOn(process.stdout, "write")
  try {
    const before = performance.now()
    const [first, second] = [await errorOf(folder, options), await errorOf(folder, options)]
    const took = performance.now() - before
    expect(printed).not.toHaveBeenCalled()
    expect(first).toBeInstanceOf(PrismaError)
    expect(`${first.code}: ${first.message}`).toMatch(new RegExp(`^${code}: `))
    expect(second).toMatchObject({ code: first.code, message: first.message })
    expect(first.message).not.toMatch(/[\p{Cc}\p{Zl}\p{Zp}]/u)
    expect(first.message.length).toBeLessThan(4000)
    expect(took).toBeLessThan(4000)
    return first.message
  } finally {
    printed.mockRestore()
  }
}

const errorOf = (folder: string, options: LoadOptions = {}): Promise<PrismaError> =>
  loadPretrained(folder, { threads: 1, ...options }).then(
    () => expect.fail(`${folder} was loaded`),
    (error: PrismaError) => error,
  )

/** Every output of a model for the case's inputs, as plain numbers. */
export async function outputsOf(
  folder: string,
  inputs: { pixel_values: Tensor; input_ids?: Tensor },
  options?: LoadOptions,
) {
  return using(
    folder,
    async (model) => {
      const outputs = await model.run(inputs)
      return Object.fromEntries(Object.entries(outputs).map(([name, t]) => [name, Array.from(t.data as Float32Array)]))
    },
    options,
  )
}

/** Work with a loaded model and give it back. */
export async function using<T>(
  folder: string,
  work: (model: LoadedViT) => T,
  options: LoadOptions = {},
): Promise<Awaited<T>> {
  const model = await loadPretrained(folder, { threads: 1, ...options })
  try {
    return await work(model)
  } finally {
    await model.release()
  }
}

/** A folder of this name below `to`. */
export function folderAt(...parts: readonly string[]): string {
  const folder = join(...parts)
  mkdirSync(folder, { recursive: true })
  return folder
}

export const remove = (path: string): void => rmSync(path, { recursive: true })

export const copyFolder = (from: string, to: string): void => cpSync(from, to, { recursive: true })

/** Copy a case's files into a folder, which may exist. */
export const copyInto = (name: string, to: string): void =>
  cpSync(caseFolder(name), to, { recursive: true, filter: (path) => !path.endsWith("expected.safetensors") })
