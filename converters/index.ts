/** @file Which converter claims a config: the config says, nothing is guessed from tensors. */
import { fail, nearest } from "../src/errors.ts"
import type { ModelConfig } from "../src/model/config.ts"
import type { Weights } from "../src/model/scope.ts"
import { hfClip } from "./hf-clip.ts"
import { hfDinov2 } from "./hf-dinov2.ts"
import { hfVit } from "./hf-vit.ts"
import { openClip } from "./open-clip.ts"
import { ConfigReader } from "./reader.ts"
import { convert, unwrapped, type Family, type Source } from "./rules.ts"
import { timm } from "./timm.ts"

// timm before transformers: what is exported from timm names both.
export const FAMILIES: readonly Family[] = [timm, hfVit, hfDinov2, hfClip, openClip]

const MODEL_TYPES = [
  "vit",
  "deit",
  "dinov2",
  "dinov2_with_registers",
  "clip",
  "clip_vision_model",
  "siglip",
  "siglip_vision_model",
]

/**
 * A checkpoint's config and tensors as our config and weights. `file` names the config in messages.
 * Errors: E_CONFIG*, E_UNSUPPORTED_*, E_AMBIGUOUS_PREFIX, E_SHAPE_MISMATCH, E_MISSING_TENSORS, E_UNEXPECTED_TENSORS.
 */
export function convertCheckpoint(
  json: unknown,
  tensors: Source,
  file: string,
): { config: ModelConfig; weights: Weights } {
  const reader = new ConfigReader(json, file)
  if (reader.has("quantization_config")) {
    fail(
      "E_UNSUPPORTED_QUANT",
      `${file}: quantization_config is present; quantised checkpoints are not supported, use the original one`,
      { file },
    )
  }
  const family = FAMILIES.find((f) => f.claims(reader)) ?? unsupported(reader)
  const source = unwrapped(tensors)
  const config = family.read(reader, source)
  return { config, weights: convert(config, source, family.table(config, source, reader), reader) }
}

function unsupported(c: ConfigReader): never {
  const type = c.has("model_type") ? c.string("model_type") : undefined
  const said = type === undefined ? "has neither model_type, architecture nor model_cfg" : `has model_type "${type}"`
  const near = type === undefined ? "" : ` (nearest: ${nearest(type, MODEL_TYPES, 1)[0]})`
  return fail(
    "E_UNSUPPORTED_ARCH",
    `${c.file} ${said}, which is not supported${near}; supported are model_type ${MODEL_TYPES.join(", ")}; ${timm.supports[0]}; ${openClip.supports[0]}`,
    { file: c.file },
  )
}
