/** @file A preload for child processes (see `runTs`) that counts the calls which change a disk and, at a chosen one, kills the
 * process or makes the call fail. The code under test knows nothing of it. */

/** Calls counted: those of node:fs/promises by name, and `write` and `sync` of its file handles. */
export const FAULTS = `
import { createRequire, syncBuiltinESMExports } from "node:module"
const fs = createRequire(import.meta.url)("node:fs/promises")
// calls: what was called so far; at: the number of the call that goes wrong (0: none); only: the calls that count;
// where: the paths, or their targets, that count; code: an error code, or SIGKILL.
const faults = (globalThis.faults = { calls: [], at: 0, only: undefined, code: "SIGKILL" })
if (process.env.FAULT_AT) faults.at = Number(process.env.FAULT_AT)
const paths = new WeakMap()
const around = (name, call) =>
  async function (...args) {
    const real = async () => {
      const got = await call.apply(this, args)
      if (name === "open") paths.set(got, args[0])
      return got
    }
    if (faults.only && !faults.only.includes(name)) return real()
    const path = paths.get(this) ?? args[["rename", "link", "symlink", "copyFile"].includes(name) ? 1 : 0]
    if (faults.where && !faults.where.test(path)) return real()
    faults.calls.push(name)
    if (faults.calls.length !== faults.at) return real()
    // A write that fails has often written something.
    if (name === "write") await call.call(this, args[0], args[1] ?? 0, Math.floor((args[2] ?? args[0].length) / 2))
    if (faults.code === "SIGKILL") {
      process.kill(process.pid, "SIGKILL")
      return new Promise(() => setInterval(() => {}, 1000))
    }
    throw Object.assign(new Error(faults.code + ": injected, " + name), { code: faults.code, errno: -1, syscall: name })
  }
const handle = await fs.open(process.execPath)
const prototype = Object.getPrototypeOf(handle)
await handle.close()
for (const name of ["write", "sync"]) prototype[name] = around(name, prototype[name])
for (const name of ["open", "mkdir", "rename", "link", "unlink", "rm", "symlink", "copyFile", "writeFile", "truncate"]) {
  fs[name] = around(name, fs[name])
}
syncBuiltinESMExports()
`
