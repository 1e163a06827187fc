/** @file Weights on their way to others: read when asked for, kept where changed. */
import type { ModelConfig, StackConfig, TextConfig, VisionConfig } from "../../model/config.ts"
import type { Weights } from "../../model/scope.ts"
import { float32, type Tensor } from "../../tensor/tensor.ts"
import type { HookedViT } from "../hooked-vit.ts"

/** A tower whose weights are changed: the prefix of its names, and its part of the config. */
export interface Tower {
  readonly prefix: "" | "text."
  readonly config: StackConfig
}

/** What else of a tower's config folding changes. */
type Changes = Partial<Pick<VisionConfig, "outputs"> & Pick<TextConfig, "projectionBias">>

export class Draft {
  config: ModelConfig
  readonly #model: HookedViT
  /** What was changed; undefined is gone. */
  readonly #changed = new Map<string, Tensor<"float32"> | undefined>()

  constructor(model: HookedViT) {
    this.#model = model
    this.config = model.config
  }

  get towers(): readonly Tower[] {
    const { vision, text } = this.config
    return [{ prefix: "", config: vision }, ...(text ? [{ prefix: "text." as const, config: text }] : [])]
  }

  has(name: string): boolean {
    return this.#changed.has(name) ? this.#changed.get(name) !== undefined : this.#model.weights.has(name)
  }

  /** In the stored orientation: [out, in] of a dense layer. */
  async get(name: string): Promise<Tensor<"float32">> {
    return this.#changed.get(name) ?? this.#model.weight(name)
  }

  /** A bias that may be missing: zeros then. */
  async shift(name: string, n: number): Promise<Float32Array> {
    return this.has(name) ? (await this.get(name)).data : new Float32Array(n)
  }

  set(name: string, shape: readonly number[], data: ArrayLike<number>): void {
    this.#changed.set(name, float32(shape, Float32Array.from(data)))
  }

  remove(name: string): void {
    this.#changed.set(name, undefined)
  }

  /** Change a tower's config. */
  configure(prefix: Tower["prefix"], change: Partial<StackConfig> & Changes): void {
    const { vision, text } = this.config
    this.config = prefix
      ? { ...this.config, text: { ...text!, ...change } }
      : { ...this.config, vision: { ...vision, ...change } }
  }

  get weights(): Weights {
    const out = new Map(this.#model.weights)
    for (const [name, tensor] of this.#changed) {
      if (tensor) out.set(name, { tensor, shape: tensor.shape })
      else out.delete(name)
    }
    return out
  }
}

export const layersOf = ({ prefix, config }: Tower): string[] =>
  [...Array(config.nLayers).keys()].map((i) => `${prefix}blocks.${i}`)
