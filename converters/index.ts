/** @file Which converter claims a config: the config says, nothing is guessed from tensors. */
import { fail } from "../src/errors.ts"
import type { ModelConfig } from "../src/model/config.ts"
import type { Weights } from "../src/model/scope.ts"
import { baseVit } from "./base-vit.ts"
import { hfClip } from "./hf-clip.ts"
import { hfDinov2 } from "./hf-dinov2.ts"
import { hfDinov3 } from "./hf-dinov3.ts"
import { hfVit } from "./hf-vit.ts"
import { openClip } from "./open-clip.ts"
import { prisma } from "./prisma.ts"
import { quote } from "../src/tensor/quote.ts"
import { brief, ConfigReader, nearestTo } from "./reader.ts"
import { convert, unsupportedDtype, unwrapped, type Family, type Source } from "./rules.ts"
import { timm } from "./timm.ts"

// Before transformers: what is exported from these names both. BaseViT's "architecture" is not timm's.
const OWN: readonly Family[] = [baseVit, prisma, timm]
export const FAMILIES: readonly Family[] = [...OWN, hfVit, hfDinov2, hfDinov3, hfClip, openClip]

const MODEL_TYPES = [
  "vit",
  "deit",
  "vit_msn",
  "vit_mae",
  "ijepa",
  "dinov2",
  "dinov2_with_registers",
  "dinov3_vit",
  "clip",
  "clip_vision_model",
  "siglip",
  "siglip_vision_model",
]

/**
 * A checkpoint's config and tensors as our config and weights. `file` names the config in messages; `opaque` are the
 * tensors that have no dtype here, by name, with what the file calls it.
 * Errors: E_CONFIG*, E_UNSUPPORTED_*, E_AMBIGUOUS_PREFIX, E_SHAPE_MISMATCH, E_MISSING_TENSORS, E_UNEXPECTED_TENSORS.
 */
export function convertCheckpoint(
  json: unknown,
  tensors: Source,
  file: string,
  opaque: ReadonlyMap<string, { readonly rawDtype: string }> = new Map(),
): { config: ModelConfig; weights: Weights } {
  const { reader, family } = claimed(json, file)
  for (const [name, { rawDtype }] of opaque) unsupportedDtype(name, rawDtype, file)
  const source = unwrapped(tensors)
  const config = family.read(reader, source)
  return { config, weights: convert(config, source, family.table(config, source, reader), reader) }
}

/** What a config says alone, before its weights are there. Errors: E_CONFIG, E_UNSUPPORTED_ARCH, E_UNSUPPORTED_QUANT. */
export const refuseUnsupported = (json: unknown, file: string): void => void claimed(json, file)

function claimed(json: unknown, file: string): { reader: ConfigReader; family: Family } {
  const reader = new ConfigReader(json, file)
  if (reader.has("quantization_config")) {
    fail(
      "E_UNSUPPORTED_QUANT",
      `${file}: quantization_config must be absent, got ${brief(reader.raw("quantization_config"))}; quantised checkpoints are not supported, use the original one`,
      { file },
    )
  }
  return { reader, family: FAMILIES.find((f) => f.claims(reader)) ?? unsupported(reader) }
}

function unsupported(c: ConfigReader): never {
  const supported = `model_type ${MODEL_TYPES.join(", ")}; ${[timm, openClip, baseVit, prisma].map((f) => f.supports[0]).join("; ")}`
  if (!c.has("model_type")) {
    const expected =
      "one of model_type (transformers), architecture (timm), model_cfg (open_clip), transformer and image (BaseViT) and n_layers and d_model (HookedViT)"
    c.invalid(`expected ${expected}, got none of these keys; supported are ${supported}`)
  }
  const type = c.string("model_type")
  const said = `model_type ${quote(type)} is not supported (nearest: ${nearestTo(type, MODEL_TYPES)})`
  return fail("E_UNSUPPORTED_ARCH", `${c.file}: ${said}; supported are ${supported}`, { file: c.file })
}
