/** @file A queue that can be left at any time, also while its server is away. */
import { PrismaError } from "../errors.ts"
import { type Bullmq, openBullmq } from "./bullmq.ts"
import type { Connected, NamedServer } from "./server.ts"

/** Milliseconds for what is still to be told to the server; with 25 s of grace before, a worker has ended within 30. */
const LAST = 1500

/**
 * As openBullmq. `close` does not wait for a server that does not answer: its connections are cut, so that all that waits
 * for them ends with an error, and `onError` is told E_QUEUE.
 */
export async function openQueue(server: NamedServer, name: string, onError: (error: Error) => void): Promise<Bullmq> {
  let [isCut, connected] = [false, undefined as Connected | undefined]
  const tell = (error: Error) => isCut || onError(error)
  const connect = (told: (error: Error) => void): Connected => (connected = server.connect(told))
  const bull = await openBullmq({ ...server, connect }, name, tell)
  const cut = () => {
    const text = `${server.name} does not answer and was left without a word; its jobs go on when it is back`
    onError(new PrismaError("E_QUEUE", text, { url: server.name, retryable: true }))
    isCut = true
    connected?.cut()
  }
  return {
    ...bull,
    async close() {
      const late = setTimeout(cut, connected?.isAway() ? 0 : LAST)
      await bull.close().finally(() => clearTimeout(late))
    },
  }
}
