/** @file Which of the splits found on disk is the training, test and validation split. */
import { fail, listed } from "../errors.ts"
import { quote } from "../tensor/quote.ts"

type Role = "train" | "test" | "val"

const NAMES: { readonly [R in Role]: readonly string[] } = {
  train: ["train", "training"],
  test: ["test", "testing"],
  val: ["val", "validation", "valid", "dev"],
}

/** The split that a file or folder name stands for, `validation` as "val"; undefined for other names. */
export const roleOf = (name: string): Role | undefined =>
  (["train", "test", "val"] as const).find((role) => NAMES[role].includes(name.toLowerCase()))

/** What messages say of the splits that there are. */
export const splitsFound = (names: Iterable<string>): string => `splits found: ${listed([...names]) || "none"}`

/** Which split plays another's part: `{ test: "val" }` where the test images have no labels, as ImageNet's. */
export interface RoleOptions {
  readonly test?: "val"
}

/**
 * What was found, by its role. Errors: E_DATASET_EMPTY, listing the splits found in `where`, where train or test are
 * missing; E_CONFIG for `test`.
 */
export function byRole<T>(
  found: ReadonlyMap<string, T>,
  where: string,
  { test = "test" }: { readonly test?: string } = {},
): { train: T; test: T; val?: T } {
  if (test !== "test" && test !== "val") fail("E_CONFIG", `dataset option test must be "val", got ${quote(test)}`)
  const part = { train: found.get("train"), test: found.get(test) }
  const missing = (["train", "test"] as const).filter((role) => part[role] === undefined)
  if (missing.length > 0) {
    const advice =
      found.has("val") && missing.includes("test") ? `; option test: "val" tests on the validation split` : ""
    const text = `no ${missing.join(" and no ")} split; ${splitsFound(found.keys())}${advice}`
    fail("E_DATASET_EMPTY", `${where}: ${text}`, { file: where })
  }
  const val = test === "val" ? undefined : found.get("val")
  return { train: part.train!, test: part.test!, ...(val === undefined ? {} : { val }) }
}
