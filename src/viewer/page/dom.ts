/** @file Elements and canvases. */
import { paint } from "../colour.ts"
import type { ScaleKind } from "../data.ts"

/** The element of that kind that the page has under this id. */
export function byId<E extends HTMLElement>(id: string, kind: new () => E): E {
  const found = document.getElementById(id)
  if (!(found instanceof kind)) throw new Error(`the page has no ${kind.name} #${id}`)
  return found
}

interface Attributes {
  readonly class?: string
  readonly text?: string
  readonly [name: string]: string | undefined
}

/** An element with attributes, text and children; text is never read as HTML. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  { class: className, text, ...attributes }: Attributes = {},
  children: readonly HTMLElement[] = [],
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag)
  if (className !== undefined) element.className = className
  if (text !== undefined) element.textContent = text
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined) element.setAttribute(name, value)
  element.append(...children)
  return element
}

/** Fill a select with texts; the value of each is its number. */
export function fillSelect(select: HTMLSelectElement, texts: readonly string[]): void {
  select.replaceChildren(...texts.map((text, i) => make("option", { value: String(i), text })))
}

/** Make a canvas that large in CSS pixels, sharp on this screen; drawing is then in CSS pixels. */
export function sized(canvas: HTMLCanvasElement, width: number, height: number): CanvasRenderingContext2D {
  const ratio = window.devicePixelRatio || 1
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)]
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w
    canvas.height = h
    canvas.style.width = `${width}px`
    canvas.style.height = `${height}px`
  }
  const context = canvas.getContext("2d")!
  context.setTransform(ratio, 0, 0, ratio, 0, 0)
  context.clearRect(0, 0, width, height)
  return context
}

/** A canvas with one pixel for each value of [rows, columns]. */
export function heat(
  values: ArrayLike<number>,
  columns: number,
  rows: number,
  kind: ScaleKind,
  [low, high]: readonly [number, number],
  into: HTMLCanvasElement = document.createElement("canvas"),
): HTMLCanvasElement {
  if (into.width !== columns) into.width = columns
  if (into.height !== rows) into.height = rows
  const image = new ImageData(columns, rows)
  paint(values, kind, low, high, image.data)
  into.getContext("2d")!.putImageData(image, 0, 0)
  return into
}

/** A colour of the style sheet, such as "--ink". */
export const themed = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(name).trim()

/** A number as people read it: 3 digits. */
export function digits(value: number): string {
  if (!(Math.abs(value) < Infinity)) return "\u2013"
  const size = Math.abs(value)
  if (size === 0) return "0"
  if (size < 0.0001 || size >= 100_000) return value.toExponential(1)
  return value.toFixed(Math.max(0, Math.min(5, 2 - Math.floor(Math.log10(size))))).replace("-", "\u2212")
}

/** A colour bar with its ends and middle, as the legend of a scale. */
export function legend(
  into: HTMLElement,
  kind: ScaleKind,
  [low, high]: readonly [number, number],
  units: string,
): void {
  let bar = into.querySelector("canvas")
  if (!bar) {
    bar = make("canvas", { "aria-hidden": "true" })
    into.replaceChildren(bar, make("span"), make("span"), make("span"), make("em"))
  }
  heat(
    Array.from({ length: 128 }, (_, i) => low + ((high - low) * i) / 127),
    128,
    1,
    kind,
    [low, high],
    bar,
  )
  const texts = [digits(low), digits((low + high) / 2), digits(high), units]
  into.querySelectorAll("span, em").forEach((element, i) => (element.textContent = texts[i]!))
}
