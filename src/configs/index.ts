/** @file Configs of training runs: Prisma's, as data, and what is done with them. */
export { configByName, defineConfig, initOptions, modelConfig, readConfig, setField, setFields } from "./config.ts"
export {
  CIFAR10Config,
  CircleConfig,
  CONFIG_NAMES,
  DSpritesConfig,
  ImageNetConfig,
  InductionConfig,
  MNISTConfig,
} from "./presets.ts"
export type { ConfigName } from "./presets.ts"
export { FIELDS } from "./defaults.ts"
export type { ConfigOverrides, GlobalConfig } from "./schema.ts"
