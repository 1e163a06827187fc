/**
 * @file The configs of Prisma's mice. The first four are the seed's own, field by field; of CIFAR-10 and ImageNet it
 * published none.
 */
import { filled, frozen } from "./defaults.ts"
import type { ConfigOverrides, GlobalConfig } from "./schema.ts"

interface Preset {
  /** As the seed's file has it: variant "seed-exact". */
  readonly seed: ConfigOverrides
  /** What is other by default: variant "corrected". */
  readonly corrected: ConfigOverrides
}

const scratch = "/network/scratch/s/sonia.joseph/vit_prisma"
const size = (hidden_dim: number, num_heads: number, num_layers: number) => ({
  hidden_dim,
  num_heads,
  num_layers,
  mlp_dim: 4 * hidden_dim,
})
const square = (image_size: number, patch_size: number, n_channels: number) => ({ image_size, patch_size, n_channels })

/** What the seed's four configs have in common and is not this project's default. */
const SEED = { device: "cuda", validation_split: 0.2 } as const

const PRESETS = {
  induction: {
    seed: {
      image: square(32, 8, 1),
      transformer: { ...size(128, 4, 1), attention_only: true },
      training: { ...SEED, lr: 5e-4, num_epochs: 50000, batch_size: 64 },
      logging: {
        log_frequency: 1,
        use_wandb: true,
        wandb_project_name: "induction_test",
        wandb_team_name: "perceptual-alignment",
      },
      saving: { parent_dir: `${scratch}/induction/1_layer_attn_only`, save_cp_frequency: 200 },
      classification: { num_classes: 4 },
      data: { name: "induction" },
    },
    corrected: {},
  },
  circle: {
    seed: {
      image: square(32, 1, 1),
      transformer: size(128, 4, 1),
      training: { ...SEED, lr: 1e-4, num_epochs: 50000, batch_size: 128 },
      logging: { log_frequency: 1, use_wandb: true, wandb_project_name: "circle_test" },
      saving: { parent_dir: scratch, save_checkpoints: false, save_cp_frequency: 10 },
      classification: { num_classes: 60 },
      data: { name: "circle", mean: [0.5], std: [0.5] },
    },
    corrected: {},
  },
  mnist: {
    seed: {
      image: square(28, 7, 1),
      transformer: size(128, 4, 4),
      training: {
        ...SEED,
        lr: 1e-4,
        num_epochs: 5,
        batch_size: 64,
        weight_decay: 0,
        max_grad_norm: null,
        scheduler_step: 1200,
      },
      logging: { log_frequency: 10, use_wandb: true, wandb_project_name: "mnist_test" },
      saving: { parent_dir: scratch, save_cp_frequency: 10 },
      classification: { num_classes: 10 },
      data: { name: "mnist", mean: [0.5], std: [0.5] },
    },
    corrected: {},
  },
  dsprites: {
    seed: {
      image: square(64, 8, 1),
      transformer: size(512, 8, 4),
      training: {
        ...SEED,
        lr: 1e-4,
        num_epochs: 10,
        batch_size: 512,
        early_stopping: true,
        early_stopping_patience: 3,
      },
      logging: { log_frequency: 100, print_every: 100, use_wandb: true, wandb_project_name: "dsprites" },
      saving: { parent_dir: "/scratch/sjoseph/yash/dsprites", save_dir: "checkpoints/{run_id}", save_cp_frequency: 50 },
      classification: { num_classes: 3 },
      data: { name: "dsprites", target: "shape" },
    },
    corrected: { saving: { save_dir: "checkpoints" } },
  },
  cifar10: {
    seed: {},
    corrected: {
      architecture: "preLN",
      image: square(32, 4, 3),
      transformer: size(128, 4, 4),
      init: { scheme: "timm" },
      training: {
        lr: 1e-3,
        num_epochs: 30,
        batch_size: 128,
        warmup_steps: 500,
        weight_decay: 0.05,
        scheduler_type: "WarmupCosine",
      },
      saving: { save_cp_frequency: 1000 },
      classification: { num_classes: 10 },
      // Of the training images: notebooks of all years have these.
      data: {
        name: "cifar10",
        mean: [0.4914, 0.4822, 0.4465],
        std: [0.2023, 0.1994, 0.201],
        augment: [{ kind: "crop", padding: 4 }, { kind: "flip" }],
      },
    },
  },
  imagenet: {
    seed: {},
    corrected: {
      image: square(224, 16, 3),
      transformer: size(512, 8, 4),
      training: { lr: 1e-4, num_epochs: 10, batch_size: 512, validation_split: 0 },
      logging: { log_frequency: 100 },
      saving: { save_cp_frequency: 1000 },
      classification: { num_classes: 1000 },
      data: { name: "folder", mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], augment: [{ kind: "flip" }] },
    },
  },
} as const satisfies Readonly<Record<string, Preset>>

export type ConfigName = keyof typeof PRESETS
export const CONFIG_NAMES = Object.keys(PRESETS) as readonly ConfigName[]
/** Those that the seed has. */
export const SEED_NAMES: readonly ConfigName[] = ["induction", "circle", "mnist", "dsprites"]

/** Sections of `over` laid over those of `base`, field by field. */
export function merged(base: ConfigOverrides, over: ConfigOverrides): ConfigOverrides {
  const section = (value: unknown): value is object => typeof value === "object" && value !== null
  const both = Object.entries(over).map(([name, value]) => {
    const below = base[name as keyof ConfigOverrides]
    return [name, section(value) && section(below) ? { ...below, ...value } : value] as const
  })
  return { ...base, ...Object.fromEntries(both) }
}

/** Of every config: what runs here, tells nobody and writes below the folder one is in. */
const corrected = (name: ConfigName): ConfigOverrides => ({
  variant: "corrected",
  training: { device: "auto", validation_split: 0.1 },
  logging: { use_wandb: false },
  saving: { parent_dir: `runs/${name}` },
})

export const preset = (name: ConfigName, variant: GlobalConfig["variant"]): GlobalConfig => {
  const p: Preset = PRESETS[name]
  const parts: ConfigOverrides[] =
    variant === "seed-exact" ? [p.seed, { variant }] : [p.seed, corrected(name), p.corrected]
  return frozen(filled(parts.reduce(merged))) as GlobalConfig
}

export const InductionConfig = preset("induction", "corrected")
export const CircleConfig = preset("circle", "corrected")
export const MNISTConfig = preset("mnist", "corrected")
export const DSpritesConfig = preset("dsprites", "corrected")
export const CIFAR10Config = preset("cifar10", "corrected")
export const ImageNetConfig = preset("imagenet", "corrected")
