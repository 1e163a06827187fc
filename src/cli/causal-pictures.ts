/** @file What replaced values change, as pictures: tables of layers by heads, tokens or hooks, and maps over the image. */
import type { SweepRow } from "../interp/causal/sweep.ts"
import { nPrefix, type VisionConfig } from "../model/config.ts"
import type { MatrixInput, OverlayInput } from "../viewer/encode.ts"
import { tokenNames } from "./lens.ts"

interface Said {
  readonly vision: VisionConfig
  readonly metric: string
  /** The metric where nothing is replaced. */
  readonly plainly: number
}

/** What each row changes. */
export function changes(rows: readonly SweepRow[], said: Said): { overlays: OverlayInput[]; matrices: MatrixInput[] } {
  const tables = kindsOf(rows).map((kind) => ({ ...kind, ...said }))
  return {
    overlays: tables.flatMap(overlayOf),
    matrices: [...byHook(tables), ...tables.filter((t) => !isWhole(t)).flatMap(matricesOf)],
  }
}

/** Rows of the same hook of all layers, "attn.hook_z", whose sites are cut alike. */
interface Kind {
  readonly name: string
  /** Layers; empty for a hook that is of none. */
  readonly layers: readonly number[]
  /** [layers or 1][sites] */
  readonly rows: readonly (readonly SweepRow[])[]
}

function kindsOf(rows: readonly SweepRow[]): Kind[] {
  const kinds = new Map<string, Map<number, SweepRow[]>>()
  for (const row of rows) {
    const [, layer = "-1", name = row.site.hook] = /^blocks\.(\d+)\.(.*)$/.exec(row.site.hook) ?? []
    const byLayer = kinds.get(name) ?? new Map<number, SweepRow[]>()
    kinds.set(name, byLayer.set(Number(layer), [...(byLayer.get(Number(layer)) ?? []), row]))
  }
  return [...kinds].map(([name, byLayer]) => ({
    name: name.replace(/^(attn|mlp)\./, "").replace("hook_", ""),
    layers: [...byLayer.keys()].filter((layer) => layer >= 0),
    rows: [...byLayer.values()],
  }))
}

interface Shown extends Kind, Said {}

/** The token that a place of a hook is: the patch embedding has none of the special ones. */
const tokenAt = ({ name, vision }: Shown, place: number): number => place + (name === "embed" ? nPrefix(vision) : 0)

/** One site of each layer: it needs no table of its own. */
const isWhole = ({ layers, rows }: Kind): boolean => layers.length > 0 && rows.every((sites) => sites.length === 1)

/** Those together: a row for each layer, a column for each hook; NaN where it was not asked for. */
function byHook(tables: readonly Shown[]): MatrixInput[] {
  const whole = tables.filter(isWhole)
  if (!whole.length) return []
  const [{ metric, plainly }] = whole as [Shown]
  const layers = [...new Set(whole.flatMap((t) => t.layers))].sort((a, b) => a - b)
  const value = ({ layers: own, rows }: Shown, layer: number) => {
    const at = own.indexOf(layer)
    return at < 0 ? NaN : rows[at]![0]!.mean - plainly
  }
  return [
    {
      name: "layers by hooks",
      kind: "diverging",
      units: `change of ${metric}`,
      rows: layers.map((l) => `L${l}`),
      rowNumbers: layers,
      rowAxis: "layer",
      columns: whole.map((t) => t.name),
      values: layers.flatMap((layer) => whole.map((t) => value(t, layer))),
    },
  ]
}

/** What each value changes: a row for each layer, a column for each site; of heads and tokens both, one table a layer. */
function matricesOf(shown: Shown): MatrixInput[] {
  const { name, layers, rows, vision, metric, plainly } = shown
  const sites = rows[0]!.map((r) => r.site)
  const heads = [...new Set(sites.flatMap((s) => s.head ?? []))]
  const single = sites.every((s) => s.tokens?.length === 1)
  const tokens = single ? [...new Set(sites.map((s) => tokenAt(shown, s.tokens![0]!)))] : []
  const names = tokenNames(vision)
  const named = {
    head: { columns: heads.map((h) => `H${h}`), columnNumbers: heads, columnAxis: "head" },
    token: { columns: tokens.map((t) => names[t]!), columnNumbers: tokens, columnAxis: "token" },
  } as const
  const how = { kind: "diverging", units: `change of ${metric}` } as const
  const value = (r: SweepRow) => r.mean - plainly
  const layered = { rowAxis: "layer", rowNumbers: layers } as const
  if (heads.length && tokens.length) {
    return rows.map((row, i) => ({
      ...how,
      name: `${layers.length ? `L${layers[i]} ` : ""}${name}: heads by tokens`,
      rows: named.head.columns,
      rowNumbers: heads,
      rowAxis: "head",
      ...named.token,
      values: row.map(value),
    }))
  }
  const what = heads.length ? "head" : tokens.length ? "token" : undefined
  return [
    {
      ...how,
      name: [name, what && `${layers.length ? "layers by " : ""}${what}s`].filter(Boolean).join(": "),
      rows: layers.length ? layers.map((l) => `L${l}`) : [name],
      ...(layers.length && layered),
      ...(what ? named[what] : { columns: sites.map(({ tokens: some }) => (some ? `${some.length} patches` : "all")) }),
      values: rows.flatMap((row) => row.map(value)),
    },
  ]
}

/** The same over the image, where sites are tokens of all heads; NaN where none was. */
function overlayOf(shown: Shown): OverlayInput[] {
  const { name, layers, rows, vision, metric, plainly } = shown
  if (rows[0]!.some(({ site }) => !site.tokens || site.head !== undefined)) return []
  const values = rows.flatMap((row) => {
    const change = Array<number>(tokenNames(vision).length).fill(NaN)
    for (const { site, mean } of row) for (const t of site.tokens!) change[tokenAt(shown, t)] = mean - plainly
    return change
  })
  return [{ name: `change by ${name}`, kind: "diverging", units: metric, ...(layers.length && { layers }), values }]
}
