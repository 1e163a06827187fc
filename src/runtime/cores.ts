/** @file How many cores there are to compute with. */
import { readdirSync, readFileSync } from "node:fs"
import { availableParallelism } from "node:os"

/**
 * Physical cores as Linux tells them, no more than this process may use; undefined elsewhere, where onnxruntime counts
 * them itself. It asks the processor, which tells a virtual machine of the host: of two cores of an AMD EPYC one was used.
 * Source: https://docs.kernel.org/admin-guide/cputopology.html
 */
export function physicalCores(folder = "/sys/devices/system/cpu"): number | undefined {
  const siblings = new Set(cpus(folder).map((name) => threadsBeside(`${folder}/${name}`)))
  siblings.delete(undefined)
  return siblings.size ? Math.min(siblings.size, availableParallelism()) : undefined
}

function cpus(folder: string): string[] {
  try {
    return readdirSync(folder).filter((name) => /^cpu\d+$/.test(name))
  } catch {
    return []
  }
}

/** The threads of the core that this one is of, as "0,8"; undefined of one that is switched off. */
function threadsBeside(cpu: string): string | undefined {
  try {
    return readFileSync(`${cpu}/topology/thread_siblings_list`, "utf8")
  } catch {
    return undefined
  }
}
