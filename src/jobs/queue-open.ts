/** @file A queue that can be left at any time, also while its server is away. */
import { PrismaError } from "../errors.ts"
import { type Bullmq, openBullmq } from "./bullmq.ts"
import type { Connected, NamedServer } from "./server.ts"

/** Milliseconds for what is still to be told to the server; with 25 s of grace before, a worker has ended within 30. */
const LAST = 1500

/** What is used of ioredis' client; BullMQ makes itself more of it by `duplicate`. */
interface RedisClient {
  readonly status: string
  connect(): Promise<unknown>
  disconnect(): void
  duplicate(...options: unknown[]): RedisClient
}

/**
 * As openBullmq. `close` does not wait for a server that does not answer: its connections are cut, so that all that waits
 * for them ends with an error, and `onError` is told E_QUEUE.
 */
export async function openQueue(server: NamedServer, name: string, onError: (error: Error) => void): Promise<Bullmq> {
  const clients: RedisClient[] = []
  const keep = (client: RedisClient): RedisClient => {
    clients.push(client)
    const duplicate = client.duplicate.bind(client)
    client.duplicate = (...options) => keep(duplicate(...options))
    return client
  }
  let [isCut, close] = [false, async () => {}]
  const tell = (error: Error) => isCut || onError(error)
  const connect = (told: (error: Error) => void): Connected => {
    const made = server.connect(told)
    if (!server.backend) keep(made.connection as RedisClient)
    let closed: Promise<void> | undefined
    close = () => (closed ??= made.close())
    return { ...made, close }
  }
  const bull = await openBullmq({ ...server, connect }, name, tell)
  const cut = () => {
    const text = `${server.name} does not answer and was left without a word; its jobs go on when it is back`
    onError(new PrismaError("E_QUEUE", text, { url: server.name, retryable: true }))
    isCut = true
    for (const client of clients) end(client)
    close().catch(() => {})
  }
  return {
    ...bull,
    async close() {
      // While Redis is away nothing can be told.
      const late = setTimeout(cut, clients[0]?.status === "reconnecting" ? 0 : LAST)
      await bull.close().finally(() => clearTimeout(late))
    },
  }
}

/**
 * Between two tries to connect, ioredis' disconnect ends the tries and nothing else: no "end" comes, and what waits for it
 * or for an answer waits for ever. A try that is broken off before it begins ends all.
 */
function end(client: RedisClient): void {
  if (client.status === "reconnecting") client.connect().catch(() => {})
  client.disconnect()
}
