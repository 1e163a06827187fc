/** @file What the reader presses: the bar of controls, the keys, play, compare, light and dark. */
import { byId, fillSelect, make } from "./dom.ts"
import type { Page, Part } from "./panel.ts"
import { layerName, MEAN, tokens, type State } from "./state.ts"

/** Milliseconds for which play shows each layer. */
const PACE = 700

const THEMES = ["auto", "light", "dark"] as const
const THEME_ICONS = { auto: "\u25d0", light: "\u2600", dark: "\u263e" } as const

export function controlsPart(page: Page): Part {
  const { loaded, state, update } = page
  const show = byId("show", HTMLSelectElement)
  const direction = byId("direction", HTMLSelectElement)
  const scale = byId("scale", HTMLSelectElement)
  const layer = byId("layer", HTMLInputElement)
  const opacity = byId("opacity", HTMLInputElement)
  const play = byId("play", HTMLElement)
  const compare = byId("compare", HTMLElement)
  const active = () => state.panels[state.active]!
  const attention = loaded.images.some((i) => i.patterns.size)
  const names = [
    ...(attention ? ["attention"] : []),
    ...new Set(loaded.images.flatMap((i) => i.overlays.map((o) => o.overlay.name))),
    "nothing",
  ]
  fillSelect(
    show,
    names.map((n) => (n === "attention" ? "attention of a head" : n === "nothing" ? "the image alone" : n)),
  )
  byId("show-field", HTMLElement).hidden = names.length < 2
  byId("layer-field", HTMLElement).hidden = loaded.layers.length < 2
  byId("opacity-field", HTMLElement).hidden = names.length < 2
  byId("direction-field", HTMLElement).hidden = byId("scale-field", HTMLElement).hidden = !attention
  byId("main", HTMLElement).classList.toggle("plain", !attention)
  layer.max = String(loaded.layers.length - 1)
  show.addEventListener("change", () => update({ show: names[Number(show.value)]! }))
  direction.addEventListener("change", () => update({ direction: direction.value as State["direction"] }))
  scale.addEventListener("change", () => update({ scale: scale.value as State["scale"] }))
  opacity.addEventListener("input", () => update({ opacity: Number(opacity.value) }))
  const toLayer = (index: number) => {
    const n = loaded.layers.length
    if (!n) return
    active().layer = loaded.layers[(index + n) % n]!
    update()
  }
  layer.addEventListener("input", () => toLayer(Number(layer.value)))

  let timer: number | undefined
  const stop = () => {
    window.clearInterval(timer)
    timer = undefined
    update()
  }
  const togglePlay = () => {
    if (timer !== undefined) return stop()
    if (loaded.layers.length > 1) timer = window.setInterval(() => toLayer(at() + 1), PACE)
    update()
  }
  const at = () => loaded.layers.indexOf(active().layer)
  play.addEventListener("click", togglePlay)

  const toggleCompare = () => {
    const [first] = state.panels
    if (state.panels.length > 1) return update({ panels: [active()], active: 0 })
    const others = loaded.images.length
    const heads = loaded.images[first.image]!.heads.length
    const second =
      others > 1
        ? { ...first, image: (first.image + 1) % others }
        : { ...first, head: heads ? (first.head + 1) % heads : MEAN }
    update({ panels: [first, second], active: 1 })
  }
  compare.addEventListener("click", toggleCompare)

  const theme = byId("theme", HTMLElement)
  let chosen: (typeof THEMES)[number] = "auto"
  const toggleTheme = () => {
    chosen = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length]!
    if (chosen === "auto") delete document.documentElement.dataset["theme"]
    else document.documentElement.dataset["theme"] = chosen
    update()
  }
  theme.addEventListener("click", toggleTheme)

  const help = byId("help", HTMLDialogElement)
  byId("help-open", HTMLElement).addEventListener("click", () => help.showModal())

  const move = (rows: number, columns: number) => {
    update({ token: moved(page, rows, columns), locked: true, pointed: undefined })
  }
  const head = (by: number) => {
    const panel = active()
    const n = loaded.images[panel.image]!.heads.length
    if (!n) return
    // The mean stands before the first head.
    panel.head = ((panel.head + 1 + by + n + 1) % (n + 1)) - 1
    update()
  }
  const KEYS: Readonly<Record<string, readonly [what: string, act: () => void]>> = {
    ArrowUp: ["", () => move(-1, 0)],
    ArrowDown: ["", () => move(1, 0)],
    ArrowLeft: ["", () => move(0, -1)],
    ArrowRight: ["move over the tokens and hold one", () => move(0, 1)],
    "[": ["layer before", () => toLayer(at() - 1)],
    "]": ["layer after", () => toLayer(at() + 1)],
    h: ["head before", () => head(-1)],
    l: ["head after", () => head(1)],
    " ": ["play over the layers, or stop", togglePlay],
    Enter: ["hold the token, or let it go", () => update({ locked: !state.locked })],
    Escape: ["let the token go, stop playing", () => (stop(), update({ locked: false }))],
    d: ["direction: from the token, or to it", () => update({ direction: state.direction === "from" ? "to" : "from" })],
    s: ["colours: each map, or all maps", () => update({ scale: state.scale === "each" ? "shared" : "each" })],
    o: ["show the next overlay", () => update({ show: names[(names.indexOf(state.show) + 1) % names.length]! })],
    c: ["compare two, or show one", toggleCompare],
    x: ["the other of two", () => update({ active: (state.active + 1) % state.panels.length })],
    t: ["light, dark, or as the system", toggleTheme],
    "?": ["this help", () => help.showModal()],
  }
  document.addEventListener("keydown", (event) => {
    const { target } = event
    const modified = event.ctrlKey || event.metaKey || event.altKey
    const act = KEYS[event.key]?.[1]
    if (!act || modified || help.open || (target instanceof HTMLElement && usesKey(target, event.key))) return
    event.preventDefault()
    act()
  })
  const NAMES: Readonly<Record<string, string>> = { ArrowRight: "arrows", " ": "space", Escape: "esc", Enter: "enter" }
  for (const [key, [what]] of Object.entries(KEYS)) {
    if (!what) continue
    byId("keys", HTMLElement).append(
      make("div", {}, [make("dt", { text: NAMES[key] ?? key }), make("dd", { text: what })]),
    )
  }

  const draw = () => {
    show.value = String(names.indexOf(state.show))
    direction.value = state.direction
    scale.value = state.scale
    layer.value = String(at())
    layer.setAttribute("aria-valuetext", layerName(active().layer))
    byId("layer-name", HTMLElement).textContent = layerName(active().layer)
    play.textContent = timer === undefined ? "\u25b6" : "\u275a\u275a"
    play.setAttribute("aria-pressed", String(timer !== undefined))
    compare.setAttribute("aria-pressed", String(state.panels.length > 1))
    compare.hidden = !attention && loaded.images.length < 2
    theme.textContent = THEME_ICONS[chosen]
    theme.title = `Colours of the page: ${chosen === "auto" ? "as the system" : chosen} (t)`
    theme.setAttribute("aria-label", theme.title)
  }
  return { draw }
}

/** Does the element that has the focus need this key itself? */
function usesKey(element: HTMLElement, key: string): boolean {
  const { tagName } = element
  if (tagName === "SELECT") return key.startsWith("Arrow") || key === " " || key === "Enter" || key.length === 1
  if (tagName === "INPUT") return key.startsWith("Arrow")
  return (tagName === "BUTTON" || tagName === "SUMMARY") && (key === " " || key === "Enter")
}

/** The token above, below or beside: special tokens are a row above the patches. */
function moved({ loaded, state: { token } }: Page, rows: number, columns: number): number {
  const { special, grid } = loaded.view
  const s = special.length
  if (token < s) {
    if (rows > 0) return s + Math.min(token, grid[1] - 1)
    return Math.max(0, Math.min(s - 1, token + columns))
  }
  const [row, column] = [Math.floor((token - s) / grid[1]) + rows, ((token - s) % grid[1]) + columns]
  if (row < 0) return s ? Math.min(column, s - 1) : token
  if (row >= grid[0] || column < 0 || column >= grid[1]) return token
  return Math.min(tokens(loaded) - 1, s + row * grid[1] + column)
}
