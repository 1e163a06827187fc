/** @file Connections to Redis for a queue; the only import of ioredis (https://github.com/redis/ioredis). */
import { randomUUID } from "node:crypto"
import { optional } from "./optional.ts"
import type { QueueServer } from "./server.ts"

const DRIVER = "ioredis@6"

/** Milliseconds until a server that does not answer counts as down. */
const CONNECT = 5000

/** Milliseconds between two tries to connect again. */
const AGAIN = 1000

/** What is used of ioredis' client; BullMQ makes itself more of it by `duplicate`. */
interface Client {
  readonly status: string
  connect(): Promise<unknown>
  disconnect(): void
  duplicate(...options: unknown[]): Client
}

/** Errors: E_USAGE without ioredis. */
export async function redisServer(url: string): Promise<QueueServer> {
  const { Redis } = await optional(() => import("ioredis"), "--queue redis://", `bullmq@6 ${DRIVER}`)
  return {
    driver: DRIVER,
    async probe() {
      // One that is frozen takes connections, too, and answers nothing.
      const patience = { connectTimeout: CONNECT, commandTimeout: CONNECT }
      const client = new Redis(url, { ...patience, lazyConnect: true, maxRetriesPerRequest: 0, retryStrategy: () => null }) // prettier-ignore
      client.on("error", () => {}) // connect() throws it too
      try {
        await client.connect()
        await client.ping()
      } finally {
        client.disconnect()
      }
    },
    connect(onError) {
      // BullMQ waits for ever with its blocking commands, and sends them again after a break.
      const client = new Redis(url, { maxRetriesPerRequest: null, retryStrategy: () => AGAIN })
      client.on("error", onError)
      const clients: Client[] = []
      const keep = (one: Client): Client => {
        clients.push(one)
        const duplicate = one.duplicate.bind(one)
        one.duplicate = (...options) => keep(duplicate(...options))
        return one
      }
      keep(client)
      return {
        connection: client,
        id: async () => /^run_id:(\w+)/m.exec(await client.info("server"))?.[1] ?? randomUUID(),
        isAway: () => client.status === "reconnecting",
        close: async () => client.disconnect(),
        cut: () => clients.forEach(end),
      }
    },
  }
}

/**
 * Between two tries to connect, ioredis' disconnect ends the tries and nothing else: no "end" comes, and what waits for it
 * or for an answer waits for ever. A try that is broken off before it begins ends all.
 */
function end(client: Client): void {
  if (client.status === "reconnecting") client.connect().catch(() => {})
  client.disconnect()
}
