/** @file A way to a server that breaks at the worst moment. */
import { createConnection, createServer, type AddressInfo, type Socket } from "node:net"

export interface BreakingWay {
  /** The server's URL by this way. */
  readonly url: string
  /** How often it is still to break. */
  readonly left: () => number
  close(): Promise<void>
}

/**
 * Connections are reset where a client says `text`: "unheard" before the server has it, "unanswered" before the client has
 * the answer; once for each of `breaks`, in order, and then no more.
 */
export async function breakingWay(
  url: string,
  text: string,
  breaks: readonly ("unheard" | "unanswered")[],
): Promise<BreakingWay> {
  const to = new URL(url)
  const left = [...breaks]
  const open = new Set<Socket>()
  const server = createServer((client) => {
    const there = createConnection(Number(to.port), to.hostname)
    const both = [client, there]
    const reset = () => both.forEach((socket) => socket.resetAndDestroy())
    let unanswered = false
    client.on("data", (data) => {
      const next = data.includes(text) ? left.shift() : undefined
      if (next === "unheard") return reset()
      unanswered ||= next === "unanswered"
      there.write(data)
    })
    there.on("data", (data) => (unanswered ? reset() : client.write(data)))
    for (const socket of both) {
      open.add(socket)
      socket.on("error", () => {}) // "close" follows
      socket.on("close", () => {
        open.delete(socket)
        both.forEach((other) => other.destroy())
      })
    }
  })
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done))
  const by = new URL(url)
  by.port = String((server.address() as AddressInfo).port)
  return {
    url: by.href,
    left: () => left.length,
    async close() {
      open.forEach((socket) => socket.destroy())
      await new Promise((done) => server.close(done))
    },
  }
}
