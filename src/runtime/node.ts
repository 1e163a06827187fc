/** @file onnxruntime under Node: the only import of onnxruntime-node, at first use. */
import { createRequire } from "node:module"
import { fail } from "../errors.ts"
import { physicalCores } from "./cores.ts"
import type { OrtModule } from "./ort.ts"
import { Runtime, type RuntimeOptions } from "./runtime.ts"

/** A buffer of its own, not filled with zeros. */
const allocate = (bytes: number): ArrayBuffer => Buffer.allocUnsafeSlow(bytes).buffer

/** A runtime over `module`, by default onnxruntime-node; onnxruntime-node-gpu or another of the same interface can be given. */
export function nodeRuntime({ module, ...options }: RuntimeOptions & { readonly module?: OrtModule } = {}): Runtime {
  const threads = options.threads ?? physicalCores()
  return new Runtime(module ?? load("onnxruntime-node"), {
    allocate,
    // Elsewhere it costs nothing, and onnxruntime knows no way.
    flushSubnormals: process.arch === "x64",
    ...options,
    ...(threads !== undefined && { threads }),
  })
}

/** Load an onnxruntime package by name. Error: E_RUNTIME when it is not installed or its native library does not load. */
export function load(name: string): OrtModule {
  // Read once, in the main thread, before the first session: onnxruntime 1.30 otherwise writes telemetry files
  // to the user's cache folder and reports to its maker.
  process.env["ORT_DISABLE_TELEMETRY"] = "1"
  try {
    const module = createRequire(import.meta.url)(name) as OrtModule
    // A provider that does not load is in the error; without this in a line of the native library's on stderr too.
    if (module.env) Object.assign(module.env, { logLevel: "fatal" })
    return module
  } catch (cause) {
    const said = cause instanceof Error ? cause.message.split("\n")[0] : String(cause)
    return fail("E_RUNTIME", `${name} does not load: ${said}`, { cause })
  }
}
