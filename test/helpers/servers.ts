/** @file Servers for tests of queues, from the system's packages (redis-server, postgresql), each in a folder and on a port of its own. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process"
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs"
import { createConnection, createServer, type AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { delimiter, join } from "node:path"
import { Client } from "pg"

export interface TestServer {
  readonly url: string
  /** End it as a machine that loses power would. */
  kill(): Promise<void>
  /** Begin it again at the same address; Redis, which keeps nothing here, comes back empty. */
  start(): Promise<void>
  /** End it and remove all it wrote. */
  remove(): Promise<void>
}

const folders = (process.env["PATH"] ?? "").split(delimiter)
const debian = "/usr/lib/postgresql"
const versions = existsSync(debian) ? readdirSync(debian).map((v) => join(debian, v, "bin")) : []
const find = (name: string): string | undefined =>
  [...folders, ...versions].map((folder) => join(folder, name)).find((path) => existsSync(path))

const REDIS = find("redis-server")
const [INITDB, POSTGRES] = [find("initdb"), find("postgres")]

/** Servers that this machine may have. */
export const SERVERS: readonly {
  readonly name: "Redis" | "PostgreSQL"
  readonly here: boolean
  /** How Debian gets it. */
  readonly install: string
  readonly open: () => Promise<TestServer>
}[] = [
  { name: "Redis", here: REDIS !== undefined, install: "apt-get install redis-server", open: redis },
  {
    name: "PostgreSQL",
    here: INITDB !== undefined && POSTGRES !== undefined,
    install: "apt-get install postgresql",
    open: postgres,
  },
]

async function redis(): Promise<TestServer> {
  const folder = mkdtempSync(join(tmpdir(), "vit-prisma-redis-"))
  const port = await freePort()
  const args = ["--port", String(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]
  const begin = () => spawn(REDIS!, args, { stdio: "ignore" })
  return started({ url: `redis://127.0.0.1:${port}`, folder, begin, end: "SIGKILL", ready: () => answers(port) })
}

async function postgres(): Promise<TestServer> {
  const folder = mkdtempSync(join(tmpdir(), "vit-prisma-postgres-"))
  const port = await freePort()
  // It refuses to run as root.
  const user = process.getuid?.() === 0 ? unprivileged() : undefined
  if (user) chownSync(folder, user.uid, user.gid)
  const data = join(folder, "data")
  const plain = ["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C"]
  execFileSync(INITDB!, ["-D", data, ...plain], { ...user, stdio: "ignore", cwd: folder })
  const args = ["-D", data, "-p", String(port), "-k", folder, "-h", "127.0.0.1", "-F"]
  const begin = () => spawn(POSTGRES!, args, { ...user, stdio: "ignore", cwd: folder })
  const url = `postgres://postgres@127.0.0.1:${port}/postgres`
  const ready = async () => {
    const client = new Client({ connectionString: url })
    client.on("error", () => {})
    const there = await client.connect().then(
      () => true,
      () => false, // it is not there, or still repairs what its end left
    )
    await client.end().catch(() => {})
    return there
  }
  // To SIGQUIT it ends at once and repairs itself at the next start; after SIGKILL its own children would stand in its way.
  return started({ url, folder, begin, end: "SIGQUIT", ready })
}

function unprivileged(): { uid: number; gid: number } {
  const id = (flag: string, name: string) => Number(execFileSync("id", [flag, name], { encoding: "utf8" }))
  for (const name of ["postgres", "nobody"]) {
    try {
      return { uid: id("-u", name), gid: id("-g", name) }
    } catch {
      continue
    }
  }
  throw new Error("no user for a server that refuses to run as root")
}

interface Startable {
  readonly url: string
  readonly folder: string
  readonly begin: () => ChildProcess
  readonly end: NodeJS.Signals
  readonly ready: () => Promise<boolean>
}

async function started({ url, folder, begin, end, ready }: Startable): Promise<TestServer> {
  let child: ChildProcess | undefined
  const stop = () => void child?.kill(end)
  process.once("exit", stop)
  const server: TestServer = {
    url,
    async kill() {
      const ended = new Promise((done) => child!.once("close", done))
      stop()
      await ended
    },
    async start() {
      child = begin()
      for (let i = 0; !(await ready()); i++) {
        if (i > 200 || child.exitCode !== null) throw new Error(`${url} did not begin`)
        await new Promise((done) => setTimeout(done, 50))
      }
    },
    async remove() {
      if (child?.exitCode === null && child.signalCode === null) await server.kill()
      process.removeListener("exit", stop)
      rmSync(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 })
    },
  }
  await server.start()
  return server
}

const answers = (port: number): Promise<boolean> =>
  new Promise((done) => {
    const socket = createConnection({ port, host: "127.0.0.1" })
    socket.once("connect", () => (socket.destroy(), done(true))).once("error", () => done(false))
  })

const freePort = (): Promise<number> =>
  new Promise((done) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo
      server.close(() => done(port))
    })
  })
