/** @file Every dataset by its name: one table. */
import { fail, listed, nearest } from "../errors.ts"
import { quote } from "../tensor/quote.ts"
import { cifar10 } from "./cifar.ts"
import { circle, type CircleOptions } from "./circle.ts"
import type { Splits } from "./dataset.ts"
import { dSpritesNpz, type DSpritesNpzOptions } from "./dsprites-npz.ts"
import { dSprites, type DSpritesOptions } from "./dsprites.ts"
import type { Fit } from "./encoded.ts"
import { imageFolder } from "./folder.ts"
import { fashionMnist, mnist } from "./idx.ts"
import { induction, type InductionOptions, polygenicInduction } from "./induction.ts"
import { type ParquetOptions, parquetSplits } from "./parquet.ts"
import type { RoleOptions } from "./roles.ts"

/** What each dataset may be told besides its name. */
interface Options {
  readonly mnist: { readonly path: string }
  readonly "fashion-mnist": { readonly path: string }
  readonly cifar10: { readonly path: string }
  readonly induction: InductionOptions
  readonly "polygenic-induction": InductionOptions
  readonly circle: CircleOptions
  /** Drawn, or with `path` read from the original npz. */
  readonly dsprites: { readonly path?: string } & DSpritesOptions
  readonly folder: { readonly path: string } & Fit & RoleOptions
  readonly parquet: { readonly path: string } & Omit<ParquetOptions, "name"> & RoleOptions
}

export type DatasetName = keyof Options

/** A dataset as plain data, as it stands in a run's config: `{ name: "mnist", path: "data/mnist" }`. */
export type DatasetSpec = { readonly [N in DatasetName]: { readonly name: N } & Options[N] }[DatasetName]

interface Opener<O> {
  /** Every option that is known, and whether it must be given. */
  readonly options: { readonly [K in keyof Required<O>]: "needed" | "optional" }
  readonly open: (options: O) => Splits | Promise<Splits>
}

const DRAWN = { seed: "optional", testSplit: "optional", variant: "optional" } as const
const FIT = { size: "optional", channels: "optional", test: "optional" } as const

const DATASETS: { readonly [N in DatasetName]: Opener<Options[N]> } = {
  mnist: { options: { path: "needed" }, open: ({ path }) => mnist(path) },
  "fashion-mnist": { options: { path: "needed" }, open: ({ path }) => fashionMnist(path) },
  cifar10: { options: { path: "needed" }, open: ({ path }) => cifar10(path) },
  induction: { options: DRAWN, open: induction },
  "polygenic-induction": { options: DRAWN, open: polygenicInduction },
  circle: { options: { ...DRAWN, modulus: "optional", imageSize: "optional" }, open: circle },
  dsprites: {
    options: { path: "optional", target: "optional", ...DRAWN },
    open: ({ path, ...options }) => (path === undefined ? dSprites(options) : dSpritesNpz(path, originalOnly(options))),
  },
  folder: { options: { path: "needed", ...FIT }, open: ({ path, ...options }) => imageFolder(path, options) },
  parquet: {
    options: { path: "needed", image: "optional", label: "optional", classes: "optional", ...FIT },
    open: ({ path, ...options }) => parquetSplits(path, options),
  },
}

/** What can be asked of the original file. Error: E_CONFIG for what only drawing gives. */
function originalOnly({ variant, ...options }: DSpritesOptions): DSpritesNpzOptions {
  if (variant === undefined) return options
  return fail("E_CONFIG", "dataset dsprites: variant is an option of the drawn one; leave it or path out")
}

export const DATASET_NAMES = Object.keys(DATASETS) as readonly DatasetName[]

/** The splits of the dataset that `spec` names. Errors: E_CONFIG for a name or an option that is not known or is missing;
 * those of the dataset. */
export async function openDataset(spec: DatasetSpec): Promise<Splits> {
  const { name, ...options } = spec as { readonly name: unknown } & Readonly<Record<string, unknown>>
  if (typeof name !== "string" || !Object.hasOwn(DATASETS, name)) {
    fail("E_CONFIG", `dataset name ${quote(String(name))} is not known; known are ${DATASET_NAMES.join(", ")}`)
  }
  const opener = DATASETS[name as DatasetName] as Opener<unknown>
  const known: ReadonlyMap<string, string> = new Map(Object.entries(opener.options))
  for (const key of Object.keys(options)) {
    if (known.has(key)) continue
    const near = listed(nearest(key, [...known.keys()]))
    fail("E_CONFIG", `dataset ${name}: option ${quote(key)} is not known; nearest are ${near}`)
  }
  for (const [key, kind] of known) {
    if (kind === "needed" && options[key] === undefined) fail("E_CONFIG", `dataset ${name}: option ${key} is missing`)
  }
  const { path } = options
  if (path !== undefined && typeof path !== "string")
    fail("E_CONFIG", `dataset ${name}: path must be text, got ${typeof path}`)
  return opener.open(options)
}
