/** @file Connections to PostgreSQL for a queue; the only import of pg (https://node-postgres.com). */
import { Socket } from "node:net"
import type { DatabaseError } from "pg"
import { loadBullmq } from "./bullmq.ts"
import { optional } from "./optional.ts"
import type { QueueServer } from "./server.ts"

/** Milliseconds until a server that does not answer counts as down. */
const CONNECT = 5000

/** Milliseconds until a server that does not answer a farewell, or what was asked before, is left without. */
const FAREWELL = 1000

const DRIVER = "pg@8"

/** The namespace of BullMQ's tables. */
const SCHEMA = "bullmq"

/** Errors: E_USAGE without pg. */
export async function postgresServer(url: string): Promise<QueueServer> {
  const pg = (await optional(() => import("pg"), "--queue postgres://", `bullmq@6 ${DRIVER}`)).default
  const { createPostgresBackend, runMigrations } = await loadBullmq(DRIVER)
  const backend: typeof createPostgresBackend = (...given) => {
    const made = createPostgresBackend(...given)
    // BullMQ looks once whether its tables are there, which probe() made, and where that fails it fails for ever.
    made.connection.waitUntilReady = async () => {}
    return made
  }
  return {
    driver: DRIVER,
    backend,
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
      const sockets = new Set<Socket>()
      const stream = () => {
        const socket = new Socket()
        sockets.add(socket)
        return socket.once("close", () => sockets.delete(socket))
      }
      const about = {
        connectionString: url,
        connectionTimeoutMillis: CONNECT,
        keepAlive: true,
        max: 4,
        options,
        stream,
      }
      const pool = new pg.Pool(about)
      pool.on("error", onError)
      // One that is lent has no listener of the pool's, and its break would end the process.
      pool.on("connect", (client) => client.on("error", onError))
      const query = pool.query.bind(pool) as (...given: unknown[]) => Promise<unknown>
      const asked = (...given: unknown[]) =>
        query(...given).catch((error: Error) => {
          throw pool.ended || answered(error, pg.DatabaseError) ? error : broken(error)
        })
      pool.query = asked as typeof pool.query
      let closed: Promise<void> | undefined
      const close = async () => {
        const late = setTimeout(() => sockets.forEach((socket) => socket.destroy()), FAREWELL)
        await (closed ??= pool.end()).finally(() => clearTimeout(late))
      }
      return {
        connection: pool,
        // One that lost its jobs would have lost their tables, too.
        id: async () => "",
        isAway: () => false,
        close,
        cut: () => void close().catch(() => {}),
      }
    },
  }
}

/**
 * Whether an error is the server's answer to what was asked. Without an SQLSTATE the connection broke; of those with one,
 * classes 08 (connection) and 57P (it ends, fell, or begins) and 53300 (connections are all taken) pass
 * (https://www.postgresql.org/docs/current/errcodes-appendix.html).
 */
const answered = (error: Error, answer: typeof DatabaseError): boolean =>
  error instanceof answer && !/^(08|57P|53300)/.test(error.code ?? "")

/**
 * BullMQ asks again after this code and no other: a worker that heard ECONNRESET when it told of a job's end would make the
 * job a failed one.
 */
const broken = (cause: Error): Error => Object.assign(new Error(cause.message, { cause }), { code: "ECONNREFUSED" })
