/** @file `new BaseViT(config)`, as Prisma's README makes its models: a HookedViT with the weights training begins with. */
import { initOptions, modelConfig } from "../configs/config.ts"
import type { GlobalConfig } from "../configs/schema.ts"
import { HookedViT } from "../interp/hooked-vit.ts"
import { initialise } from "../model/init.ts"
import type { Weights } from "../model/scope.ts"
import { nodeRuntime } from "../runtime/node.ts"
import type { OrtModule } from "../runtime/ort.ts"
import type { Runtime, RuntimeOptions } from "../runtime/runtime.ts"
import { float32, type Tensor } from "../tensor/tensor.ts"

export interface BaseViTOptions extends RuntimeOptions {
  /** In place of new ones. */
  readonly weights?: Weights
  /** An onnxruntime module in place of onnxruntime-node. */
  readonly module?: OrtModule
  /** A runtime that several models share. */
  readonly runtime?: Runtime
}

export interface ForwardOptions {
  /** The pooled token that the head reads, in place of the logits. */
  readonly preLogits?: boolean
}

export class BaseViT extends HookedViT {
  readonly globalConfig: GlobalConfig

  constructor(config: GlobalConfig, { weights, runtime, module, ...session }: BaseViTOptions = {}) {
    const model = modelConfig(config)
    const made = () => initialise(model, initOptions(config))
    super({
      config: model,
      weights: weights ?? new Map([...made()].map(([name, tensor]) => [name, { tensor, shape: tensor.shape }])),
      runtime: runtime ?? nodeRuntime({ ...session, ...(module && { module }) }),
    })
    this.globalConfig = config
  }

  /** Images [b, c, H, W] to logits [b, classes], to the pooled token [b, d] or, of an autoencoder, to pixels [b, P, c * p * p]. */
  async forward(images: Tensor, { preLogits = false }: ForwardOptions = {}): Promise<Tensor<"float32">> {
    return answer(await this.run(images), preLogits)
  }
}

/** What a forward pass of Prisma's classes returns. */
export function answer(outputs: Readonly<Record<string, Tensor>>, preLogits: boolean): Tensor<"float32"> {
  const made = Object.keys(outputs)
  const name = preLogits ? "pooler_output" : made.includes("reconstruction") ? "reconstruction" : "logits"
  const { shape, data } = outputs[name]!
  return float32(shape, data as Float32Array)
}
