/** @file The same work on many things, some at a time; the first failure ends what has not begun. */

/** `work` on each item, at most `width` at once. Error: the first of `work`, when all that had begun has ended. */
export async function parallel<T>(
  items: readonly T[],
  width: number,
  work: (item: T, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const { default: PQueue } = await import("p-queue")
  const queue = new PQueue({ concurrency: width })
  const stop = new AbortController()
  const failures: unknown[] = []
  for (const item of items) {
    void queue.add(async () => {
      if (stop.signal.aborted) return
      await work(item, stop.signal).catch((error: unknown) => {
        failures.push(error)
        stop.abort(error)
      })
    })
  }
  await queue.onIdle()
  if (failures.length) throw failures[0]
}
