/** @file A head's whole pattern, queries down and keys across, one pixel or more to a cell. */
import { byId, digits, heat, legend, sized, themed } from "./dom.ts"
import { lock, panelName, point, type Page, type Part } from "./panel.ts"
import { attentionOf, tokenName, tokens } from "./state.ts"

/** Widest square, and room for the names of the axes; CSS pixels. */
const WIDEST = 420
const MARGIN = 18

/** Colours end where this share of the patches' cells lies below: a few cells have most of the attention. */
const SHARE = 0.995

export function patternPart(page: Page): Part {
  const { loaded, state } = page
  const t = tokens(loaded)
  const { special, grid } = loaded.view
  const card = byId("pattern-card", HTMLElement)
  const canvas = byId("pattern", HTMLCanvasElement)
  const sheet = document.createElement("canvas")
  let drawn = ""
  let values = new Float32Array(0)
  let range: readonly [number, number] = [0, 1]
  let side = 0
  let cell: readonly [query: number, key: number] | undefined

  const under = (event: MouseEvent): readonly [number, number] | undefined => {
    const box = canvas.getBoundingClientRect()
    const key = Math.floor(((event.clientX - box.left - MARGIN) / side) * t)
    const query = Math.floor(((event.clientY - box.top - MARGIN) / side) * t)
    return key >= 0 && key < t && query >= 0 && query < t ? [query, key] : undefined
  }
  const tokenOf = (at: typeof cell) => (state.direction === "from" ? at?.[0] : at?.[1])
  canvas.addEventListener("pointermove", (event) => {
    const now = under(event)
    if (String(now) === String(cell)) return
    cell = now
    // Of the two tokens, the images mark the one that they are not about.
    if (state.locked) page.update({ pointed: now?.[state.direction === "from" ? 1 : 0] })
    else page.update({ token: tokenOf(now) ?? state.token, pointed: now?.[state.direction === "from" ? 1 : 0] })
  })
  canvas.addEventListener("pointerleave", () => {
    cell = undefined
    point(page, undefined)
    page.update()
  })
  canvas.addEventListener("click", (event) => lock(page, tokenOf(under(event))))

  /** Only when another head is chosen: 1.9 million cells at 1370 tokens. */
  const drawSheet = () => {
    const panel = state.panels[state.active]!
    const wanted = `${panel.image} ${panel.layer} ${panel.head}`
    if (wanted === drawn) return
    drawn = wanted
    values = new Float32Array(t * t)
    for (let query = 0; query < t; query++) {
      const row = values.subarray(query * t, (query + 1) * t)
      attentionOf(loaded.images[panel.image]!, panel, { token: query, direction: "from" }, row)
    }
    range = [0, quantile(values, t, special.length)]
    heat(values, t, t, "sequential", range, sheet)
  }

  const draw = () => {
    const { patterns } = loaded.images[state.panels[state.active]!.image]!
    card.hidden = !patterns.size
    if (card.hidden) return
    drawSheet()
    const style = getComputedStyle(card)
    const room = card.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight)
    side = Math.max(120, Math.min(WIDEST, Math.floor(room)) - MARGIN - 2)
    const context = sized(canvas, side + MARGIN + 2, side + MARGIN + 2)
    context.imageSmoothingEnabled = t > side * devicePixelRatio
    context.imageSmoothingQuality = "high"
    context.drawImage(sheet, MARGIN, MARGIN, side, side)
    axes(context)
    const at = (token: number) => MARGIN + (token / t) * side
    const wide = Math.max(1, side / t)
    const mark = (token: number, across: boolean, colour: string) => {
      context.strokeStyle = colour
      context.lineWidth = 1.5
      if (across) context.strokeRect(MARGIN - 1, at(token) - 1, side + 2, wide + 2)
      else context.strokeRect(at(token) - 1, MARGIN - 1, wide + 2, side + 2)
    }
    mark(state.token, state.direction === "from", themed(state.locked ? "--mark" : "--accent"))
    if (state.pointed !== undefined && (cell || state.locked)) mark(state.pointed, state.direction !== "from", "#fff")
    const value = cell && values[cell[0] * t + cell[1]]!
    const told = cell && `${tokenName(loaded, cell[0])} \u2192 ${tokenName(loaded, cell[1])}: ${digits(value!)}`
    byId("pattern-caption", HTMLElement).textContent =
      told ?? `${panelName(page, state.active)}; queries down, keys across`
    canvas.setAttribute("aria-label", `attention of ${panelName(page, state.active)}, ${t} by ${t} tokens`)
    legend(byId("pattern-legend", HTMLElement), "sequential", range, "colours end at 99.5 % of cells")
  }

  /** Names, and a mark where each row of the image begins. */
  const axes = (context: CanvasRenderingContext2D) => {
    context.fillStyle = themed("--faint")
    context.font = "11px system-ui, sans-serif"
    context.textAlign = "left"
    context.textBaseline = "middle"
    context.fillText("key \u2192", MARGIN, 6)
    context.save()
    context.translate(6, MARGIN)
    context.rotate(Math.PI / 2)
    context.fillText("query \u2192", 0, 0)
    context.restore()
    for (let row = 0; row < grid[0]; row++) {
      const at = MARGIN + ((special.length + row * grid[1]) / t) * side
      context.fillRect(at, MARGIN - 4, 1, 3)
      context.fillRect(MARGIN - 4, at, 3, 1)
    }
  }
  return { draw }
}

/** What SHARE of a pattern's cells between patches do not exceed. */
function quantile(values: Float32Array, t: number, special: number): number {
  const between = Math.max(1, (t - special) ** 2)
  // A sample of at most 20,000 cells tells it to within a fraction of a colour.
  const stride = Math.max(1, Math.floor(between / 20_000))
  const sample: number[] = []
  for (let i = 0, seen = 0; i < values.length; i++) {
    if (i % t < special || i < special * t || seen++ % stride) continue
    if (values[i]! >= 0) sample.push(values[i]!)
  }
  sample.sort((a, b) => a - b)
  return sample[Math.min(sample.length - 1, Math.floor(sample.length * SHARE))] || 1
}
