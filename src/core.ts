/** @file What runs anywhere: tensors, graphs, gradients, the model and its hooks, training steps, over any onnxruntime module. Imports nothing of Node. */
export { PrismaError, type ErrorCode } from "./errors.ts"
export { float32, int64, size, tensor, type DType, type StoredTensor, type Tensor } from "./tensor/tensor.ts"
export { encodeSafetensors, readSafetensors } from "./tensor/safetensors.ts"
export { toFloat32 } from "./tensor/numbers.ts"
export { Random } from "./tensor/random.ts"
export * as ops from "./graph/ops.ts"
export { emit, type Emitted, type Values } from "./graph/emit.ts"
export { print } from "./graph/print.ts"
export type { Value } from "./graph/value.ts"
export type { Dim, Shape } from "./graph/dims.ts"
export { grad } from "./autodiff/grad.ts"
export type { ModelConfig, TextConfig, VisionConfig } from "./model/config.ts"
export { build, type Built } from "./model/model.ts"
export { listHooks, matchHooks, type HookInfo, type HookNames } from "./model/hooks.ts"
export { initialise, type InitOptions } from "./model/init.ts"
export { Scope, type Requests, type Weight, type Weights } from "./model/scope.ts"
export { Runtime, type Compiled, type RuntimeOptions } from "./runtime/runtime.ts"
export { DEVICES, type Device } from "./runtime/devices.ts"
export type { OrtModule } from "./runtime/ort.ts"
export { actName, ActivationCache } from "./interp/cache.ts"
export {
  HookedViT,
  type CacheOptions,
  type Edit,
  type GraphView,
  type Interventions,
  type Positions,
  type RunOptions,
} from "./interp/hooked-vit.ts"
export type { GradientOptions, Gradients, Metric } from "./interp/gradients.ts"
export type { ModelInput } from "./interp/feeds.ts"
export type { HookFunction } from "./interp/staged.ts"
export type { Outputs } from "./interp/outputs.ts"
export { convertCheckpoint } from "../converters/index.ts"
export * as losses from "./train/losses.ts"
export { flatten, flatValue, layout, unflatten, weightAt, type Layout } from "./train/layout.ts"
export { trainedModel, type LossName, type Task, type TrainedModel } from "./train/objective.ts"
export { OPTIMIZERS, type OptimizerName, type OptimizerOptions } from "./train/optimizers.ts"
export { learningRate, type ScheduleName, type ScheduleOptions } from "./train/schedule.ts"
export { trainingStep, type Objective, type Step, type StepGraph, type StepOptions } from "./train/step.ts"
export { stepper, type Report, type Stepper, type Vectors } from "./train/stepper.ts"
export { train, type Plan, type Position, type Stepped, type TrainedBatch } from "./train/trainer.ts"
