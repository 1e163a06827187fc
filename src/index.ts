/** @file The package under Node: everything of core, and files, images, checkpoints, datasets, training and export. */
export * from "./core.ts"
export { loadPretrained, LoadedViT, type LoadOptions, type ModelSource } from "./hub/load-pretrained.ts"
export { pushFolder, type Change, type Pushed, type PushedStep, type PushOptions } from "./hub/push.ts"
export { overTraining, type Measured, type OverTrainingOptions } from "./hub/over-training.ts"
export { drawCurves } from "./train/tracking/curves.ts"
export { listCheckpoints, type CheckpointPlace } from "./hub/checkpoints.ts"
export { BaseViT, type BaseViTOptions, type ForwardOptions } from "./hub/base-vit.ts"
export { PretrainedModel, type PretrainedOptions } from "./hub/pretrained-model.ts"
export { evaluateClassifier, type ClassAccuracy, type Evaluated, type EvaluateOptions } from "./hub/evaluate.ts"
export { evaluateLoss, type EvaluatedLoss } from "./hub/evaluate-loss.ts"
export { sourceGradients } from "./hub/source-gradients.ts"
export { nodeRuntime } from "./runtime/node.ts"
export { decodeImage, encodePng, type Image } from "./data/image.ts"
export { batch, fromHf, fromOpenClip, fromTimm, preprocess, type Preprocessing } from "./data/preprocess.ts"
export { openSafetensors, readTensor, writeSafetensors } from "./files/safetensors-file.ts"
export { openCheckpoint, type Checkpoint } from "./files/checkpoint.ts"
export { checkManifest } from "./files/manifest.ts"
export { convertModel, type Converted, type ConvertOptions } from "./export/convert.ts"
export type { Certificate } from "./export/certify.ts"
export { transformersModel } from "./interop/transformers.ts"
export {
  CIFAR10Config,
  CircleConfig,
  CONFIG_NAMES,
  configByName,
  defineConfig,
  DSpritesConfig,
  FIELDS,
  ImageNetConfig,
  InductionConfig,
  initOptions,
  MNISTConfig,
  modelConfig,
  readConfig,
  setField,
  setFields,
  type ConfigName,
  type ConfigOverrides,
  type GlobalConfig,
} from "./configs/index.ts"
export type { Dataset, NamedDataset, Sample, Splits } from "./datasets/dataset.ts"
export { DATASET_NAMES, openDataset, type DatasetName, type DatasetSpec } from "./datasets/open.ts"
export { circle, type CircleOptions } from "./datasets/circle.ts"
export { dSprites, type DSpritesOptions, type Sprite } from "./datasets/dsprites.ts"
export { dSpritesNpz } from "./datasets/dsprites-npz.ts"
export { induction, polygenicInduction, type Arrangement, type InductionOptions } from "./datasets/induction.ts"
export type { DrawnDataset, DrawnSplits } from "./datasets/synthetic.ts"
export { cifar10 } from "./datasets/cifar.ts"
export { imageFolder } from "./datasets/folder.ts"
export { fashionMnist, mnist } from "./datasets/idx.ts"
export { parquetDataset, parquetSplits, type ParquetOptions } from "./datasets/parquet.ts"
export { datasetAt, type SplitName } from "./datasets/recognise.ts"
export { batches, type Augmentation, type Batch, type BatchOptions } from "./datasets/loader.ts"
export { contentHash } from "./datasets/fingerprint.ts"
export {
  duplicates,
  leaks,
  partition,
  readSplit,
  saveSplit,
  splitIndices,
  type Parts,
  type SomeParts,
  type SplitOptions,
  type Twin,
} from "./datasets/split.ts"
export { trainRun, type RunOptions as TrainOptions, type RunResult, type RunStep } from "./train/run.ts"
export { openData } from "./train/data.ts"
export { evaluator, type Evaluation } from "./train/evaluate.ts"
export { openTrackers, type RunInfo, type Tracker, type TrackerOptions } from "./train/tracking/index.ts"
export { writeCurves } from "./train/tracking/curves.ts"
export { checkCard, isCurrent, makeCard, writeCard, type CardOptions, type WrittenCard } from "./cards/card.ts"
export { withoutPrivatePaths } from "./cards/private-paths.ts"
export { validateCard, type Finding } from "./cards/validate.ts"
export type { CardFiles } from "./cards/text-rules.ts"
export type { Attention, Matrix, Overlay, Prediction, Table, View, ViewImage } from "./viewer/data.ts"
export {
  encodeView,
  type EncodeOptions,
  type ImageInput,
  type MatrixInput,
  type OverlayInput,
  type PatternsInput,
  type ViewInput,
} from "./viewer/encode.ts"
export { checkView } from "./viewer/check.ts"
export { viewHtml } from "./viewer/page.ts"
export { viewPng, viewSvg } from "./viewer/picture.ts"
