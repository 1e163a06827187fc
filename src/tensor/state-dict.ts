/** @file What torch.save writes for a state dict: storages, and tensors as strided views of them
 * (https://github.com/pytorch/pytorch/blob/main/torch/_utils.py, `_rebuild_tensor_v2`). */
import { fail } from "../errors.ts"
import { type Allowed, failAt, type Machine, refuse, RESAVE, unpickle } from "./pickle.ts"
import {
  type Callable,
  type Dict,
  emptyDict,
  isKind,
  kindOf,
  type Pickled,
  type StorageClass,
  type View,
} from "./pickle-value.ts"
import { quote } from "./quote.ts"
import { type DType, show, size } from "./tensor.ts"

const MAX_RANK = 64 // what PyTorch's iterators take

/** Where a training script puts the state dict among other things. */
const WRAPPERS = ["state_dict", "model_state_dict", "model"]

/** The tensors of a pickled state dict by name, in its order: of the dict itself, or of the one under the key
 * state_dict, model_state_dict or model. `file` is for messages.
 * Throws E_PICKLE_* and E_STORAGE_BOUNDS. */
export function readStateDict(bytes: Uint8Array, file: string): Map<string, View> {
  const bad = (message: string): never => fail("E_PICKLE_STATE_DICT", `${file}: ${message}; ${RESAVE}`, { file })
  const root = unpickle(bytes, file, ALLOWED)
  if (!isKind(root, "dict")) return bad(`holds ${kindOf(root)}, expected a state dict (tensors by name)`)
  const wrapped = WRAPPERS.filter((key) => isKind(root.entries.get(key), "dict"))
  if (wrapped.length > 1) bad(`holds state dicts under ${wrapped.join(" and ")}, expected one`)
  const inner = root.entries.get(wrapped[0] ?? "")
  const views = new Map<string, View>()
  for (const [name, value] of (isKind(inner, "dict") ? inner : root).entries) {
    if (typeof name !== "string") bad(`state dict has ${kindOf(name)} among its keys, expected names`)
    else if (!isKind(value, "view")) bad(`entry ${quote(name)} is ${kindOf(value)}, expected a tensor`)
    else views.set(name, value)
  }
  return views
}

/** ("storage", class, key, device, length): where the tensor's numbers are. */
function storage(m: Machine, id: Pickled): Pickled {
  const [tag, type, key, device, length, ...more] = isKind(id, "tuple") ? id.items : []
  if (tag !== "storage" || !isKind(type, "storage class") || typeof key !== "string" || typeof device !== "string") {
    return refuse(m, "opcode BINPERSID with something else than (storage, class, key, device, length)")
  }
  if (more.length > 0) refuse(m, `opcode BINPERSID with ${5 + more.length} items, expected 5`)
  return { kind: "storage", key, dtype: type.dtype, length: natural(m, length, "storage length") }
}

/** (storage, offset, shape, strides, requires_grad, hooks); a seventh argument would negate or conjugate. */
function rebuildTensor(m: Machine, args: readonly Pickled[]): View {
  const [storage, start, axes, steps, , hooks] = args
  if (args.length !== 6 || !isKind(storage, "storage") || !isKind(hooks, "dict") || hooks.entries.size > 0) {
    return refuse(m, "_rebuild_tensor_v2 with other arguments than those of a plain tensor")
  }
  const offset = natural(m, start, "storage offset")
  const shape = naturals(m, axes, "shape")
  const strides = naturals(m, steps, "strides")
  const count = size(shape)
  const last = shape.reduce((sum, n, axis) => sum + (n - 1) * (strides[axis] ?? 0), offset)
  const end = count === 0 ? offset : last + 1
  if (strides.length !== shape.length || !Number.isSafeInteger(count) || end > storage.length) {
    const view = `shape ${show(shape)}, strides ${show(strides)}, offset ${offset}`
    failAt(m, "E_STORAGE_BOUNDS", `tensor of ${view} does not lie inside its storage of ${storage.length} elements`)
  }
  return { kind: "view", storage, offset, shape, strides }
}

function natural(m: Machine, value: Pickled | undefined, what: string): number {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value
  const got = typeof value === "number" || typeof value === "bigint" ? String(value) : kindOf(value)
  return failAt(m, "E_STORAGE_BOUNDS", `${what} is ${got}, expected a natural number below 2^53`)
}

function naturals(m: Machine, value: Pickled | undefined, what: string): number[] {
  if (!isKind(value, "tuple")) return refuse(m, `${what} is ${kindOf(value)}, expected a tuple`)
  const { length } = value.items
  if (length > MAX_RANK) failAt(m, "E_STORAGE_BOUNDS", `${what} has ${length} axes, expected at most ${MAX_RANK}`)
  return value.items.map((item) => natural(m, item, what))
}

const call = (call: Callable["call"]): Callable => ({ kind: "function", call })
const storageOf = (dtype: DType): StorageClass => ({ kind: "storage class", dtype })

const ALLOWED: Allowed = {
  persistent: storage,
  globals: new Map<string, StorageClass | Callable>([
    ["collections.OrderedDict", call(orderedDict)],
    ["torch._utils._rebuild_tensor_v2", call(rebuildTensor)],
    ["torch._utils._rebuild_parameter", call(rebuildParameter)],
    ["torch.Size", call(axes)],
    ["torch.DoubleStorage", storageOf("float64")],
    ["torch.FloatStorage", storageOf("float32")],
    ["torch.HalfStorage", storageOf("float16")],
    ["torch.BFloat16Storage", storageOf("bfloat16")],
    ["torch.LongStorage", storageOf("int64")],
    ["torch.IntStorage", storageOf("int32")],
    ["torch.ShortStorage", storageOf("int16")],
    ["torch.CharStorage", storageOf("int8")],
    ["torch.ByteStorage", storageOf("uint8")],
    ["torch.BoolStorage", storageOf("bool")],
  ]),
}

function orderedDict(m: Machine, args: readonly Pickled[]): Dict {
  return args.length === 0 ? emptyDict(true) : refuse(m, `OrderedDict of ${args.length} arguments, expected 0`)
}

/** (tensor, requires_grad, hooks) */
function rebuildParameter(m: Machine, args: readonly Pickled[]): View {
  const [view] = args
  return args.length === 3 && isKind(view, "view") ? view : refuse(m, `_rebuild_parameter of ${kindOf(view)}`)
}

function axes(m: Machine, args: readonly Pickled[]): Pickled {
  const [shape = null] = args
  return args.length === 1 && isKind(shape, "tuple") ? shape : refuse(m, `torch.Size of ${kindOf(shape)}`)
}
