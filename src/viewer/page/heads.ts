/** @file Layers by heads as small maps of the current token: where each looks, or who looks at it. */
import { paint } from "../colour.ts"
import { byId, digits, sized, themed } from "./dom.ts"
import type { Page, Part } from "./panel.ts"
import { attentionOf, largestPatch, sharedLargest, tokenName, tokens } from "./state.ts"

/** Side of a map, space between two, the strip of special tokens above each, room for names; CSS pixels. */
const [SMALLEST, LARGEST] = [20, 120]
const GAP = 6
const STRIP = 7
const [LEFT, TOP] = [26, 20]

export function headsPart(page: Page): Part {
  const { loaded, state, update } = page
  const { special, grid } = loaded.view
  const [rows, columns] = grid
  const card = byId("heads-card", HTMLElement)
  const canvas = byId("heads", HTMLCanvasElement)
  const caption = byId("heads-caption", HTMLElement)
  /** One pixel a patch: heads side by side, layers below each other. */
  const sheet = document.createElement("canvas")
  let cell = { width: 0, height: 0 }
  let pointed: readonly [layer: number, head: number] | undefined

  const image = () => loaded.images[state.panels[state.active]!.image]!
  const layers = () => [...image().patterns.keys()]
  const strip = special.length ? STRIP + 2 : 0
  const place = (layer: number, head: number): [number, number] => [
    LEFT + head * (cell.width + GAP),
    TOP + layer * (cell.height + strip + GAP) + strip,
  ]
  const under = (event: PointerEvent | MouseEvent): readonly [number, number] | undefined => {
    const box = canvas.getBoundingClientRect()
    const head = Math.floor((event.clientX - box.left - LEFT) / (cell.width + GAP))
    const layer = Math.floor((event.clientY - box.top - TOP) / (cell.height + strip + GAP))
    const inside = head >= 0 && head < image().heads.length && layer >= 0 && layer < layers().length
    return inside ? [layer, head] : undefined
  }
  canvas.addEventListener("pointermove", (event) => {
    const now = under(event)
    if (String(now) !== String(pointed)) {
      pointed = now
      update()
    }
  })
  canvas.addEventListener("pointerleave", () => {
    pointed = undefined
    update()
  })
  canvas.addEventListener("click", (event) => {
    const chosen = under(event)
    if (!chosen) return
    // With two panels, shift chooses for the other one.
    const index = event.shiftKey && state.panels.length > 1 ? 1 - state.active : state.active
    Object.assign(state.panels[index]!, { layer: layers()[chosen[0]]!, head: chosen[1] })
    update({ show: "attention" })
  })

  const draw = () => {
    const { heads, patterns } = image()
    card.hidden = !patterns.size
    if (card.hidden) return
    const scroller = canvas.parentElement!
    const room = (scroller.clientWidth - LEFT) / heads.length - GAP
    const width = Math.max(SMALLEST, Math.min(LARGEST, Math.floor(room)))
    cell = { width, height: Math.round((width * rows) / columns) }
    const context = sized(
      canvas,
      LEFT + heads.length * (cell.width + GAP) + 2,
      TOP + patterns.size * (cell.height + strip + GAP) + 2,
    )
    const most = state.scale === "shared" ? sharedLargest(loaded, image(), state) : undefined
    const values = new Float32Array(tokens(loaded))
    const all = new ImageData(columns * heads.length, rows * patterns.size)
    const one = new Uint8ClampedArray(columns * rows * 4)
    const chips = new Uint8ClampedArray(Math.max(1, special.length) * 4)
    let told = ""
    const [ink, faint] = [themed("--ink"), themed("--faint")]
    context.font = "11px system-ui, sans-serif"
    context.fillStyle = faint
    context.textBaseline = "middle"
    layers().forEach((layer, l) => {
      heads.forEach((_, h) => {
        attentionOf(image(), { layer, head: h }, state, values)
        const largest = largestPatch(values, special.length)
        const range = [0, most ?? (largest || 1)] as const
        paint(values.subarray(special.length), "sequential", ...range, one)
        for (let y = 0; y < rows; y++) {
          const at = ((l * rows + y) * heads.length + h) * columns
          all.data.set(one.subarray(y * columns * 4, (y + 1) * columns * 4), at * 4)
        }
        const [x, y] = place(l, h)
        if (special.length) {
          paint(values.subarray(0, special.length), "sequential", ...range, chips)
          const side = Math.min(STRIP, cell.width / special.length - 1)
          for (let s = 0; s < special.length; s++) {
            const [r, g, b, a] = chips.subarray(s * 4, s * 4 + 4)
            context.fillStyle = `rgba(${r!},${g!},${b!},${a! / 255})`
            context.fillRect(x + s * (side + 1), y - strip, side, STRIP)
          }
        }
        if (pointed?.[0] === l && pointed[1] === h) told = reading(values, layer, heads[h]!)
      })
    })
    sheet.width = all.width
    sheet.height = all.height
    sheet.getContext("2d")!.putImageData(all, 0, 0)
    context.imageSmoothingEnabled = cell.width < columns
    context.textAlign = "center"
    layers().forEach((layer, l) => {
      heads.forEach((number, h) => {
        const [x, y] = place(l, h)
        // Where the row is not in the file there is an empty frame.
        context.strokeStyle = themed("--line")
        context.lineWidth = 1
        context.strokeRect(x + 0.5, y + 0.5, cell.width - 1, cell.height - 1)
        context.drawImage(sheet, h * columns, l * rows, columns, rows, x, y, cell.width, cell.height)
        if (l === 0) {
          context.fillStyle = faint
          context.fillText(String(number), x + cell.width / 2, 8)
        }
      })
      context.fillStyle = faint
      context.fillText(String(layer), 9, place(l, 0)[1] + cell.height / 2)
    })
    state.panels.forEach((panel, i) => {
      if (loaded.images[panel.image] !== image()) return
      const l = layers().indexOf(panel.layer)
      if (l < 0) return
      context.strokeStyle = themed(i === state.active ? "--accent" : "--mark")
      context.lineWidth = 2.5
      const first = panel.head < 0 ? 0 : panel.head
      const last = panel.head < 0 ? heads.length - 1 : panel.head
      const [x, y] = place(l, first)
      const right = place(l, last)[0] + cell.width
      context.strokeRect(x - 2, y - strip - 2, right - x + 4, cell.height + strip + 4)
    })
    if (pointed) {
      const [x, y] = place(...pointed)
      context.strokeStyle = ink
      context.lineWidth = 1
      context.strokeRect(x - 1.5, y - strip - 1.5, cell.width + 3, cell.height + strip + 3)
    }
    const whose = `${state.direction === "from" ? "from" : "to"} ${tokenName(loaded, state.token)}`
    caption.textContent = told || `Layers down, heads across, ${whose}. Click one to choose it.`
    canvas.setAttribute("aria-label", `${patterns.size} layers of ${heads.length} heads, ${whose}`)
  }

  const reading = (values: Float32Array, layer: number, head: number): string => {
    let at = special.length
    for (let i = at; i < values.length; i++) if (values[i]! > values[at]!) at = i
    const onSpecial = special.map((name, s) => `${name} ${digits(values[s]!)}`)
    const most = `${tokenName(loaded, at)} ${digits(values[at]!)}`
    return `Layer ${layer}, head ${head}: ${[...onSpecial.slice(0, 3), most].join(", ")}`
  }
  return { draw }
}
