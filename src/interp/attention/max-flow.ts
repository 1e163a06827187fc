/** @file Maximum flow through a network of real capacities (Dinic's algorithm, https://en.wikipedia.org/wiki/Dinic%27s_algorithm). */

export interface Edge {
  readonly from: number
  readonly to: number
  readonly capacity: number
}

/** What is left of a capacity is rounding. */
const NOTHING = 1e-12

/** A network, to be asked for the flow between any two of its nodes 0 to n - 1. */
export function flowNetwork(n: number, edges: readonly Edge[]): (source: number, sink: number) => number {
  // Edge 2i and its reverse, 2i + 1; those of a node are a linked list.
  const to = new Int32Array(2 * edges.length)
  const next = new Int32Array(2 * edges.length)
  const head = new Int32Array(n).fill(-1)
  for (const [i, e] of edges.entries()) {
    for (const [at, from, target] of [
      [2 * i, e.from, e.to],
      [2 * i + 1, e.to, e.from],
    ] as const) {
      to[at] = target
      next[at] = head[from]!
      head[from] = at
    }
  }
  const left = new Float64Array(2 * edges.length)
  const level = new Int32Array(n)
  const turn = new Int32Array(n)

  /** How far each node is from the source; false where the sink is out of reach. */
  const levels = (source: number, sink: number): boolean => {
    level.fill(-1)
    level[source] = 0
    const queue = [source]
    for (const node of queue) {
      for (let e = head[node]!; e >= 0; e = next[e]!) {
        const target = to[e]!
        if (left[e]! <= NOTHING || level[target]! >= 0) continue
        level[target] = level[node]! + 1
        queue.push(target)
      }
    }
    return level[sink]! >= 0
  }

  /** Send at most `most` from `node` down the levels; an edge that led nowhere is not tried again. */
  const send = (node: number, sink: number, most: number): number => {
    if (node === sink) return most
    let sent = 0
    for (; turn[node]! >= 0; turn[node] = next[turn[node]!]!) {
      const e = turn[node]!
      const target = to[e]!
      if (left[e]! <= NOTHING || level[target] !== level[node]! + 1) continue
      const got = send(target, sink, Math.min(most - sent, left[e]!))
      left[e]! -= got
      left[e ^ 1]! += got
      sent += got
      if (most - sent <= NOTHING) return sent
    }
    return sent
  }

  return (source, sink) => {
    for (const [i, { capacity }] of edges.entries()) {
      left[2 * i] = capacity
      left[2 * i + 1] = 0
    }
    let total = 0
    while (levels(source, sink)) {
      turn.set(head)
      total += send(source, sink, Infinity)
    }
    return total
  }
}
