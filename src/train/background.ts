/** @file Work that goes on beside a loop: one piece after the other, few waiting, and whoever comes next meets a failure. */

export interface Background {
  /** Hand over a piece of work; waits while as many as may be are under way. Error: that of an earlier piece. */
  add(work: () => Promise<void>): Promise<void>
  /** Error: that of an earlier piece, after which no other was begun. */
  check(): void
  /** Wait until all is done. Error: as of `check`. */
  settle(): Promise<void>
}

/** At most `limit` pieces are under way, the one that is done now and those that wait. */
export function background(limit: number): Background {
  const under: Promise<void>[] = []
  let failure: { readonly error: unknown } | undefined

  const check = () => {
    if (failure) throw failure.error
  }
  const one = async (before: Promise<void> | undefined, work: () => Promise<void>) => {
    await before
    try {
      if (!failure) await work()
    } catch (error) {
      failure = { error }
    }
    void under.shift()
  }
  return {
    async add(work) {
      while (under.length >= limit) await under[0]
      check()
      under.push(one(under.at(-1), work))
    },
    check,
    async settle() {
      await under.at(-1)
      check()
    },
  }
}
