/** @file A strict cursor over JSON text (https://www.rfc-editor.org/rfc/rfc8259), for readers that must see what JSON.parse
 * hides: duplicate keys, how an integer was written, and nesting before it is followed. */

/** Containers that may be open at once; serde_json, which the safetensors reference reads with, stops at the 128th. */
const MAX_NESTING = 127

const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y
const LITERALS = ["true", "false", "null"]
const LONE_SURROGATE = /\p{Surrogate}/u

const [TAB, NEWLINE, RETURN, SPACE, QUOTE, COMMA, ZERO, NINE, COLON, BACKSLASH] = [
  9, 10, 13, 32, 34, 44, 48, 57, 58, 92,
]
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [91, 93, 123, 125]

/** Reads one JSON text from front to back; `bad` gets what was wrong and at which character, and throws. */
export class JsonCursor {
  readonly #text: string
  readonly #bad: (what: string, at: number) => never
  #at = 0
  #open = 0

  constructor(text: string, bad: (what: string, at: number) => never) {
    this.#text = text
    this.#bad = bad
  }

  isObject(): boolean {
    return this.#peek() === OPEN_OBJECT
  }

  isList(): boolean {
    return this.#peek() === OPEN_LIST
  }

  isString(): boolean {
    return this.#peek() === QUOTE
  }

  /** Call `visit` for each member of an object, before its value, which `visit` must consume. */
  members(visit: (key: string) => void): void {
    this.#container(OPEN_OBJECT, CLOSE_OBJECT, () => {
      if (this.#peek() !== QUOTE) this.#unexpected("a key")
      const key = this.string()
      this.#take(COLON, "a colon")
      visit(key)
    })
  }

  /** Call `visit` before each item of a list; it must consume the item. */
  items(visit: () => void): void {
    this.#container(OPEN_LIST, CLOSE_LIST, visit)
  }

  /** A string; text that UTF-8 cannot hold (a lone surrogate) is refused. */
  string(): string {
    this.#take(QUOTE, "a string")
    const text = this.#text
    const start = this.#at
    let escaped = false
    for (;;) {
      const c = text.charCodeAt(this.#at)
      if (c === QUOTE) break
      if (!(c >= SPACE))
        this.#bad(this.#at < text.length ? "control character in a string" : "unclosed string", this.#at)
      if (c === BACKSLASH) escaped = true
      this.#at += c === BACKSLASH ? 2 : 1
    }
    const raw = text.slice(start, this.#at++)
    return escaped ? this.#unescape(raw, start) : raw
  }

  /** An integer from 0: Infinity if it is above 2^53 - 1, NaN if the value is anything else. */
  count(): number {
    this.#peek()
    const start = this.#at
    let value = 0
    let c = this.#text.charCodeAt(this.#at)
    while (c >= ZERO && c <= NINE) {
      value = value * 10 + (c - ZERO)
      c = this.#text.charCodeAt(++this.#at)
    }
    const plain = c === COMMA || c === CLOSE_LIST || c === SPACE
    if (plain && this.#at > start && (this.#text.charCodeAt(start) !== ZERO || this.#at === start + 1)) {
      return value <= Number.MAX_SAFE_INTEGER ? value : Infinity
    }
    this.#at = start
    this.skip()
    if (!/^\d+$/.test(this.#text.slice(start, Math.min(this.#at, start + 400)))) return NaN
    return value <= Number.MAX_SAFE_INTEGER ? value : Infinity
  }

  /** Any value, checked and dropped. */
  skip(): void {
    const c = this.#peek()
    if (c === OPEN_OBJECT) return this.members(() => this.skip())
    if (c === OPEN_LIST) return this.items(() => this.skip())
    if (c === QUOTE) return void this.string()
    NUMBER.lastIndex = this.#at
    if (NUMBER.test(this.#text)) {
      this.#at = NUMBER.lastIndex
      return
    }
    const literal = LITERALS.find((word) => this.#text.startsWith(word, this.#at))
    if (literal === undefined) this.#unexpected("a value")
    this.#at += literal.length
  }

  /** Take `null` if it is next. */
  isNull(): boolean {
    this.#peek()
    const found = this.#text.startsWith("null", this.#at)
    if (found) this.#at += 4
    return found
  }

  /** Nothing but white space may be left. */
  end(): void {
    if (this.#peek() >= 0) this.#bad("text after the end of the JSON value", this.#at)
  }

  #container(open: number, close: number, item: () => void): void {
    this.#take(open, open === OPEN_LIST ? "a list" : "an object")
    if (++this.#open > MAX_NESTING) this.#bad(`nesting deeper than ${MAX_NESTING}`, this.#at)
    if (this.#peek() === close) this.#at++
    else {
      for (;;) {
        item()
        if (this.#peek() === close) break
        this.#take(COMMA, close === CLOSE_LIST ? "a comma or ]" : "a comma or }")
      }
      this.#at++
    }
    this.#open--
  }

  #unescape(raw: string, start: number): string {
    let value: string
    try {
      value = JSON.parse(`"${raw}"`) as string
    } catch {
      return this.#bad("bad escape in a string", start)
    }
    return LONE_SURROGATE.test(value) ? this.#bad("lone surrogate in a string", start) : value
  }

  /** Skip white space and give the next character's code, -1 at the end. */
  #peek(): number {
    const text = this.#text
    for (; this.#at < text.length; this.#at++) {
      const c = text.charCodeAt(this.#at)
      if (c !== SPACE && c !== NEWLINE && c !== RETURN && c !== TAB) return c
    }
    return -1
  }

  #take(code: number, what: string): void {
    if (this.#peek() !== code) this.#unexpected(what)
    this.#at++
  }

  #unexpected(what: string): never {
    const c = this.#text.codePointAt(this.#at)
    const got = c === undefined ? "the end" : `U+${c.toString(16).toUpperCase().padStart(4, "0")}`
    return this.#bad(`expected ${what}, got ${got}`, this.#at)
  }
}
