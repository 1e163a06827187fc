/** @file The package under Node: everything of core, and files, images, checkpoints and export. */
export * from "./core.ts"
export { loadPretrained, LoadedViT, type LoadOptions, type ModelSource } from "./hub/load-pretrained.ts"
export { nodeRuntime } from "./runtime/node.ts"
export { decodeImage, encodePng, type Image } from "./data/image.ts"
export { batch, fromHf, fromOpenClip, fromTimm, preprocess, type Preprocessing } from "./data/preprocess.ts"
export { openSafetensors, readTensor, writeSafetensors } from "./files/safetensors-file.ts"
export { openCheckpoint, type Checkpoint } from "./files/checkpoint.ts"
