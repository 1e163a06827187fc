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

/** The providers to ask onnxruntime for. Error: E_DEVICE, naming what the module has. */
export function providers(ort: OrtModule, device: Device): string[] {
  if (device === "cpu") return ["cpu"]
  const listed = ort.listSupportedBackends?.()
  if (device === "auto") {
    const first = ["cuda", "coreml", "dml"].find((name) => listed?.some((b) => b.name === name && b.bundled))
    return first ? [first, "cpu"] : ["cpu"]
  }
  if (listed && !listed.some((b) => b.name === device)) {
    fail(
      "E_DEVICE",
      `device ${device} is not in this onnxruntime (it has ${listed.map((b) => b.name).join(", ")}): ${WHY[device]}`,
    )
  }
  return [device, "cpu"]
}
