/** @file Connections to Redis for a queue; the only import of ioredis (https://github.com/redis/ioredis). */
import { randomUUID } from "node:crypto"
import { optional } from "./optional.ts"
import type { QueueServer } from "./server.ts"

const DRIVER = "ioredis@6"

/** Milliseconds until a server that does not answer counts as down. */
const CONNECT = 5000

/** Milliseconds between two tries to connect again. */
const AGAIN = 1000

/** Errors: E_USAGE without ioredis. */
export async function redisServer(url: string): Promise<QueueServer> {
  const { Redis } = await optional(() => import("ioredis"), "--queue redis://", `bullmq@6 ${DRIVER}`)
  return {
    driver: DRIVER,
    async probe() {
      const once = { lazyConnect: true, connectTimeout: CONNECT, maxRetriesPerRequest: 0, retryStrategy: () => null }
      const client = new Redis(url, once)
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
      return {
        connection: client,
        id: async () => /^run_id:(\w+)/m.exec(await client.info("server"))?.[1] ?? randomUUID(),
        close: async () => client.disconnect(),
      }
    },
  }
}
