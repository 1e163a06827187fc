/** @file The command lines of docs/manifests, run with the variables that Kubernetes, Slurm and HF Jobs set: two parts are the whole. */
import { execFile } from "node:child_process"
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { delimiter, join } from "node:path"
import { promisify } from "node:util"
import { afterAll, describe, expect, it } from "vitest"
import { parse } from "yaml"
import { makeModels, readReport } from "./helpers/batch.ts"
import { MAIN, root } from "./helpers/cli.ts"

const scratch = mkdtempSync(join(tmpdir(), "vit-prisma-manifests-"))
afterAll(() => rmSync(scratch, { recursive: true }))
const at = (...names: string[]): string => join(scratch, ...names)
const text = (name: string): string => readFileSync(join(root, "docs/manifests", name), "utf8")
const names = makeModels(at("models"), 5)

/** `vit-prisma` as if it were installed, and more programs by their scripts. */
function programs(more: Readonly<Record<string, string>> = {}): string {
  const bin = mkdtempSync(at("bin-"))
  const own = { "vit-prisma": `exec "${process.execPath}" "${MAIN}" "$@"`, ...more }
  for (const [name, script] of Object.entries(own)) {
    writeFileSync(join(bin, name), `#!/bin/bash\n${script}\n`)
    chmodSync(join(bin, name), 0o755)
  }
  return bin + delimiter + process.env["PATH"]
}

const bash = (args: readonly string[], env: Readonly<Record<string, string>>) =>
  promisify(execFile)("bash", args, { env: { ...process.env, NODE_OPTIONS: "", HF_HUB_OFFLINE: "1", ...env } })

/** Both parts together are the list, and no model is in both. */
function expectWhole(out: string): void {
  const parts = [0, 1].map((i) => readReport(out, `report-${i}-of-2`))
  expect(parts.map(({ counts }) => counts["done"])).toEqual([3, 2])
  expect(parts.flatMap(({ models }) => models.map((m) => m.output)).sort()).toEqual([...names].sort())
  expect(readdirSync(out).filter((name) => /^m\d/.test(name))).toEqual(names)
}

describe.skipIf(process.platform === "win32")("the manifests", { timeout: 60_000 }, () => {
  it("Kubernetes: an indexed Job", async () => {
    const job = parse(text("kubernetes-job.yaml")) as {
      kind: string
      spec: {
        completionMode: string
        completions: number
        template: {
          spec: { containers: { command: string[]; args: string[]; env: { name: string; value: string }[] }[] }
        }
      }
    }
    const { completionMode, completions, template } = job.spec
    const { command, args, env } = template.spec.containers[0]!
    const given = Object.fromEntries(env.map(({ name, value }) => [name, value]))
    expect([job.kind, completionMode, given["COUNT"]]).toEqual(["Job", "Indexed", String(completions)])
    expect(command).toEqual(["bash", "-c"])
    const places = { LIST: at("models/list.txt"), OUT: at("kubernetes"), PATH: programs() }
    for (let i = 0; i < completions; i++)
      await bash(["-c", ...args], { ...given, ...places, JOB_COMPLETION_INDEX: String(i) })
    expectWhole(at("kubernetes"))
  })

  it("Slurm: an array", async () => {
    expect(text("slurm-array.sh")).toContain("#SBATCH --array=0-1\n")
    const places = { LIST: at("models/list.txt"), OUT: at("slurm"), PATH: programs(), SLURM_ARRAY_TASK_COUNT: "2" }
    for (const SLURM_ARRAY_TASK_ID of ["0", "1"])
      await bash([join(root, "docs/manifests/slurm-array.sh")], { ...places, SLURM_ARRAY_TASK_ID })
    expectWhole(at("slurm"))
  })

  it("HF Jobs: a job for each part", async () => {
    mkdirSync(at("jobs"))
    // Keeps what each job is told to run, and with which variables.
    const hf = `n=$(ls "$JOBS" | wc -l); printf '%s\\0' "$@" > "$JOBS/$n"`
    await bash([join(root, "docs/manifests/hf-jobs.sh")], {
      ORG: "lab",
      LIST_URL: "https://example.org/list.txt",
      JOBS: at("jobs"),
      PATH: programs({ hf }),
    })
    expect(readdirSync(at("jobs"))).toEqual(["0", "1"])
    for (const i of ["0", "1"]) {
      const told = readFileSync(at("jobs", i), "utf8").split("\0").slice(0, -1)
      expect(told.slice(0, 2)).toEqual(["jobs", "run"])
      const env = Object.fromEntries(told.flatMap((a, k) => (told[k - 1] === "--env" ? [a.split("=", 2)] : [])))
      const [command, ...args] = told.slice(told.indexOf("node:20") + 1)
      expect([command, env]).toEqual(["bash", { ORG: "lab", LIST_URL: "https://example.org/list.txt", PART: i, COUNT: "2" }]) // prettier-ignore
      // In place of the network: the list as it is, nothing installed, nothing pushed, the output kept.
      const own = `exec "${process.execPath}" "${MAIN}" "\${@:1:$#-2}"`
      const here = args.map((a) => a.replaceAll("/tmp/list.txt", at("hf.txt")).replaceAll("/tmp/out", at("hf")))
      const curl = `cp "${at("models/list.txt")}" "\${@: -1}"`
      await bash(here, { ...env, PATH: programs({ "vit-prisma": own, npm: "exit 0", curl }) })
    }
    expectWhole(at("hf"))
  })
})
