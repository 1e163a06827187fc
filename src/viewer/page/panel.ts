/** @file One image with its grid: the map of a head or an overlay over it, the special tokens, legend and reading. */
import { colourOf, inkOn } from "../colour.ts"
import { digits, fillSelect, heat, legend, make, sized, themed } from "./dom.ts"
import type { Loaded } from "./load.ts"
import { headName, layerName, mapOf, MEAN, restingToken, tokenName, type State, type TokenMap } from "./state.ts"

/** What every part of the page is given. */
export interface Page {
  readonly loaded: Loaded
  readonly state: State
  /** Change something; all is drawn again before the next frame. */
  readonly update: (change?: Partial<State>) => void
}

export interface Part {
  readonly draw: () => void
}

/** Widest picture, and the least side of a patch on which lines and glyphs are drawn, in CSS pixels. */
const WIDEST = 448
const LINES = 5
const GLYPHS = 18
/** Tokens named beneath a map. */
const STRONGEST = 4

export function panelPart(page: Page, index: number, into: HTMLElement): Part {
  const { loaded, state, update } = page
  const { grid, special } = loaded.view
  const [rows, columns] = grid

  const imageSelect = make("select", { "aria-label": "Image" })
  const headSelect = make("select", { "aria-label": "Head" })
  const layerSelect = make("select", { "aria-label": "Layer" })
  const canvas = make("canvas", { tabindex: "0", role: "img", class: "picture" })
  const chips = make("div", { class: "chips", role: "group", "aria-label": "Special tokens" })
  const bar = make("div", { class: "legend" })
  const reading = make("p", { class: "reading" })
  const strongest = make("ol", { class: "strongest" })
  const missing = make("p", { class: "missing" })
  const predictions = make("div", { class: "bars predictions" })
  const choose = make("div", { class: "choose" }, [imageSelect, layerSelect, headSelect])
  const card = make("section", { class: "card panel" }, [
    choose,
    chips,
    make("div", { class: "frame" }, [canvas, missing]),
    bar,
    reading,
    strongest,
    predictions,
  ])
  into.append(card)
  const panel = () => state.panels[index]!
  const image = () => loaded.images[panel().image]!

  fillSelect(
    imageSelect,
    loaded.images.map((i) => i.about.name),
  )
  fillSelect(
    layerSelect,
    loaded.layers.map((l) => (l < 0 ? "embedding" : `layer ${l}`)),
  )
  imageSelect.hidden = loaded.images.length < 2
  layerSelect.hidden = loaded.layers.length < 2
  const set = (change: Partial<State["panels"][0]>) => {
    Object.assign(panel(), change)
    update({ active: index })
  }
  imageSelect.addEventListener("change", () => set({ image: Number(imageSelect.value) }))
  layerSelect.addEventListener("change", () => set({ layer: loaded.layers[Number(layerSelect.value)]! }))
  headSelect.addEventListener("change", () => set({ head: Number(headSelect.value) - 1 }))
  card.addEventListener("pointerdown", () => {
    if (state.active !== index) update({ active: index })
  })

  const tokenAt = (event: MouseEvent): number | undefined => {
    const box = canvas.getBoundingClientRect()
    const column = Math.floor(((event.clientX - box.left) / box.width) * columns)
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows)
    const inside = column >= 0 && column < columns && row >= 0 && row < rows
    return inside ? special.length + row * columns + column : undefined
  }
  canvas.addEventListener("pointermove", (event) => point(page, tokenAt(event)))
  canvas.addEventListener("pointerleave", () => point(page, undefined))
  canvas.addEventListener("click", (event) => lock(page, tokenAt(event)))

  const buttons = special.map((name, token) => {
    const button = make("button", { type: "button", class: "chip" }, [make("i"), make("span", { text: name })])
    button.addEventListener("pointerenter", () => point(page, token))
    button.addEventListener("pointerleave", () => point(page, undefined))
    button.addEventListener("click", () => lock(page, token))
    chips.append(button)
    return button
  })
  let shownHeads: unknown
  let shownPredictions: unknown
  const mapCanvas = document.createElement("canvas")

  const draw = () => {
    const map = mapOf(loaded, state, panel())
    const { about, heads, picture, grey } = image()
    if (shownHeads !== heads) {
      fillSelect(headSelect, ["mean of heads", ...heads.map((h) => `head ${h}`)])
      shownHeads = heads
    }
    headSelect.hidden = !heads.length || state.show !== "attention"
    imageSelect.value = String(panel().image)
    layerSelect.value = String(loaded.layers.indexOf(panel().layer))
    headSelect.value = String(panel().head + 1)
    card.classList.toggle("active", state.panels.length > 1 && state.active === index)

    const style = getComputedStyle(card)
    const room = card.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight)
    const width = Math.max(120, Math.min(WIDEST, room, (WIDEST * about.width) / about.height))
    const height = (width * about.height) / about.width
    const context = sized(canvas, width, height)
    const mapped = map.missing === undefined
    context.imageSmoothingEnabled = about.width >= width
    context.imageSmoothingQuality = "high"
    context.drawImage(mapped ? grey : picture, 0, 0, width, height)
    if (mapped) {
      heat(map.values.subarray(special.length), columns, rows, map.kind, map.range, mapCanvas)
      context.imageSmoothingEnabled = false
      context.globalAlpha = state.opacity
      context.drawImage(mapCanvas, 0, 0, width, height)
      context.globalAlpha = 1
    }
    const cell: Cell = { width: width / columns, height: height / rows, columns, first: special.length }
    if (Math.min(cell.width, cell.height) >= LINES) lines(context, cell, width, height)
    if (mapped && Math.min(cell.width, cell.height) >= GLYPHS) glyphs(context, cell, map)
    marks(context, cell, state)
    canvas.setAttribute("aria-label", `${about.name}, ${rows} by ${columns} patches: ${described(page, map)}`)

    missing.textContent = map.missing ?? ""
    missing.hidden = !map.missing
    bar.hidden = !mapped
    if (mapped) legend(bar, map.kind, map.range, map.units)
    buttons.forEach((button, token) => {
      const known = mapped && Number.isFinite(map.values[token]!)
      const [swatch] = button.getElementsByTagName("i")
      swatch!.style.background = known ? colourOf(map.kind, map.values[token]!, ...map.range) : ""
      button.title = known ? `${special[token]!}: ${digits(map.values[token]!)}` : special[token]!
      button.setAttribute("aria-pressed", String(state.token === token))
      button.classList.toggle("locked", state.locked && state.token === token)
    })
    reading.textContent = described(page, map)
    listStrongest(page, map, strongest)
    if (shownPredictions !== about) {
      shownPredictions = about
      predictions.replaceChildren(
        ...(about.predictions ?? []).map(({ label, score, logit }) => {
          const bar = make("i")
          bar.style.width = `${100 * Math.max(0, Math.min(1, score))}%`
          const row = make("div", {}, [
            make("span", { text: label, title: label }),
            make("b", {}, [bar]),
            make("em", { text: `${(100 * score).toFixed(1)} %` }),
          ])
          if (logit !== undefined) row.title = `logit ${digits(logit)}`
          return row
        }),
      )
    }
  }
  return { draw }
}

/** The pointer is on a token, or on none: what is shown follows it unless a token is held. */
export function point({ loaded, state, update }: Page, token: number | undefined): void {
  if (state.pointed === token) return
  update({ pointed: token, ...(!state.locked && { token: token ?? restingToken(loaded) }) })
}

/** Hold a token; the held one is let go. */
export function lock({ state, update }: Page, token: number | undefined): void {
  if (token === undefined) return
  if (state.locked && state.token === token) update({ locked: false })
  else update({ locked: true, token })
}

interface Cell {
  readonly width: number
  readonly height: number
  readonly columns: number
  /** The first token that is a patch. */
  readonly first: number
}

function lines(context: CanvasRenderingContext2D, cell: Cell, width: number, height: number): void {
  context.strokeStyle = "rgba(128,128,128,0.35)"
  context.lineWidth = 1
  context.beginPath()
  for (let x = cell.width; x < width - 1; x += cell.width) {
    context.moveTo(Math.round(x) + 0.5, 0)
    context.lineTo(Math.round(x) + 0.5, height)
  }
  for (let y = cell.height; y < height - 1; y += cell.height) {
    context.moveTo(0, Math.round(y) + 0.5)
    context.lineTo(width, Math.round(y) + 0.5)
  }
  context.stroke()
}

/** What an overlay says of each patch in a word or an emoji. */
function glyphs(context: CanvasRenderingContext2D, cell: Cell, map: TokenMap): void {
  const about = map.overlay?.overlay.labels
  if (!about || !map.overlay?.labels) return
  const { labels, tokens } = map.overlay
  const size = Math.min(cell.width, cell.height)
  context.textAlign = "center"
  context.textBaseline = "middle"
  const offset = map.values.length - tokens
  for (let token = cell.first; token < map.values.length; token++) {
    const n = labels[map.row! * tokens + token - offset]!
    const glyph = about.glyphs?.[n] ?? about.names[n]
    if (glyph === undefined) continue
    const [x, y] = corner(cell, token)
    const short = about.glyphs?.[n] === undefined
    context.font = `${short ? "600 " : ""}${(size * (short ? 0.32 : 0.6)).toFixed(1)}px system-ui, sans-serif`
    context.fillStyle = inkOn(map.kind, map.values[token]!, ...map.range)
    context.fillText(short ? glyph.slice(0, 5) : glyph, x + cell.width / 2, y + cell.height / 2, cell.width)
  }
}

const corner = ({ width, height, columns, first }: Cell, token: number): [number, number] => [
  ((token - first) % columns) * width,
  Math.floor((token - first) / columns) * height,
]

/** The token that the map is about, and the one under the pointer. */
function marks(context: CanvasRenderingContext2D, cell: Cell, { token, locked, pointed, show }: State): void {
  const outline = (of: number, colour: string, dashed: boolean) => {
    if (of < cell.first) return
    const [x, y] = corner(cell, of)
    context.setLineDash(dashed ? [3, 2] : [])
    for (const [style, line] of [
      ["rgba(0,0,0,0.75)", 4],
      [colour, 2],
    ] as const) {
      context.strokeStyle = style
      context.lineWidth = line
      context.strokeRect(x, y, cell.width, cell.height)
    }
    context.setLineDash([])
  }
  const accent = themed("--mark")
  if (show === "attention" || locked) outline(token, locked ? accent : "#fff", false)
  if (pointed !== undefined && pointed !== token) outline(pointed, "#fff", true)
}

/** What a map says, in a sentence. */
function described({ loaded, state }: Page, map: TokenMap): string {
  const at = state.pointed ?? (state.locked || state.show === "attention" ? state.token : undefined)
  if (state.show === "nothing") return ""
  const value = at === undefined ? "" : `${tokenName(loaded, at)}: ${withLabel(map, at)}`
  if (state.show !== "attention") return value || map.overlay?.overlay.name || ""
  const held = state.locked ? " (held)" : ""
  const whose = `${state.direction === "from" ? "From" : "To"} ${tokenName(loaded, state.token)}${held}`
  return at === undefined || at === state.token ? whose : `${whose} \u00b7 ${value}`
}

function withLabel(map: TokenMap, token: number, units = true): string {
  const value = `${digits(map.values[token]!)}${units && map.units && map.units !== "attention" ? ` ${map.units}` : ""}`
  if (!map.overlay?.labels) return value
  const { labels, tokens, overlay } = map.overlay
  const name = overlay.labels!.names[labels[map.row! * tokens + token - (map.values.length - tokens)]!]
  return name === undefined ? value : `${name}, ${value}`
}

/** Tokens with the largest values. */
function listStrongest({ loaded }: Page, map: TokenMap, into: HTMLElement): void {
  const top: number[] = []
  const size = (t: number) => Math.abs(map.values[t]!)
  for (let t = 0; t < map.values.length; t++) {
    if (!(size(t) > 0)) continue
    if (top.length === STRONGEST && size(t) <= size(top.at(-1)!)) continue
    const at = top.findIndex((other) => size(other) < size(t))
    top.splice(at < 0 ? top.length : at, 0, t)
    top.length = Math.min(top.length, STRONGEST)
  }
  into.classList.toggle("labelled", Boolean(map.overlay?.labels))
  into.replaceChildren(
    ...top.map((t) =>
      make("li", {}, [make("span", { text: tokenName(loaded, t) }), make("em", { text: withLabel(map, t, false) })]),
    ),
  )
}

/** Image, layer and head of a panel, for captions. */
export function panelName({ loaded, state }: Page, index: number): string {
  const panel = state.panels[index]!
  const image = loaded.images[panel.image]!
  const head = image.heads.length && panel.head !== MEAN ? headName(image, panel.head) : "mean of heads"
  return `layer ${layerName(panel.layer)}, ${head}`
}
