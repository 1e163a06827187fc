/**
 * @file A trained model as a folder that `loadPretrained` takes: as transformers' ViTForImageClassification where that is
 * the same model (https://huggingface.co/docs/transformers/model_doc/vit), else under our own names. docs/mice-format.md
 */
import { join } from "node:path"
import { isDeepStrictEqual } from "node:util"
import { baseVit } from "../../converters/base-vit.ts"
import { hfVit, hfVitConfig } from "../../converters/hf-vit.ts"
import { ConfigReader } from "../../converters/reader.ts"
import { toSource } from "../../converters/rules.ts"
import { modelConfig, type GlobalConfig } from "../configs/index.ts"
import { writeFileAtomic } from "../files/atomic.ts"
import { writeSafetensors } from "../files/safetensors-file.ts"
import type { VisionConfig } from "../model/config.ts"
import { unflatten, type Layout, type Pieces } from "./layout.ts"

/** The config that a model was trained by, beside it in either form. */
export const TRAINING_FILE = "training.json"

/**
 * Write the model of these weights, a vector of this layout, into an existing folder. `classes` are the dataset's names,
 * which count where there is one for each output. Errors: E_OUTPUT, E_DISK_FULL, E_IO.
 */
export async function writeMouse(
  folder: string,
  config: GlobalConfig,
  layout: Layout,
  weights: Pieces,
  classes: readonly string[],
): Promise<void> {
  const model = modelConfig(config)
  const named = config.classification.class_names ?? classes
  const labels = named.length === model.vision.nClasses ? named : []
  const theirs = asTransformers(config, model.vision, labels)
  const json = theirs ?? withNames(config, labels)
  const family = theirs ? hfVit : baseVit
  const rules = family.table(model, new Map(), new ConfigReader(json, "config.json"))
  const processor = preprocessorOf(config)
  const write = (name: string, value: unknown) =>
    writeFileAtomic(join(folder, name), `${JSON.stringify(value, undefined, 2)}\n`)

  await writeSafetensors(join(folder, "model.safetensors"), toSource(unflatten(layout, weights), rules), {
    format: "pt",
  })
  await write(TRAINING_FILE, config)
  if (processor) await write("preprocessor_config.json", processor)
  await write("config.json", json)
}

const withNames = (config: GlobalConfig, labels: readonly string[]): unknown =>
  labels.length ? { ...config, classification: { ...config.classification, class_names: labels } } : config

/** transformers' config, where what our own converter reads from it is this very model. */
function asTransformers(
  { training, dropout }: GlobalConfig,
  vision: VisionConfig,
  labels: readonly string[],
): Record<string, unknown> | undefined {
  // Without classes or norms its reader would refuse what is written.
  if (!vision.nClasses || !vision.eps) return undefined
  const names = labels.length ? labels : Array.from({ length: vision.nClasses }, (_, i) => `LABEL_${i}`)
  const json = hfVitConfig(vision, names)
  const read = hfVit.read(new ConfigReader(json, "config.json"), new Map())
  if (!isDeepStrictEqual(computed(read.vision), computed(vision))) return undefined
  return {
    ...json,
    // It has one probability for three of our places.
    hidden_dropout_prob: Math.max(dropout.position, dropout.proj, dropout.mlp),
    attention_probs_dropout_prob: dropout.attention,
    problem_type: training.loss_fn_name === "MSE" ? "regression" : "single_label_classification",
    dtype: "float32",
  }
}

/** What decides the logits, options that may be absent filled in. */
const computed = (vision: VisionConfig): object => ({
  norm: "pre",
  attnOnly: false,
  attnOutIdentity: false,
  ...vision,
  drop: undefined,
  outputs: undefined,
  qkNormEps: undefined,
})

/** What makes of an image the pixels that the model was trained on; an image file has one channel or three. */
function preprocessorOf({ image, data }: GlobalConfig): Record<string, unknown> | undefined {
  const { image_size: edge, n_channels: n } = image
  if (n !== 1 && n !== 3) return undefined
  const perChannel = (values: readonly number[]) => Array.from({ length: n }, (_, i) => values[i % values.length])
  return {
    image_processor_type: "ViTImageProcessor",
    do_convert_rgb: n === 3,
    do_resize: true,
    size: { height: edge, width: edge },
    resample: 2, // Pillow's bilinear, which the datasets resize by
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: perChannel(data.mean),
    image_std: perChannel(data.std),
  }
}
