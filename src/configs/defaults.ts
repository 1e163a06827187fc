/** @file The fields of a config and what they are where nothing is said: plain data, so that the presets need no schema. */
import { fieldsOf, isRecord, type Fields } from "../tensor/record.ts"

/** Every section and field, in the order in which a config is written; undefined is what has no default. */
const DEFAULTS = {
  variant: "corrected",
  architecture: "seed",
  image: { image_size: undefined, patch_size: undefined, n_channels: undefined },
  transformer: {
    hidden_dim: undefined,
    num_heads: undefined,
    num_layers: undefined,
    mlp_dim: undefined, // 4 hidden_dim
    activation_name: "GELU",
    attention_only: false,
    attn_hidden_layer: true,
  },
  layernorm: { qknorm: false, layer_norm_eps: 0 },
  dropout: { patch: 0, position: 0, attention: 0, proj: 0, mlp: 0, path: 0 },
  init: { scheme: "seed", weight_type: "he", cls_std: 1e-6, pos_std: 0.02 },
  training: {
    loss_fn_name: "CrossEntropy",
    label_smoothing: 0,
    mask_ratio: 0.75,
    lr: 1e-4,
    min_lr: 1e-6,
    num_epochs: 10,
    batch_size: 64,
    accumulation: 1,
    warmup_steps: 10,
    weight_decay: 0.01,
    max_grad_norm: 1,
    device: "auto",
    seed: 0,
    optimizer_name: "AdamW",
    betas: [0.9, 0.999],
    eps: 1e-8,
    momentum: 0.9,
    nesterov: false,
    scheduler_type: "WarmupThenStep",
    scheduler_step: 200,
    scheduler_gamma: 0.8,
    total_steps: null,
    max_steps: null,
    ema_decay: null,
    eval_frequency: null,
    test_samples: null,
    validation_split: 0.1,
    early_stopping: false,
    early_stopping_patience: 2,
  },
  logging: {
    log_dir: "logs",
    log_frequency: 10,
    print_every: 0,
    use_wandb: false,
    wandb_project_name: null,
    wandb_team_name: null,
    track: [],
  },
  saving: {
    parent_dir: ".",
    run_id: null,
    save_dir: "checkpoints",
    save_checkpoints: true,
    save_cp_frequency: 200,
    log_spaced: false,
    keep_last: null,
  },
  classification: { num_classes: undefined, global_pool: false, class_names: undefined },
  data: {
    name: "",
    path: undefined,
    seed: 0,
    target: undefined,
    size: undefined,
    image: undefined,
    label: undefined,
    test: undefined,
    mean: [0],
    std: [1],
    augment: undefined,
  },
} as const

/** Names of the fields: "variant", "training.lr", ... */
export const FIELDS: readonly string[] = Object.entries(DEFAULTS).flatMap(([name, section]) =>
  typeof section === "string" ? [name] : Object.keys(section).map((field) => `${name}.${field}`),
)

/** `given` with the defaults where it says nothing; what is no object stays as it is, for the schema to refuse. */
export function filled(given: unknown): unknown {
  if (!isRecord(given)) return given
  const all = { ...DEFAULTS, ...said(given) }
  const sections = Object.entries(all).map(([name, value]) => {
    const defaults = DEFAULTS[name as keyof typeof DEFAULTS] as unknown
    return [name, isRecord(value) && isRecord(defaults) ? said({ ...defaults, ...said(value) }) : value] as const
  })
  return withMlpDim(Object.fromEntries(sections))
}

/** Where mlp_dim is left out it is 4 hidden_dim. */
function withMlpDim(given: Fields): Fields {
  const { transformer } = given
  const { hidden_dim, mlp_dim } = fieldsOf(transformer)
  if (mlp_dim !== undefined || typeof hidden_dim !== "number") return given
  return { ...given, transformer: { ...fieldsOf(transformer), mlp_dim: 4 * hidden_dim } }
}

/** Without what is undefined. */
const said = (fields: Fields): Fields => Object.fromEntries(Object.entries(fields).filter(([, v]) => v !== undefined))

export type Immutable<T> = T extends object ? { readonly [K in keyof T]: Immutable<T[K]> } : T

export function frozen<T>(value: T): Immutable<T> {
  for (const part of Object.values(fieldsOf(value))) frozen(part)
  return Object.freeze(value) as Immutable<T>
}
