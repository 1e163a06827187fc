/** @file Protobuf wire format, written front to back (https://protobuf.dev/programming-guides/encoding). */

const text = new TextEncoder()
const spare: Writer[] = []

/** Appends fields to one growing buffer; a nested message is written by a function and its length put before it. */
export class Writer {
  #bytes = new Uint8Array(256)
  #length = 0

  /** Wire type 0. A negative int64 takes its full ten bytes. */
  int(field: number, value: number | bigint): this {
    this.#varint(field << 3)
    this.#varint(value)
    return this
  }

  /** Wire type 5: float32, little-endian. */
  float(field: number, value: number): this {
    this.#varint((field << 3) | 5)
    this.#reserve(4)
    new DataView(this.#bytes.buffer).setFloat32(this.#length, value, true)
    this.#length += 4
    return this
  }

  /** Wire type 2. */
  bytes(field: number, value: Uint8Array): this {
    this.#varint((field << 3) | 2)
    this.#varint(value.length)
    this.#reserve(value.length)
    this.#bytes.set(value, this.#length)
    this.#length += value.length
    return this
  }

  /** Nearly all are short ASCII, which a loop writes several times faster than TextEncoder. */
  string(field: number, value: string): this {
    const start = this.#length
    this.#varint((field << 3) | 2)
    this.#varint(value.length)
    this.#reserve(value.length)
    const bytes = this.#bytes
    for (let i = 0; i < value.length; i++) {
      const code = value.charCodeAt(i)
      if (code > 0x7f) {
        this.#length = start
        return this.bytes(field, text.encode(value))
      }
      bytes[this.#length + i] = code
    }
    this.#length += value.length
    return this
  }

  /** The inner message is written to a spare writer: a model has some ten thousand of them, three deep. */
  message(field: number, write: (w: Writer) => void): this {
    const inner = spare.pop() ?? new Writer()
    inner.#length = 0
    write(inner)
    this.bytes(field, inner.finish())
    spare.push(inner)
    return this
  }

  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#length)
  }

  #varint(value: number | bigint): void {
    this.#reserve(10)
    if (typeof value === "number" && value >= 0) {
      // Division keeps what `>>` would cut at 32 bits; offsets into large files exceed them.
      let rest = value
      while (rest > 0x7f) {
        this.#bytes[this.#length++] = (rest % 128) | 0x80
        rest = Math.floor(rest / 128)
      }
      this.#bytes[this.#length++] = rest
      return
    }
    let rest = BigInt.asUintN(64, BigInt(value))
    while (rest > 0x7fn) {
      this.#bytes[this.#length++] = Number(rest & 0x7fn) | 0x80
      rest >>= 7n
    }
    this.#bytes[this.#length++] = Number(rest)
  }

  #reserve(n: number): void {
    if (this.#length + n <= this.#bytes.length) return
    const grown = new Uint8Array(Math.max(this.#bytes.length * 2, this.#length + n))
    grown.set(this.#bytes.subarray(0, this.#length))
    this.#bytes = grown
  }
}
