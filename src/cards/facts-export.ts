/** @file What `vit-prisma convert` wrote down: the manifest and the certificate. */
import { PrismaError } from "../errors.ts"
import { repoId } from "../files/paths.ts"
import { type Fields, fieldsOf } from "./fields.ts"

export interface Exported {
  /** The source: a repo id where it came from the Hub, else its folder's name. */
  readonly name: string
  /** Of the repo, where it came from the Hub: only then is `name` an id. */
  readonly commit: string | undefined
  readonly version: string | undefined
  /** The file or index that the weights were read from, and those beside it that were not. */
  readonly weights: string | undefined
  readonly unused: readonly string[]
  readonly inputs: readonly Port[]
  readonly outputs: readonly Port[]
  readonly certificate: Certified | undefined
}

export interface Port {
  readonly name: string
  readonly shape: readonly (string | number)[]
  /** The hook whose value is replaced by what is fed. */
  readonly replaces?: string
}

/** Values compared with the float64 implementation. */
export interface Certified {
  readonly values: number
  /** The greatest max |a - b| / max(1, max |b|), and whose it is where the report is there. */
  readonly worst: number
  readonly name?: string
  readonly tolerance?: number
}

const FORMAT = "vit-prisma folder 1"

/** Undefined where the manifest is not there or of something else, such as a checkpoint. Error: E_CONFIG. */
export function exportOf(manifest: unknown, certificate: unknown, folder: string): Exported | undefined {
  if (manifest === undefined) return undefined
  const file = `${folder}/manifest.json`
  const m = fieldsOf(manifest, file)
  const source = m.at("source")
  const name = source.text("name")
  if (m.text("format") !== FORMAT || name === undefined) return undefined
  const commit = source.text("commit")
  const known = commit !== undefined && /^[0-9a-f]{40}$/.test(commit) && isRepo(name)
  return {
    name,
    commit: known ? commit : undefined,
    version: m.at("tool").text("version"),
    weights: source.text("weights"),
    unused: source.values("unused").map(String),
    inputs: ports(m.at("inputs")),
    outputs: ports(m.at("outputs")),
    certificate: certifiedOf(m, certificate, folder),
  }
}

export function isRepo(name: string): boolean {
  try {
    return repoId(name) === name
  } catch (error) {
    if (error instanceof PrismaError) return false
    throw error
  }
}

function ports(given: Fields): Port[] {
  return given.names().map((name) => {
    const port = given.at(name)
    const replaces = port.text("replaces")
    const shape = port.values("shape")
    return { name, shape, ...(replaces !== undefined && { replaces }) }
  })
}

function certifiedOf(manifest: Fields, certificate: unknown, folder: string): Certified | undefined {
  const short = manifest.at("certificate")
  const [worst, values] = [short.number("worst", 0), short.whole("values")]
  if (worst === undefined || !values) return undefined
  const report = fieldsOf(certificate, `${folder}/certificate.json`)
  const name = report
    .list("values")
    .find((v) => v.number("error") === worst)
    ?.text("name")
  const tolerance = report.number("tolerance", 0)
  return { values, worst, ...(name !== undefined && { name }), ...(tolerance !== undefined && { tolerance }) }
}
