/**
 * @file The fields of a training config: those of Prisma's GlobalConfig (https://github.com/soniajoseph/ViT-Prisma,
 * commit 40181a5) under their own names, and this project's. What each means: docs/configs.md; defaults: defaults.ts.
 */
import { createRequire } from "node:module"
import type * as Zod from "zod"
import { SEED_ACTIVATIONS } from "../../converters/base-vit.ts"
import { fail, nearest } from "../errors.ts"
import { DEVICES } from "../runtime/devices.ts"
import { quote } from "../tensor/quote.ts"
import { fieldsOf } from "../tensor/record.ts"
import { FIELDS, filled, frozen, type Immutable } from "./defaults.ts"

// Bounds of what is untrusted: far above what can be trained, far below what exhausts memory.
const [WIDTH, COUNT, PIXELS, CLASSES, STEPS] = [2 ** 16, 2 ** 10, 2 ** 13, 2 ** 20, Number.MAX_SAFE_INTEGER]

/** What each field must be. */
function makeSchema({ z }: typeof Zod) {
  const int = (least: number, most: number) => {
    const error = `must be a whole number from ${least} to ${most}`
    return z.number({ error }).int({ error }).min(least, { error }).max(most, { error })
  }
  const steps = int(1, STEPS)
  const between = (least: number, most: number) => {
    const error = `must be a number from ${least} to ${most}`
    return z.number({ error }).min(least, { error }).max(most, { error })
  }
  const atLeast0 = z
    .number({ error: "must be a number of at least 0" })
    .min(0, { error: "must be a number of at least 0" })
  const positive = z.number({ error: "must be a number above 0" }).gt(0, { error: "must be a number above 0" })
  const share = (() => {
    const error = "must be a number of at least 0 and below 1"
    return z.number({ error }).min(0, { error }).lt(1, { error })
  })()
  const batch = (() => {
    const error = `must be -1 (the whole set) or a whole number from 1 to ${2 ** 20}`
    return z
      .number({ error })
      .int({ error })
      .min(-1, { error })
      .max(2 ** 20, { error })
      .refine((n) => n !== 0, { error })
  })()
  const flag = z.boolean({ error: "must be true or false" })
  const text = z.string({ error: "must be a text" }).max(4096, { error: "must be a text of at most 4096 characters" })
  const oneOf = <const T extends readonly [string, ...string[]]>(...names: T) =>
    z.enum(names, { error: `must be one of ${names.map((n) => `"${n}"`).join(", ")}` })
  const channels = z
    .array(z.number({ error: "must be a number" }), { error: "must be a list of numbers, one for each channel" })
    .min(1, { error: "must be a list of numbers, one for each channel" })
    .max(COUNT, { error: `must be a list of at most ${COUNT} numbers` })

  /** What src/datasets/augment.ts does to training images. */
  const augmentation = z.discriminatedUnion(
    "kind",
    [
      z.strictObject({ kind: z.literal("crop"), padding: int(0, PIXELS) }),
      z.strictObject({ kind: z.literal("flip"), probability: between(0, 1).optional() }),
    ],
    { error: 'must be { "kind": "crop", "padding": pixels } or { "kind": "flip" }' },
  )

  const SECTIONS = {
    image: z.strictObject({ image_size: int(1, PIXELS), patch_size: int(1, PIXELS), n_channels: int(1, COUNT) }),
    transformer: z.strictObject({
      hidden_dim: int(1, WIDTH),
      num_heads: int(1, COUNT),
      num_layers: int(1, COUNT),
      mlp_dim: int(1, WIDTH),
      activation_name: oneOf(...(Object.keys(SEED_ACTIVATIONS) as [keyof typeof SEED_ACTIVATIONS])),
      attention_only: flag,
      attn_hidden_layer: flag,
    }),
    layernorm: z.strictObject({ qknorm: flag, layer_norm_eps: between(0, 1) }),
    dropout: z.strictObject({
      patch: share,
      position: share,
      attention: share,
      proj: share,
      mlp: share,
      path: share,
    }),
    init: z.strictObject({
      scheme: oneOf("seed", "timm"),
      weight_type: oneOf("he", "default"),
      cls_std: atLeast0,
      pos_std: atLeast0,
    }),
    training: z.strictObject({
      loss_fn_name: oneOf("CrossEntropy", "MSE", "Reconstruction", "MaskedReconstruction"),
      label_smoothing: share,
      mask_ratio: share,
      lr: positive,
      min_lr: atLeast0,
      num_epochs: int(1, 1e9),
      batch_size: batch,
      accumulation: int(1, 2 ** 20),
      warmup_steps: int(0, STEPS),
      weight_decay: atLeast0,
      max_grad_norm: positive.nullable(),
      device: oneOf(...DEVICES),
      seed: int(0, STEPS),
      optimizer_name: oneOf("AdamW", "Adam", "SGD"),
      betas: z.tuple([share, share], { error: "must be two numbers of at least 0 and below 1" }),
      eps: positive,
      momentum: share,
      nesterov: flag,
      scheduler_type: oneOf("constant", "WarmupThenStep", "WarmupCosine", "linear"),
      scheduler_step: steps,
      scheduler_gamma: positive,
      total_steps: steps.nullable(),
      max_steps: steps.nullable(),
      ema_decay: share.nullable(),
      eval_frequency: steps.nullable(),
      test_samples: steps.nullable(),
      validation_split: between(0, 0.9),
      early_stopping: flag,
      early_stopping_patience: int(1, 1e9),
    }),
    logging: z.strictObject({
      log_dir: text,
      log_frequency: steps,
      print_every: int(0, STEPS),
      use_wandb: flag,
      wandb_project_name: text.nullable(),
      wandb_team_name: text.nullable(),
      track: z.array(text, { error: "must be a list of texts" }).max(16, { error: "must be a list of at most 16" }),
    }),
    saving: z.strictObject({
      parent_dir: text,
      run_id: text.nullable(),
      save_dir: text,
      save_checkpoints: flag,
      save_cp_frequency: steps,
      log_spaced: flag,
      keep_last: steps.nullable(),
    }),
    classification: z.strictObject({
      num_classes: int(1, CLASSES),
      global_pool: flag,
      class_names: z.array(text, { error: "must be a list of texts" }).optional(),
    }),
    data: z.strictObject({
      name: text,
      path: text.optional(),
      seed: int(0, STEPS),
      target: text.optional(),
      size: int(1, PIXELS).optional(),
      image: text.optional(),
      label: text.optional(),
      test: oneOf("val").optional(),
      mean: channels,
      std: channels,
      augment: z
        .array(augmentation, { error: "must be a list" })
        .max(8, { error: "must be a list of at most 8" })
        .optional(),
    }),
  }

  const GLOBAL = z.strictObject({
    variant: oneOf("corrected", "seed-exact"),
    architecture: oneOf("seed", "preLN"),
    ...SECTIONS,
  })
  return { SECTIONS, GLOBAL }
}

type Schema = ReturnType<typeof makeSchema>
let made: Schema | undefined
/** At first use, as importing zod takes longer than all that loads a model, and 8 MiB. */
const schema = (): Schema => (made ??= makeSchema(createRequire(import.meta.url)("zod") as typeof Zod))

/** A whole config: frozen data, every field there. */
export type GlobalConfig = Immutable<Zod.output<Schema["GLOBAL"]>>
/** A part of a config: sections and fields that are to be others. */
export type ConfigOverrides = {
  readonly [S in keyof GlobalConfig]?: GlobalConfig[S] extends object
    ? { readonly [F in keyof GlobalConfig[S]]?: GlobalConfig[S][F] | undefined }
    : GlobalConfig[S]
}

/** The schema of one field. Error: E_CONFIG with the nearest names. */
function fieldSchema(name: string, where: string): Zod.ZodType {
  if (!FIELDS.includes(name)) unknown(name, where)
  const { GLOBAL, SECTIONS } = schema()
  const [section, field] = name.split(".") as [string, string | undefined]
  const shape = field === undefined ? GLOBAL.shape : SECTIONS[section as keyof typeof SECTIONS].shape
  return (shape as Readonly<Record<string, Zod.ZodType>>)[field ?? section]!
}

/** The value that a text gives a field: the first of these readings that fits it. Error: E_CONFIG. */
export function fieldValue(name: string, readings: readonly unknown[], where: string): unknown {
  const schema = fieldSchema(name, where)
  const tried = readings.map((value) => schema.safeParse(value))
  const found = tried.find((r) => r.success)
  if (found) return found.data
  return wrong(name, tried[0]!.error!.issues[0]!.message, readings[0], where)
}

/** A whole config of what is given, defaults filled in. Error: E_CONFIG, naming the field, what it must be and what it is. */
export function parseConfig(given: unknown, where: string): GlobalConfig {
  const { success, data, error } = schema().GLOBAL.safeParse(filled(given))
  // A field with a wrong name is also one that is missing: the name says more.
  if (!success)
    return refuse(error.issues.find((i) => i.code === "unrecognized_keys") ?? error.issues[0]!, given, where)
  const { image, transformer, classification, data: set } = data
  const divided = (name: string, a: number, by: string, b: number) =>
    a % b === 0 || fail("E_CONFIG", `${where}: ${name} must be a multiple of ${by}: ${a} not divisible by ${b}`)
  divided("image.image_size", image.image_size, "image.patch_size", image.patch_size)
  divided("transformer.hidden_dim", transformer.hidden_dim, "transformer.num_heads", transformer.num_heads)
  const { num_classes, class_names: names } = classification
  if (names && names.length !== num_classes) {
    const must = `must have ${num_classes} names (classification.num_classes)`
    fail("E_CONFIG", `${where}: classification.class_names ${must}, got ${names.length}`)
  }
  for (const name of ["mean", "std"] as const) {
    const n = set[name].length
    if (n === 1 || n === image.n_channels) continue
    const must = image.n_channels === 1 ? "1 number" : `1 or ${image.n_channels} numbers`
    fail("E_CONFIG", `${where}: data.${name} must have ${must} (image.n_channels), got ${n}`)
  }
  if (set.std.some((s) => !(s > 0))) wrong("data.std", "must be numbers above 0", set.std, where)
  return frozen(data)
}

function refuse(issue: Zod.core.$ZodIssue, given: unknown, where: string): never {
  const path = issue.path.map(String)
  if (issue.code === "unrecognized_keys") return unknown([...path, issue.keys[0]!].join("."), where)
  const got = path.reduce<unknown>((value, key) => fieldsOf(value)[key], given)
  const must = issue.message.startsWith("must") ? issue.message : "must be an object"
  return wrong(path.join(".") || "the config", must, got, where)
}

function wrong(name: string, must: string, got: unknown, where: string): never {
  if (got === undefined) fail("E_CONFIG", `${where}: ${name} is missing; it ${must}`)
  return fail("E_CONFIG", `${where}: ${name} ${must}, got ${brief(got)}`)
}

function unknown(name: string, where: string): never {
  const near = nearest(name.slice(0, 100), FIELDS, 1)[0]!
  return fail("E_CONFIG", `${where}: no field ${quote(name)}; the nearest is "${near}"`)
}

function brief(value: unknown): string {
  if (typeof value === "string") return quote(value)
  if (typeof value === "number" || typeof value === "bigint") return String(value)
  return quote(JSON.stringify(value) ?? typeof value).slice(1, -1)
}
