/** @file Which execution providers a device name stands for. */
import { fail } from "../errors.ts"
import type { OrtModule } from "./ort.ts"

/** `auto` is the first accelerator the module can load, then the CPU; any other runs there or says what is missing. */
export const DEVICES = ["auto", "cpu", "cuda", "webgpu", "dml", "coreml"] as const
export type Device = (typeof DEVICES)[number]

const WHY: Readonly<Record<string, string>> = {
  cuda: "it needs an NVIDIA GPU, CUDA 12 and the provider library that onnxruntime-node's install step downloads (npm i --onnxruntime-node-install=cuda12), or the package onnxruntime-node-gpu",
  webgpu: "it comes with onnxruntime-node on Linux x64, Windows and macOS",
  dml: "it is for Windows",
  coreml: "it is for macOS",
}

/** The providers to ask onnxruntime for, in the order to try them. Error: E_DEVICE, naming what the module has. */
export function providers(ort: OrtModule, device: Device): string[][] {
  if (device === "cpu") return [["cpu"]]
  const listed = ort.listSupportedBackends?.()
  if (device === "auto") {
    const bundled = ["cuda", "coreml", "dml"].filter((name) => listed?.some((b) => b.name === name && b.bundled))
    return [...bundled.map((name) => [name, "cpu"]), ["cpu"]]
  }
  if (!DEVICES.includes(device)) fail("E_DEVICE", `no device ${device as string}; there are ${DEVICES.join(", ")}`)
  if (listed && !listed.some((b) => b.name === device)) {
    const has = listed.map((b) => b.name).join(", ")
    fail("E_DEVICE", `device ${device} is not in this onnxruntime (it has ${has}): ${WHY[device]}`)
  }
  return [[device, "cpu"]]
}

/** A session that could not be made: E_DEVICE where an accelerator was asked for by name, else E_RUNTIME. */
export function noSession(device: Device, cause: unknown): never {
  const said = (cause instanceof Error ? cause.message : String(cause)).split("\n")[0]
  if (!(device in WHY)) return fail("E_RUNTIME", `onnxruntime could not make a session: ${said}`, { cause })
  return fail("E_DEVICE", `device ${device} does not work here: ${said}; ${WHY[device]}`, { cause })
}
