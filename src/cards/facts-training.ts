/** @file What `vit-prisma train` and `vit-prisma evaluate` measured: result.json and evaluation.json. */
import { type Fields, fieldsOf } from "./fields.ts"

/** A run's result.json; what older versions did not record is absent. */
export interface Result {
  readonly ended: string | undefined
  readonly step: number | undefined
  readonly images: number | undefined
  readonly seconds: number | undefined
  readonly parameters: number | undefined
  readonly best: { readonly step: number; readonly loss?: number; readonly accuracy?: number } | undefined
  readonly test: { readonly loss: number; readonly accuracy?: number } | undefined
  readonly testSamples: number | undefined
  readonly seed: number | undefined
  readonly threads: number | undefined
  /** "vit-prisma", "node", ... */
  readonly versions: ReadonlyMap<string, string>
  /** Of the data by part: "train", "test", "val"; a sha256, or what the dataset's author calls it by. */
  readonly fingerprints: ReadonlyMap<string, string>
  readonly order: Order | undefined
  readonly machine: { readonly cpu?: string; readonly cores?: number; readonly system?: string } | undefined
  readonly device: string | undefined
  /** Day on which it ended, "2026-11-24". */
  readonly day: string | undefined
}

/** How the order of the samples is made again. */
export interface Order {
  readonly generator: string
  readonly stream: string
  readonly samples: number
  readonly groups: number
  readonly sha256: string
}

/** A classifier on a dataset. */
export interface Measured {
  readonly dataset: string
  readonly split: string
  readonly fingerprint: string | undefined
  readonly n: number
  readonly loss: number
  readonly accuracy: number
  readonly top5: number | undefined
  readonly classes: readonly { readonly label: string; readonly n: number; readonly accuracy: number | undefined }[]
}

/** A field where it is there. */
const some = <K extends string, V>(name: K, value: V | undefined): { readonly [P in K]?: V } =>
  (value === undefined ? {} : { [name]: value }) as { readonly [P in K]?: V }

const SHA256 = /^[0-9a-f]{64}$/

/** Error: E_CONFIG. */
export function resultOf(json: unknown, file: string): Result | undefined {
  if (json === undefined) return undefined
  const r = fieldsOf(json, file)
  const [best, test, order, machine] = (["best", "test", "order", "machine"] as const).map((name) => r.at(name))
  const [step, loss] = [best!.whole("step"), test!.number("loss")]
  const sha256 = order!.text("sha256OfEpoch0")
  const samples = order!.whole("samples")
  return {
    ended: r.text("ended"),
    step: r.whole("step"),
    images: r.whole("images"),
    seconds: r.number("seconds", 0),
    parameters: r.whole("parameters"),
    best: step === undefined ? undefined : { step, ...some("loss", best!.number("loss")), ...accuracy(best!) },
    test: loss === undefined ? undefined : { loss, ...accuracy(test!) },
    testSamples: r.whole("testSamples"),
    seed: r.whole("seed"),
    threads: r.whole("threads"),
    versions: texts(r.at("versions")),
    fingerprints: new Map([...texts(r.at("data"))].map(([part, found]) => [part.replace(/^data\./, ""), found])),
    order:
      sha256 !== undefined && SHA256.test(sha256) && samples !== undefined
        ? {
            generator: order!.text("generator") ?? "",
            stream: order!.text("stream") ?? "",
            samples,
            groups: order!.whole("groups") ?? 0,
            sha256,
          }
        : undefined,
    machine: r.has("machine")
      ? {
          ...some("cpu", machine!.text("cpu")),
          ...some("cores", machine!.whole("cores")),
          ...some("system", machine!.text("system")),
        }
      : undefined,
    device: r.text("device"),
    day: /^\d{4}-\d\d-\d\d/.exec(r.text("finished") ?? "")?.[0],
  }
}

const accuracy = (f: Fields): { readonly accuracy?: number } => some("accuracy", f.number("accuracy", 0, 1))

const texts = (f: Fields): ReadonlyMap<string, string> =>
  new Map(f.entries().flatMap(([name, value]) => (typeof value === "string" ? [[name, value]] : [])))

/** What `vit-prisma evaluate --format json` printed. Error: E_CONFIG. */
export function evaluationOf(json: unknown, file: string): Measured | undefined {
  if (json === undefined) return undefined
  const e = fieldsOf(json, file)
  const data = e.at("data")
  const [n, loss, share] = [e.whole("n"), e.number("loss"), e.number("accuracy", 0, 1)]
  const dataset = data.text("name")
  if (!n || loss === undefined || share === undefined || dataset === undefined) return undefined
  return {
    dataset,
    split: data.text("split") ?? "test",
    fingerprint: data.text("fingerprint"),
    n,
    loss,
    accuracy: share,
    top5: e.number("top5", 0, 1),
    classes: e.list("classes").map((c) => ({
      label: c.text("label") ?? "",
      n: c.whole("n") ?? 0,
      accuracy: c.number("accuracy", 0, 1),
    })),
  }
}
