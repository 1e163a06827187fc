/** @file What carries requests to a thread (https://nodejs.org/api/worker_threads.html) or to a process
 * (https://nodejs.org/api/child_process.html) and answers back, so that both are used alike. */
import { fork } from "node:child_process"
import { MessageChannel, receiveMessageOnPort, type Transferable, Worker, workerData } from "node:worker_threads"
import { fail } from "../errors.ts"

export type { Transferable }

export interface Carrier {
  post(request: unknown): void
  /** Does it keep this process alive? */
  hold(held: boolean): void
  end(): void
}

export interface Listener {
  readonly answer: (reply: unknown) => void
  /** It ended by itself, after its last answer; not called after `end`. */
  readonly gone: (what: string) => void
}

/** Starts `module`, whose heap may have `heapMiB` MiB. */
export type Carry = (module: URL, heapMiB: number | undefined, listener: Listener) => Carrier

/** A thread: it starts quickly and hands bytes over without a copy. A single array above the limit ends the process. */
export const inThread: Carry = (module, heapMiB, { answer, gone }) => {
  const { port1: port, port2 } = new MessageChannel()
  const worker = new Worker(module, {
    workerData: { port: port2 },
    transferList: [port2],
    execArgv: [],
    ...(heapMiB !== undefined && { resourceLimits: { maxOldGenerationSizeMb: heapMiB } }),
  })
  let [ended, last] = [false, ""]
  port.on("message", (reply) => ended || answer(reply)) // also those that were under way when it was ended
  port.unref()
  worker.on("error", (error) => (last = error.message))
  worker.on("exit", (code) => {
    if (ended) return
    for (let m = receiveMessageOnPort(port); m; m = receiveMessageOnPort(port)) answer(m.message)
    port.close()
    gone(last || `ended with exit code ${code}`)
  })
  return {
    post: (request) => port.postMessage(request, []),
    hold: (held) => (held ? worker.ref() : worker.unref()),
    end() {
      ended = true
      port.close()
      void worker.terminate()
    },
  }
}

/** Bytes of the end of stderr that are kept: V8 says there that the heap is full. */
const TAIL = 1 << 16

/** A process: nothing that it does ends this one; answers are copied. */
export const inProcess: Carry = (module, heapMiB, { answer, gone }) => {
  const child = fork(module, {
    serialization: "advanced",
    execArgv: heapMiB === undefined ? [] : [`--max-old-space-size=${heapMiB}`],
    stdio: ["ignore", "ignore", "pipe", "ipc"],
  })
  let [ended, said] = [false, ""]
  const kill = () => child.kill("SIGKILL")
  const end = () => {
    ended = true
    process.removeListener("exit", kill)
    kill()
    child.stderr!.destroy()
  }
  process.once("exit", kill)
  child.stderr!.setEncoding("utf8").on("data", (text: string) => (said = (said + text).slice(-TAIL)))
  child.on("message", (reply) => ended || answer(reply))
  child.once("error", (error) => ended || (end(), gone(`could not begin: ${error.message}`)))
  // All of its output, answers among it, has come by then.
  child.once("close", (code, signal) => {
    if (ended) return
    end()
    const how = signal === null ? `ended with exit code ${code}` : `was ended by ${signal}`
    gone(said.includes("heap out of memory") ? "ran out of memory" : how)
  })
  return {
    post: (request) => void child.send(request as object, () => {}), // one that is gone says so by "close"
    hold(held) {
      const parts = [child, child.channel, child.stderr as unknown as { ref(): void; unref(): void }]
      for (const part of parts) part?.[held ? "ref" : "unref"]()
    },
    end,
  }
}

/** The other side's way to take requests and to answer them. Error: E_USAGE in a module that neither of both started. */
export function carried(): {
  readonly onRequest: (take: (request: unknown) => void) => void
  readonly reply: (reply: unknown, moved: Transferable[]) => void
} {
  const { port } = (workerData ?? {}) as { port?: MessageChannel["port2"] }
  if (port !== undefined) {
    return { onRequest: (take) => port.on("message", take), reply: (reply, moved) => port.postMessage(reply, moved) }
  }
  if (process.send === undefined) {
    return fail("E_USAGE", "this module runs in a thread or process of a dataset, not by itself")
  }
  // Ctrl-C reaches the whole group of processes: the one that asks decides.
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => {})
  process.once("disconnect", () => process.exit())
  return { onRequest: (take) => process.on("message", take), reply: (reply) => void process.send!(reply) }
}
