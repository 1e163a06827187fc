/** @file Tables as bars and matrices as heat maps; a click on a cell of layers, heads or tokens chooses them. */
import type { Axis, Table } from "../data.ts"
import { byId, digits, heat, legend, make, sized, themed } from "./dom.ts"
import type { LoadedMatrix } from "./load.ts"
import type { Page, Part } from "./panel.ts"

/** Rows of a table shown before "show all". */
const ROWS = 24

export function chartsPart(page: Page): Part {
  const { loaded, state } = page
  const into = byId("charts", HTMLElement)
  const tables = (loaded.view.tables ?? []).map((table) => ({
    about: table.image,
    card: tableCard(table),
    draw: () => {},
  }))
  const matrices = loaded.matrices.map((m) => ({ about: m.matrix.image, ...matrixCard(page, m) }))
  const all = [...matrices, ...tables]
  into.append(...all.map((c) => c.card))
  const draw = () => {
    const { image } = state.panels[state.active]!
    for (const { about, card, draw } of all) {
      card.hidden = about !== undefined && about !== image
      if (!card.hidden) draw()
    }
  }
  return { draw }
}

function tableCard({ name, units = "", rows }: Table): HTMLElement {
  const values = rows.map((r) => r.value).filter((v) => Number.isFinite(v))
  const low = Math.min(0, ...values)
  const span = Math.max(0, ...values) - low || 1
  const bars = make("div", { class: low < 0 ? "bars signed" : "bars" })
  const show = (n: number) =>
    bars.replaceChildren(
      ...rows.slice(0, n).map(({ name, value, note }) => {
        const bar = make("i", { class: value < 0 ? "negative" : "" })
        bar.style.left = `${(100 * (Math.min(0, value) - low)) / span}%`
        bar.style.width = `${(100 * Math.abs(value)) / span}%`
        return make("div", { ...(note !== undefined && { title: note }) }, [
          make("span", { text: name, title: name }),
          make("b", {}, [bar]),
          make("em", { text: digits(value) }),
        ])
      }),
    )
  show(ROWS)
  const card = make("section", { class: "card" }, [
    make("header", {}, [make("h2", { text: name }), make("p", { text: units })]),
    bars,
  ])
  if (rows.length > ROWS) {
    const more = make("button", { type: "button", text: `Show all ${rows.length}` })
    more.addEventListener("click", () => {
      show(rows.length)
      more.remove()
    })
    card.append(more)
  }
  return card
}

/** Room for names and the side of a cell, in CSS pixels. */
const [LEFT, TOP] = [84, 34]
const [SMALLEST, LARGEST] = [3, 30]
const LINE = 13

function matrixCard(page: Page, { matrix, values, range }: LoadedMatrix) {
  const { rows, columns, name, kind, units = "" } = matrix
  const canvas = make("canvas", { role: "img", "aria-label": `${name}: ${rows.length} by ${columns.length}` })
  const caption = make("p", { text: units })
  const bar = make("div", { class: "legend" })
  const card = make("section", { class: columns.length > 24 ? "card wide" : "card" }, [
    make("header", {}, [make("h2", { text: name }), caption]),
    make("div", { class: "scroll" }, [canvas]),
    bar,
  ])
  const sheet = heat(values, columns.length, rows.length, kind, range)
  let cell = { width: 1, height: 1 }
  let pointed: readonly [row: number, column: number] | undefined
  const under = (event: MouseEvent): readonly [number, number] | undefined => {
    const box = canvas.getBoundingClientRect()
    const column = Math.floor((event.clientX - box.left - LEFT) / cell.width)
    const row = Math.floor((event.clientY - box.top - TOP) / cell.height)
    const inside = row >= 0 && row < rows.length && column >= 0 && column < columns.length
    return inside ? [row, column] : undefined
  }
  canvas.addEventListener("pointermove", (event) => {
    pointed = under(event)
    page.update()
  })
  canvas.addEventListener("pointerleave", () => {
    pointed = undefined
    page.update()
  })
  canvas.addEventListener("click", (event) => {
    const at = under(event)
    if (!at) return
    choose(page, matrix.rowAxis, matrix.rowNumbers?.[at[0]] ?? at[0])
    choose(page, matrix.columnAxis, matrix.columnNumbers?.[at[1]] ?? at[1])
  })

  const draw = () => {
    const room = (canvas.parentElement!.clientWidth || 320) - LEFT - 4
    const width = Math.max(SMALLEST, Math.min(LARGEST, room / columns.length))
    cell = { width, height: Math.max(rows.length > 60 ? SMALLEST : 12, Math.min(LARGEST, width)) }
    const context = sized(canvas, LEFT + cell.width * columns.length + 2, TOP + cell.height * rows.length + 2)
    context.imageSmoothingEnabled = false
    context.drawImage(sheet, LEFT, TOP, cell.width * columns.length, cell.height * rows.length)
    context.font = "11px system-ui, sans-serif"
    context.fillStyle = themed("--faint")
    context.textBaseline = "middle"
    context.textAlign = "right"
    const everyRow = Math.ceil(LINE / cell.height)
    for (let r = 0; r < rows.length; r += everyRow) {
      context.fillText(rows[r]!, LEFT - 5, TOP + (r + 0.5) * cell.height, LEFT - 8)
    }
    const widest = Math.max(...columns.map((c) => context.measureText(c.slice(0, 14)).width)) + 8
    const everyColumn = Math.ceil(Math.min(widest, 44) / cell.width)
    context.textAlign = "center"
    for (let c = 0; c < columns.length; c += everyColumn) {
      const text = columns[c]!.slice(0, 14)
      context.fillText(text, LEFT + (c + 0.5) * cell.width, TOP - 9, everyColumn * cell.width - 2)
    }
    if (pointed) {
      context.strokeStyle = themed("--ink")
      context.lineWidth = 1.5
      context.strokeRect(LEFT + pointed[1] * cell.width, TOP + pointed[0] * cell.height, cell.width, cell.height)
      const value = digits(values[pointed[0] * columns.length + pointed[1]]!)
      caption.textContent = `${rows[pointed[0]]!}, ${columns[pointed[1]]!}: ${value} ${units}`
    } else caption.textContent = units
    canvas.style.cursor = matrix.rowAxis || matrix.columnAxis ? "pointer" : ""
    legend(bar, kind, range, units)
  }
  return { card, draw }
}

const CHOOSE: { readonly [A in Axis]: (page: Page, number: number) => void } = {
  layer: ({ state, loaded, update }, layer) => {
    if (!loaded.layers.includes(layer)) return
    state.panels[state.active]!.layer = layer
    update()
  },
  head: ({ state, loaded, update }, head) => {
    const panel = state.panels[state.active]!
    const at = loaded.images[panel.image]!.heads.indexOf(head)
    if (at < 0) return
    panel.head = at
    update({ show: "attention" })
  },
  token: ({ update }, token) => update({ token, locked: true }),
}

function choose(page: Page, axis: Axis | undefined, number: number): void {
  if (axis) CHOOSE[axis](page, number)
}
