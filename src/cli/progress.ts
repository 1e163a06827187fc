/** @file How far a command is: a bar where a person looks; of training else a line now and then, and a step costs a look at the clock. */
import type { Options, SingleBar } from "cli-progress"
import { fail } from "../errors.ts"

export interface ProgressOptions {
  /** Steps of the whole run, and how many were done before this process began. */
  readonly total: number
  readonly done?: number
  /** Images in a step. */
  readonly batch: number
  /** One JSON object a line in place of a bar or text. */
  readonly json?: boolean
  readonly stream?: ProgressStream
  /** Seconds between two lines where there is no bar. */
  readonly every?: number
}

/** The part of `process.stderr` that is used. */
export type ProgressStream = NodeJS.WritableStream & { readonly isTTY?: boolean }

export interface TrainingProgress {
  /** `done` steps are done; `loss` is that of the last. */
  update(done: number, loss: number): void
  /** Show the last state; a bar is left as it is. */
  stop(): void
}

/** What is shown, as numbers: images per second since the last time, seconds left at the mean speed of this process. */
interface State {
  readonly step: number
  readonly total: number
  readonly loss: number
  readonly imagesPerSecond: number
  readonly secondsLeft: number
}

/** Shows one state. `end`: nothing comes after it. */
type Show = (state: State, end: boolean) => void

/** Seconds between two states of a bar; more often no eye can follow. */
const BAR_EVERY = 0.2

/** Error: E_INPUT for a total that is no number of steps. */
export async function trainingProgress(options: ProgressOptions): Promise<TrainingProgress> {
  const { total, done: start = 0, batch, json = false, stream = process.stderr, every = 30 } = options
  if (!Number.isSafeInteger(total) || total < start)
    fail("E_INPUT", `progress of ${total} steps of which ${start} are done; expected at least as many`)
  const isBar = !json && stream.isTTY === true
  const show = isBar ? await bar(stream, total, start) : json ? jsonLines(stream) : lines(stream)
  const pause = (isBar ? BAR_EVERY : every) * 1000
  const began = performance.now()
  let [shownAt, shownStep, step, lastLoss] = [began, start, start, NaN]
  let stopped = false

  const draw = (now: number, end: boolean) => {
    const imagesPerSecond = ((step - shownStep) * batch * 1000) / (now - shownAt)
    const secondsLeft = ((now - began) / 1000 / (step - start)) * (total - step)
    show({ step, total, loss: lastLoss, imagesPerSecond, secondsLeft }, end)
    ;[shownAt, shownStep] = [now, step]
  }
  return {
    update(done, loss) {
      ;[step, lastLoss] = [done, loss]
      const now = performance.now()
      if (now - shownAt >= pause && step > shownStep) draw(now, false)
    },
    stop() {
      if (stopped) return
      stopped = true
      const now = performance.now()
      // The speed of the whole, which is what the last state is for.
      ;[shownAt, shownStep] = [began, start]
      draw(now, true)
    },
  }
}

async function bar(stream: ProgressStream, total: number, start: number): Promise<Show> {
  const progress = await singleBar("{bar} {value}/{total}  loss {loss}  {speed} images/s  {left}", stream, {
    barsize: 24,
  })
  progress.start(total, start, { loss: "-", speed: "-", left: "" })
  // However the process ends, its terminal gets its cursor back.
  const restore = () => progress.stop()
  process.once("exit", restore)
  return ({ step, loss, imagesPerSecond, secondsLeft }, end) => {
    const left = end ? "" : `${duration(secondsLeft)} left`
    progress.update(step, { loss: short(loss), speed: short(imagesPerSecond), left })
    if (!end) return
    restore()
    process.removeListener("exit", restore)
  }
}

const lines =
  (stream: ProgressStream): Show =>
  ({ step, total, loss, imagesPerSecond, secondsLeft }, end) => {
    const left = end ? "" : `, ${duration(secondsLeft)} left`
    stream.write(`step ${step}/${total}: loss ${short(loss)}, ${short(imagesPerSecond)} images/s${left}\n`)
  }

/** Numbers that JSON lacks become null. */
const jsonLines =
  (stream: ProgressStream): Show =>
  ({ imagesPerSecond, secondsLeft, ...rest }) =>
    void stream.write(
      `${JSON.stringify({ progress: { ...rest, imagesPerSecond: round(imagesPerSecond), secondsLeft: round(secondsLeft) } })}\n`,
    )

const round = (x: number): number => Math.round(x * 10) / 10

/** Four digits: 2.303, 0.04512, 1385. */
function short(x: number): string {
  if (!Number.isFinite(x)) return "-"
  return Math.abs(x) >= 1000 ? String(Math.round(x)) : String(Number(x.toPrecision(4)))
}

/** "42s", "3m07s", "2h05m" */
function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?"
  const two = (n: number) => String(n).padStart(2, "0")
  const s = Math.round(seconds)
  if (s < 60) return `${s}s`
  if (s < 3600) return `${Math.floor(s / 60)}m${two(s % 60)}s`
  return `${Math.floor(s / 3600)}h${two(Math.floor(s / 60) % 60)}m`
}

interface Progress {
  update(done: number): void
  stop(): void
}

/** A bar on stderr, where that is a terminal, which is gone when all is done. Signals end the process, if the work is not `stoppable`. */
export async function progress(label: string, total: number, { stoppable = false } = {}): Promise<Progress> {
  if (!process.stderr.isTTY || total < 2) return { update() {}, stop() {} }
  const format = `${label} {bar} {value}/{total}  {duration_formatted}  left {eta_formatted}`
  const bar = await singleBar(format, process.stderr, { clearOnComplete: true })
  const release = stoppable ? undefined : restoring(bar)
  bar.start(total, 0)
  return {
    update: (done) => bar.update(done),
    stop: () => {
      bar.stop()
      release?.()
    },
  }
}

/** Give the terminal its cursor back however the command is interrupted, until what is given back is called. */
function restoring(bar: SingleBar): () => void {
  const interrupted = (signal: NodeJS.Signals) => {
    bar.stop()
    process.exit(signal === "SIGINT" ? 130 : 143)
  }
  const signals = ["SIGINT", "SIGTERM"] as const
  for (const signal of signals) process.once(signal, interrupted)
  return () => {
    for (const signal of signals) process.removeListener(signal, interrupted)
  }
}

export interface DownloadState {
  readonly repo: string
  readonly totalDone: number
  readonly total: number
}

/** Of downloads: a bar on a terminal, gone at the end; else a line every 30 s. Nothing where there is nothing to wait for. */
export function downloadProgress({
  json = false,
  stream = process.stderr,
  every = 30,
}: Pick<ProgressOptions, "json" | "stream" | "every"> = {}) {
  const isBar =
    !json && stream.isTTY === true && !/^(1|on|yes|true)$/i.test(process.env["HF_HUB_DISABLE_PROGRESS_BARS"] ?? "")
  const megabytes = (n: number) => `${(n / 1e6).toFixed(1)} MB`
  let bar: SingleBar | undefined
  let opening: Promise<void> | undefined
  let last: DownloadState | undefined
  let stopped = false
  let shownAt = performance.now()

  const open = async () => {
    const made = await singleBar("{repo} {bar} {percentage} %  {size}  left {eta_formatted}", stream, {
      clearOnComplete: true,
    })
    if (stopped || !last) return
    made.start(last.total, last.totalDone, { repo: last.repo, size: "" })
    bar = made
  }
  return {
    update: (state: DownloadState): void => {
      last = state
      const { repo, totalDone, total } = state
      if (isBar) {
        opening ??= open()
        bar?.setTotal(total)
        bar?.update(totalDone, { repo, size: `${megabytes(totalDone)} of ${megabytes(total)}` })
        return
      }
      const now = performance.now()
      if (now - shownAt < every * 1000) return
      shownAt = now
      const line = json
        ? JSON.stringify({ download: { repo, done: totalDone, total } })
        : `${repo}: ${megabytes(totalDone)} of ${megabytes(total)}`
      stream.write(`${line}\n`)
    },
    stop: (): void => {
      stopped = true
      bar?.stop()
    },
  }
}

async function singleBar(format: string, stream: ProgressStream, more: Options): Promise<SingleBar> {
  const cli = await import("cli-progress")
  // cli-progress's own handlers only stop the bar: the command would go on after Ctrl-C.
  const options = { format, stream, hideCursor: true, gracefulExit: false, ...more }
  return new cli.SingleBar(options, cli.Presets.shades_classic)
}

/** Work on many things, some at a time. */
export interface ManyBars {
  /** Begin, change or end the line of one that is at work. */
  line(name: string, text: string | undefined): void
  update(done: number, text: string): void
  /** Leave a line behind, above the bars. */
  log(text: string): void
  stop(): void
}

/** A bar of all, and under it a line for each that is at work; for a terminal. */
export async function manyBars(what: string, total: number, stream: ProgressStream): Promise<ManyBars> {
  const cli = await import("cli-progress")
  const all = { format: `${what} {bar} {value}/{total}  {text}  left {eta_formatted}`, hideCursor: true, stream }
  const bars = new cli.MultiBar({ ...all, clearOnComplete: true, gracefulExit: false }, cli.Presets.shades_classic)
  const whole = bars.create(total, 0, { text: "" })
  const lines = new Map<string, SingleBar>()
  const restore = () => bars.stop()
  process.once("exit", restore)
  return {
    line(name, text) {
      const there = lines.get(name)
      if (text !== undefined && there) there.update({ text })
      else if (text !== undefined) lines.set(name, bars.create(1, 0, { name, text }, { format: "  {name}  {text}" }))
      else if (there) {
        lines.delete(name)
        bars.remove(there)
      }
    },
    update: (done, text) => whole.update(done, { text }),
    log: (text) => bars.log(`${text}\n`),
    stop: () => {
      restore()
      process.removeListener("exit", restore)
    },
  }
}
