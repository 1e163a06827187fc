/** @file config.json and preprocessor_config.json as transformers.js reads them, for checkpoints of any library. */
import type { Preprocessing } from "../data/preprocess.ts"
import { PrismaError } from "../errors.ts"
import type { LoadedViT } from "../hub/load-pretrained.ts"
import type { StackConfig } from "../model/config.ts"

/**
 * The source's config and what transformers.js needs beside it: where the weights of the ONNX file lie and, where the
 * source is not transformers', a model type whose pipelines fit.
 */
export function transformersConfig(model: LoadedViT, source: unknown): Record<string, unknown> {
  const own = source as Record<string, unknown>
  const external = { "transformers.js_config": { use_external_data_format: { "model.onnx": 1 } } }
  if (typeof own["model_type"] === "string") return { ...own, ...external }
  const { vision, text, labels, dual } = model.config
  if (dual && text) {
    const config = {
      model_type: "clip",
      architectures: ["CLIPModel"],
      projection_dim: text.dProjection,
      vision_config: { ...sizes(vision), ...image(model), model_type: "clip_vision_model" },
      text_config: {
        ...sizes(text),
        model_type: "clip_text_model",
        vocab_size: text.vocabulary,
        max_position_embeddings: text.contextLength,
      },
    }
    return { ...own, ...config, ...external }
  }
  const named = labels.length ? labels : Array.from({ length: vision.nClasses }, (_, i) => `LABEL_${i}`)
  return {
    ...own,
    model_type: "vit",
    architectures: [vision.nClasses ? "ViTForImageClassification" : "ViTModel"],
    ...sizes(vision),
    ...image(model),
    id2label: Object.fromEntries(named.map((label, i) => [String(i), label])),
    label2id: Object.fromEntries(named.map((label, i) => [label, i])),
    ...external,
  }
}

/** What this model does to images, where that is known and gives its image size. */
export function usablePreprocessing(model: LoadedViT): Preprocessing | undefined {
  try {
    return model.preprocessing
  } catch (error) {
    if (error instanceof PrismaError) return undefined
    throw error
  }
}

const sizes = ({ dModel, nLayers, nHeads, dMlp, eps }: StackConfig) => ({
  hidden_size: dModel,
  num_hidden_layers: nLayers,
  num_attention_heads: nHeads,
  intermediate_size: dMlp,
  layer_norm_eps: eps,
})

function image({ config: { vision } }: LoadedViT) {
  const one = ([h, w]: readonly [number, number]) => (h === w ? h : [h, w])
  return { image_size: one(vision.imageSize), patch_size: one(vision.patchSize), num_channels: vision.nChannels }
}

// PIL's numbers of its filters.
const RESAMPLE: Readonly<Record<string, number>> = {
  nearest: 0,
  lanczos: 1,
  bilinear: 2,
  bicubic: 3,
  box: 4,
  hamming: 5,
}

export function transformersProcessor({
  resize,
  crop,
  rescale,
  mean,
  std,
  channels,
  unrounded,
}: Preprocessing): Record<string, unknown> {
  const size =
    resize &&
    (resize.to === "shortest" ? { shortest_edge: resize.edge } : { height: resize.height, width: resize.width })
  return {
    image_processor_type: unrounded ? "DINOv3ViTImageProcessor" : crop ? "CLIPImageProcessor" : "ViTImageProcessor",
    do_convert_rgb: channels === 3,
    do_resize: resize !== null,
    ...(resize && { size, resample: RESAMPLE[resize.resample] }),
    do_center_crop: crop !== null,
    ...(crop && { crop_size: { height: crop.height, width: crop.width } }),
    do_rescale: rescale !== 1,
    rescale_factor: rescale,
    do_normalize: true,
    image_mean: mean,
    image_std: std,
  }
}
