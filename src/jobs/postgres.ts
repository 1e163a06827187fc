/** @file Connections to PostgreSQL for a queue; the only import of pg (https://node-postgres.com). */
import { loadBullmq } from "./bullmq.ts"
import { optional } from "./optional.ts"
import type { QueueServer } from "./server.ts"

/** Milliseconds until a server that does not answer counts as down. */
const CONNECT = 5000

const DRIVER = "pg@8"

/** The namespace of BullMQ's tables. */
const SCHEMA = "bullmq"

/** Errors: E_USAGE without pg. */
export async function postgresServer(url: string): Promise<QueueServer> {
  const pg = (await optional(() => import("pg"), "--queue postgres://", `bullmq@6 ${DRIVER}`)).default
  const { createPostgresBackend, runMigrations } = await loadBullmq(DRIVER)
  return {
    driver: DRIVER,
    backend: createPostgresBackend,
    async probe() {
      const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: CONNECT })
      client.on("error", () => {}) // connect() and query() throw it too
      try {
        await client.connect()
        // Makes BullMQ's tables where they are not there; nothing where they are.
        await runMigrations(client, SCHEMA)
      } finally {
        await client.end().catch(() => {})
      }
    },
    connect(onError) {
      const options = `-c search_path=${SCHEMA}`
      const about = { connectionString: url, connectionTimeoutMillis: CONNECT, keepAlive: true, max: 4, options }
      const pool = new pg.Pool(about)
      pool.on("error", onError)
      return { connection: pool, close: () => pool.end() }
    },
  }
}
