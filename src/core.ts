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
export { HookedViT, type CacheOptions, type GraphView, type RunOptions } from "./interp/hooked-vit.ts"
export type { Edit, Interventions } from "./interp/interventions.ts"
export type { Positions } from "./interp/positions.ts"
export type { GradientOptions, Gradients, Metric } from "./interp/gradients.ts"
export {
  decomposeLogit,
  type LogitAttribution,
  type LogitAttributionOptions,
  type Component,
} from "./interp/residual/attribution.ts"
export { sharesBy, tokenShares, type Grouping, type Share } from "./interp/residual/groups.ts"
export type { Target } from "./interp/residual/targets.ts"
export type { ClassName } from "./interp/residual/classes.ts"
export type { ResidualStack } from "./interp/residual/accounting.ts"
export { logitLens, type Lens, type LensOptions, type Probe } from "./interp/residual/lens.ts"
export { emojiGrid, emojiOf } from "./interp/residual/emoji.ts"
export { fold, type FoldOptions, type FoldStep } from "./interp/folding/fold.ts"
export type { ModelInput } from "./interp/feeds.ts"
export type { HookFunction } from "./interp/staged.ts"
export type { Outputs } from "./interp/outputs.ts"
export { readout, tokenLayout, type TokenLayout } from "./interp/attention/tokens.ts"
export { patterns, type LayerPattern, type PatternOptions } from "./interp/attention/patterns.ts"
export { fuseHeads, HEAD_FUSIONS, rollout, type HeadFusion, type RolloutOptions } from "./interp/attention/rollout.ts"
export { attentionFlow, type FlowOptions } from "./interp/attention/flow.ts"
export { attentionDistance, attentionEntropy, type DistanceOptions } from "./interp/attention/entropy.ts"
export {
  DETECTORS,
  type Content,
  type Detector,
  type DetectorName,
  type Relation,
} from "./interp/attention/detectors.ts"
export {
  headReport,
  type DetectorResult,
  type HeadOptions,
  type HeadReport,
  type HeadScore,
} from "./interp/attention/heads.ts"
export { studentT, type Estimate } from "./interp/estimate.ts"
export * as circuits from "./interp/circuits/index.ts"
export type { Factored, Svd } from "./interp/circuits/factored.ts"
export type { Eigenvalues } from "./interp/circuits/eigen.ts"
export { classMetric, similarityMetric } from "./interp/inputs/metrics.ts"
export {
  integratedGradients,
  saliency,
  smoothGrad,
  type Attribution,
  type IntegratedAttribution,
  type IntegratedOptions,
  type SaliencyOptions,
  type SmoothOptions,
} from "./interp/inputs/gradient.ts"
export { occlusion, type Occlusion, type OcclusionOptions } from "./interp/inputs/occlusion.ts"
export { attentionGradient, type Relevance, type RelevanceOptions } from "./interp/inputs/relevance.ts"
export { heatmap, patchMap, type ChannelReduction } from "./interp/inputs/heatmap.ts"
export { visualise, type Visualised, type VisualiseOptions } from "./interp/inputs/visualise.ts"
export { attributionPatching, type AttributionOptions } from "./interp/causal/attribution.ts"
export {
  findCircuit,
  runCircuit,
  type Circuit,
  type CircuitNode,
  type CircuitOptions,
} from "./interp/causal/circuit.ts"
export {
  edgeAttribution,
  findEdges,
  runEdges,
  type EdgeCircuit,
  type EdgeOptions,
  type EdgeScore,
} from "./interp/causal/edge-attribution.ts"
export { edgeName, type Edge } from "./interp/causal/edges.ts"
export type { CurveOptions, CurvePoint } from "./interp/causal/faithfulness.ts"
export { dropTokens, withoutTokens, type DropOptions, type Shorter } from "./interp/causal/drop.ts"
export * as metrics from "./interp/causal/metrics.ts"
export { resample, type ScrubGroup, type Scrubbed, type ScrubOptions } from "./interp/causal/scrub.ts"
export { addNoise, blur, fillMean, swapRegion, type Region } from "./interp/causal/corruptions.ts"
export { ablate, denoise, noise, type Ablation, type Pair } from "./interp/causal/patching.ts"
export { pathPatch, type PathOptions, type Receiver, type Sender } from "./interp/causal/path.ts"
export { regionTokens, siteName, sitesOf, type Cut as SiteCut, type Site } from "./interp/causal/sites.ts"
export type { Source } from "./interp/causal/sources.ts"
export { measure, sweep, type Experiment, type SweepRow } from "./interp/causal/sweep.ts"
export { convertCheckpoint } from "../converters/index.ts"
export * as losses from "./train/losses.ts"
export {
  cut,
  feedsOf,
  flatten,
  layout,
  pieceValues,
  unflatten,
  weightAt,
  type Layout,
  type Pieces,
} from "./train/layout.ts"
export { trainedModel, type LossName, type Task, type TrainedModel } from "./train/objective.ts"
export { OPTIMIZERS, type OptimizerName, type OptimizerOptions } from "./train/optimizers.ts"
export { learningRate, type ScheduleName, type ScheduleOptions } from "./train/schedule.ts"
export { trainingStep, type Objective, type Step, type StepGraph, type StepOptions } from "./train/step.ts"
export { stepper, type Report, type Stepper, type Vectors } from "./train/stepper.ts"
export { train, type Plan, type Position, type Stepped, type TrainedBatch } from "./train/trainer.ts"
