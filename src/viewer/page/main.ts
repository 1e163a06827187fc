/** @file The page begins here: data, parts, and one drawing of all of them before a frame in which something changed. */
import type { View } from "../data.ts"
import { chartsPart } from "./charts.ts"
import { controlsPart } from "./controls.ts"
import { byId, make } from "./dom.ts"
import { headsPart } from "./heads.ts"
import { load } from "./load.ts"
import { panelPart, type Page, type Part } from "./panel.ts"
import { patternPart } from "./pattern.ts"
import { initialState, tokenName } from "./state.ts"

async function start(): Promise<void> {
  const view = JSON.parse(byId("view", HTMLElement).textContent) as View
  byId("title", HTMLElement).textContent = view.title
  byId("model", HTMLElement).textContent = view.model ?? ""
  const loaded = await load(view)
  const state = initialState(loaded)

  let asked = false
  const update: Page["update"] = (change) => {
    Object.assign(state, change)
    if (asked) return
    asked = true
    requestAnimationFrame(() => {
      asked = false
      draw()
    })
  }
  const page: Page = { loaded, state, update }
  const notes = view.notes ?? []
  byId("notes", HTMLElement).hidden = !notes.length
  byId("notes-list", HTMLElement).append(...notes.map((text) => make("li", { text })))

  byId("main", HTMLElement).hidden = false
  const panels: Part[] = []
  const parts = [controlsPart(page), headsPart(page), patternPart(page), chartsPart(page)]
  let told = ""
  const draw = () => {
    const into = byId("panels", HTMLElement)
    if (panels.length !== state.panels.length) {
      into.replaceChildren()
      panels.splice(0, panels.length, ...state.panels.map((_, i) => panelPart(page, i, into)))
    }
    byId("stage", HTMLElement).classList.toggle("comparing", state.panels.length > 1)
    for (const part of [...panels, ...parts]) part.draw()
    // Screen readers hear of a token that was chosen, not of all that the pointer passes.
    const now = state.locked ? (into.querySelector(".reading")?.textContent ?? tokenName(loaded, state.token)) : ""
    if (now !== told) byId("live", HTMLElement).textContent = told = now
  }
  new ResizeObserver(() => update()).observe(document.body)
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => update())
  draw()
}

start().catch((error: unknown) => {
  const fatal = byId("fatal", HTMLElement)
  fatal.hidden = false
  fatal.textContent = `This page cannot be shown: ${error instanceof Error ? error.message : String(error)}`
})
