/** @file compile: a part of a graph as an async function on tensors, its session kept by content. */
import { fail, PrismaError } from "../errors.ts"
import { bind, type Shape } from "../graph/dims.ts"
import type { Values } from "../graph/emit.ts"
import type { Value } from "../graph/value.ts"
import { DTYPES, show, size, tensor, type DType, type Tensor } from "../tensor/tensor.ts"
import { noSession, providers, type Device } from "./devices.ts"
import { type Allocate, type BoundPort, InPlace } from "./in-place.ts"
import type { OrtModule, OrtSession, OrtTensor } from "./ort.ts"
import { located, type Part, sameBytes } from "./part.ts"

export type Feeds = Readonly<Record<string, Tensor>>

/** Feeds by input name in, tensors by output name out. */
export type Compiled<O extends string = string> = (feeds: Feeds) => Promise<Record<O, Tensor>>

export interface RuntimeOptions {
  readonly device?: Device
  /** Threads inside one operator; by default one a physical core, as `nodeRuntime` or else onnxruntime counts them. */
  readonly threads?: number
  /** Copy weights into the layout that Gemm likes best: 350 ms and one private copy of them for about 5 % at batch 8. */
  readonly prepack?: boolean
  /** Sessions are kept while their estimated private memory is below this many bytes (default 1 GiB). */
  readonly memoryBudget?: number
  /** Makes memory for results: onnxruntime computes into it instead of copying them there, on the CPU and where the module
   * can. `nodeRuntime` has one. */
  readonly allocate?: Allocate
  /**
   * Compute with 0 in place of float32 numbers below 1.2e-38, which Intel's processors are slow with: a confident model's
   * training step took 2 to 38 s instead of 1.6. `nodeRuntime` does so unless this is false. onnxruntime
   * sets the thread that makes a process's first session to it, for good: JavaScript's own numbers below 2.2e-308 are 0 there
   * too. Where the first session was made otherwise all stays as it was, for all threads must do the same.
   */
  readonly flushSubnormals?: boolean
  /** Further session options, passed on as they are. */
  readonly session?: Readonly<Record<string, unknown>>
}

const MEMORY_BUDGET = 2 ** 30

// Measured on a ViT-B/16 whose weights stay in their file: a session's nodes and arena.
const SESSION_BYTES = 10 * 2 ** 20

/** What is made of weights alone is computed once, by onnxruntime's optimizers, where it is more than this. */
const FIXED_BYTES = 2 ** 20

const TINY = Float64Array.of(Number.MIN_VALUE)

/** Does this thread compute with 0 in place of subnormal numbers? */
const flushes = (): boolean => TINY.every((x) => 2 * x === 0)

interface Kept {
  readonly bytes: Uint8Array
  readonly folder: string
  readonly session: Promise<OrtSession>
  readonly cost: number
  running: number
}

/** Makes sessions with one onnxruntime module and keeps them, least recently used dropped first. */
export class Runtime {
  readonly #ort: OrtModule
  readonly #options: RuntimeOptions
  readonly #kept = new Map<string, Kept>()
  readonly #onCpu: boolean
  readonly #inPlace: InPlace | undefined
  #flush: boolean
  #providers: readonly string[][] | undefined
  #made = 0

  constructor(ort: OrtModule, options: RuntimeOptions = {}) {
    this.#ort = ort
    this.#options = options
    const { allocate, device = "cpu", flushSubnormals = false, memoryBudget = MEMORY_BUDGET } = options
    this.#flush = flushSubnormals
    this.#onCpu = device === "cpu" || (device === "auto" && providers(ort, device).length === 1)
    if (allocate && this.#onCpu) this.#inPlace = new InPlace(allocate, memoryBudget)
  }

  /** Threads inside one operator, where it was said how many. */
  get threads(): number | undefined {
    return this.#options.threads
  }

  /** How many sessions were made so far, and how many are kept now. */
  get sessions(): { readonly made: number; readonly kept: number } {
    return { made: this.#made, kept: this.#kept.size }
  }

  /**
   * The graph between `inputs` and `outputs` as a function. Equal graphs over the same weights share one session.
   * Errors: E_INPUT for a feed whose dtype or shape is not the input's, before anything runs.
   */
  async compile<O extends string>(inputs: Values, outputs: Readonly<Record<O, Value>>): Promise<Compiled<O>> {
    const part = located(inputs, outputs, { stops: this.#writer !== undefined, fused: this.#onCpu })
    // Where all outputs are fed there is nothing to compute, and onnxruntime refuses a graph without nodes.
    if ([...part.outputs.values()].some((o) => !o.fed)) await this.#with(part, async () => {})
    return (feeds) => this.#run(part, inputs, feeds)
  }

  /** Give all sessions back. */
  async release(): Promise<void> {
    const all = [...this.#kept.values()]
    this.#kept.clear()
    this.#inPlace?.clear()
    for (const { session } of all) await (await session).release()
  }

  async #run<O extends string>(part: Part, inputs: Values, feeds: Feeds): Promise<Record<O, Tensor>> {
    const symbols = checkFeeds(inputs, part.inputs, feeds)
    const ports = part.ports.map(({ name, dtype, shape }) => ({
      name,
      dtype,
      shape: shape.map((d) => bind(d, symbols)),
    }))
    const fetched = ports.length ? await this.#fetch(part, feeds, ports) : {}
    const out: Record<string, Tensor> = {}
    for (const [name, { port, fed, shape }] of part.outputs) {
      const bound = shape.map((d) => bind(d, symbols))
      const found = fed ? feeds[port]! : fetched[port]!
      if (fed) this.#inPlace?.leave(found)
      out[name] = { ...found, shape: bound }
    }
    return out
  }

  /** The model's outputs by the names of its ports. */
  async #fetch(part: Part, feeds: Feeds, ports: readonly BoundPort[]): Promise<Record<string, Tensor>> {
    const fed = Object.fromEntries(part.inputs.map((name) => [name, this.#toOrt(feeds[name]!)]))
    const read = async (session: OrtSession) => {
      const tried = part.stops ? this.#writer : undefined
      const written = await tried?.run(session, fed, ports, (t) => this.#toOrt(t))
      if (written) return Object.fromEntries(written.map((t, i) => [ports[i]!.name, t]))
      const names = ports.map(({ name }) => name)
      const got = await session.run(fed, names)
      tried?.refuse()
      return Object.fromEntries(ports.map(({ name, shape }) => [name, fromOrt(got[name]!, shape)]))
    }
    return this.#with(part, (session) =>
      read(session).catch((cause: unknown) => failed("the model failed while running", cause)),
    )
  }

  /** What writes results in place, unless that was tried in vain. */
  get #writer(): InPlace | undefined {
    return this.#inPlace?.refused ? undefined : this.#inPlace
  }

  /**
   * Results that are no longer needed: their arrays are used for later ones, and whoever still holds them finds them empty.
   * What this runtime did not make is left alone.
   */
  giveBack(tensors: Iterable<Tensor>): void {
    this.#inPlace?.giveBack(tensors)
  }

  /** Use the session of a graph, which is not dropped meanwhile. */
  async #with<T>(part: Part, use: (session: OrtSession) => Promise<T>): Promise<T> {
    const kept = this.#session(part)
    kept.running++
    try {
      return await use(await kept.session)
    } finally {
      kept.running--
      await this.#trim()
    }
  }

  #session(part: Part): Kept {
    const { bytes, folder, key } = part
    const known = this.#kept.get(key)
    this.#kept.delete(key)
    if (known && sameBytes(known.bytes, bytes)) {
      this.#kept.set(key, known)
      return known
    }
    const session = this.#create(part)
    const kept: Kept = { bytes, folder, session, cost: SESSION_BYTES + bytes.length, running: 0 }
    this.#kept.set(key, kept)
    session.catch(() => this.#kept.delete(key))
    return kept
  }

  /** `candidates` are tried in turn; what works is what later sessions start with. */
  async #create(part: Part, candidates?: readonly string[][]): Promise<OrtSession> {
    const { bytes, folder, fixedBytes } = part
    const { prepack, threads, session, device = "cpu" } = this.#options
    const tried = candidates ?? this.#providers ?? providers(this.#ort, device)
    const flush = this.#flush || flushes()
    try {
      const made = await this.#ort.InferenceSession.create(bytes, {
        executionProviders: tried[0],
        // The plan of a first run is a second arena for all later ones: as much memory again and no time won.
        enableMemPattern: false,
        // What onnxruntime would fuse is written fused: its search takes two fifths of a session's making and finds nothing.
        ...(this.#onCpu && fixedBytes <= FIXED_BYTES && { graphOptimizationLevel: "disabled" }),
        logSeverityLevel: 4, // what goes wrong is in the error, once
        ...(threads !== undefined && { intraOpNumThreads: threads }),
        ...session,
        extra: {
          session: {
            // Threads that go on spinning after a run take a core from what JavaScript does next.
            force_spinning_stop: "1",
            ...(flush && { set_denormal_as_zero: "1" }),
            ...(!prepack && { disable_prepacking: "1" }),
            ...(folder && { model_external_initializers_file_folder_path: folder }),
          },
        },
      })
      this.#providers = tried
      if (flush && !flushes()) {
        // Another session came first: its other threads would round otherwise than this one, now here, now there.
        this.#flush = false
        await made.release()
        return this.#create(part, tried)
      }
      this.#made++
      return made
    } catch (cause) {
      return tried.length > 1 ? this.#create(part, tried.slice(1)) : noSession(device, cause)
    }
  }

  async #trim(): Promise<void> {
    const { memoryBudget = MEMORY_BUDGET } = this.#options
    let total = [...this.#kept.values()].reduce((n, k) => n + k.cost, 0)
    const newest = [...this.#kept.keys()].at(-1)
    for (const [key, kept] of this.#kept) {
      if (total <= memoryBudget) return
      if (kept.running || key === newest) continue
      this.#kept.delete(key)
      total -= kept.cost
      await (await kept.session).release()
    }
  }

  #toOrt(t: Tensor): OrtTensor {
    return new this.#ort.Tensor(t.dtype as never, t.data as never, t.shape)
  }
}

/** Bind the names in the inputs' shapes to the fed sizes; every feed must fit its input. */
function checkFeeds(inputs: Values, needed: readonly string[], feeds: Feeds): Map<string, number> {
  const symbols = new Map<string, number>()
  const bound = new Map<string, string>()
  for (const [name, { shape, dtype }] of Object.entries(inputs)) {
    const feed = feeds[name]
    if (!feed) {
      if (needed.includes(name)) fail("E_INPUT", `the input "${name}" ${show(shape)} is needed and was not given`)
      continue
    }
    if (feed.dtype !== dtype) fail("E_INPUT", `the input "${name}" is ${dtype}, got ${feed.dtype}`, { tensor: name })
    checkShape(name, shape, feed.shape, symbols, bound)
    if (feed.data.length !== size(feed.shape)) {
      fail("E_INPUT", `the input "${name}" of shape ${show(feed.shape)} holds ${feed.data.length} values`, {
        tensor: name,
      })
    }
  }
  return symbols
}

function checkShape(
  name: string,
  want: Shape,
  got: readonly number[],
  symbols: Map<string, number>,
  bound: Map<string, string>,
): void {
  const misfit = () =>
    fail("E_INPUT", `the input "${name}" wants shape ${show(want)}, got ${show(got)}`, { tensor: name })
  if (want.length !== got.length) misfit()
  for (const [i, d] of want.entries()) {
    if (typeof d === "number") {
      if (d !== got[i]) misfit()
      continue
    }
    const known = symbols.get(d)
    if (known === undefined) {
      symbols.set(d, got[i]!)
      bound.set(d, name)
    } else if (known !== got[i]) {
      fail("E_INPUT", `"${d}" is ${known} in "${bound.get(d)}" and ${got[i]} in "${name}"; they must be equal`, {
        tensor: name,
      })
    }
  }
}

function fromOrt(t: OrtTensor, shape: readonly number[]): Tensor {
  const dtype = t.type as DType
  if (!(dtype in DTYPES)) fail("E_RUNTIME", `onnxruntime gave a tensor of type ${t.type}`)
  return tensor(dtype, shape, t.data as never)
}

function failed(what: string, cause: unknown): never {
  if (cause instanceof PrismaError) throw cause
  const said = cause instanceof Error ? cause.message : String(cause)
  return fail("E_RUNTIME", `${what}: ${said.split("\n")[0]}`, { cause })
}
