/** @file Memory that several processes share: how much there is, who may use how much, and what one uses (https://man7.org/linux/man-pages/man5/proc_pid_status.5.html). */
import { readFile } from "node:fs/promises"
import { fail } from "../errors.ts"

const MIB = 2 ** 20

/** What a process holds before it has a model: node, onnxruntime and this package; 60 to 90 MiB measured, and some air. */
export const PROCESS_BYTES = 160 * MIB

/** The share of what is available that "auto" takes. */
const AUTO = 0.8

export interface Budget {
  /** Bytes that one process may always use beyond PROCESS_BYTES. */
  readonly share: number
  /** Bytes that all jobs together may use beyond their processes. */
  readonly total: number
  /** Wait, first come first served, until so many bytes (at least the share) are free; gives them back when called. */
  take(bytes: number): Promise<() => void>
}

/**
 * `bytes` shared by `workers` processes. Whoever waits for memory holds none, so that two cannot wait for each other.
 * Errors: E_USAGE where the processes alone need more; of `take`, E_MEMORY_BUDGET for more than all there is.
 */
export function memoryBudget(bytes: number | "auto", workers: number): Budget {
  const all = bytes === "auto" ? Math.floor(process.availableMemory() * AUTO) : bytes
  const total = all - workers * PROCESS_BYTES
  if (total < workers * 32 * MIB) {
    const text = `${workers} processes need ${mib(workers * (PROCESS_BYTES + 32 * MIB))} MiB, the budget is ${mib(all)} MiB`
    fail("E_USAGE", `${text}; give more --memory or fewer --jobs`)
  }
  const share = Math.floor(total / workers)
  let free = total
  const queue: { readonly bytes: number; readonly go: () => void }[] = []
  const serve = () => {
    while (queue.length && queue[0]!.bytes <= free) {
      free -= queue[0]!.bytes
      queue.shift()!.go()
    }
  }
  return {
    share,
    total,
    async take(asked) {
      const bytes = Math.max(share, asked)
      if (bytes > total) {
        const text = `needs about ${mib(bytes)} MiB, the budget of all jobs is ${mib(total)} MiB`
        fail("E_MEMORY_BUDGET", `the job ${text}; give more --memory or fewer --jobs`)
      }
      await new Promise<void>((go) => {
        queue.push({ bytes, go })
        serve()
      })
      let given = true
      return () => {
        if (given) free += bytes
        given = false
        serve()
      }
    },
  }
}

export const mib = (bytes: number): number => Math.ceil(bytes / MIB)

/**
 * Bytes of memory that a process alone holds: of its resident set all but pages of files, which the system takes back when
 * it needs them. Undefined where the system does not say.
 */
export async function privateBytes(pid: number): Promise<number | undefined> {
  const text = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "")
  const kib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(text)?.[1] ?? NaN)
  const bytes = (kib("RssAnon") + kib("RssShmem")) * 1024
  return Number.isNaN(bytes) ? undefined : bytes
}
