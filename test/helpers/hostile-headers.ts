/** @file Large headers that cost a reader the most time or memory for their bytes. */

const utf8 = new TextEncoder()

/** As many members as fit in `size` bytes, in braces, filled up with spaces. */
function members(size: number, member: (i: number) => string): Uint8Array {
  const bytes = new Uint8Array(size).fill(0x20)
  bytes[0] = 0x7b
  let at = 1
  for (let i = 0; ; i++) {
    const text = utf8.encode(`${i > 0 ? "," : ""}${member(i)}`)
    if (at + text.length >= size) break
    bytes.set(text, at)
    at += text.length
  }
  bytes[at] = 0x7d
  return bytes
}

const empty = (name: string, shape: string): string =>
  `"${name}":{"dtype":"U8","shape":[${shape}],"data_offsets":[0,0]}`

/** By kind: a header of so many bytes, of a file without data. */
export const HOSTILE: Record<string, (size: number) => Uint8Array> = {
  "empty tensors": (size) => members(size, (i) => empty(`tensor.${i}`, "0")),
  // One letter beyond Latin-1 makes JavaScript hold the whole text in two bytes a character.
  "empty tensors, wide names": (size) => members(size, (i) => empty(`\u6743${i.toString(36)}`, "0")),
}
