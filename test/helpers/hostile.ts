const enc = new TextEncoder()
export const encoded = (s: string) => enc.encode(s)
function fill(n: number, open: string, close: string, item: (i: number) => string): Uint8Array {
  const out = new Uint8Array(n)
  let at = enc.encodeInto(open, out).written
  for (let i = 0; ; i++) {
    const s = (i ? "," : "") + item(i)
    const b = enc.encode(s)
    if (at + b.length + close.length > n) break
    out.set(b, at); at += b.length
  }
  at += enc.encodeInto(close, out.subarray(at)).written
  return out.fill(32, at)
}
export const kinds: Record<string, (n: number) => [Uint8Array, number]> = {
  empties: (n) => [fill(n, "{", "}", (i) => `"t${i.toString(36)}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`), 0],
  reverse: (n) => [fill(n, "{", "}", (i) => `"t${i.toString(36)}":{"dtype":"U8","shape":[1],"data_offsets":[${600000-i},${600001-i}]}`), 600001],
  dims: (n) => [fill(n, "{", "}", (i) => `"${i.toString(36)}":{"dtype":"U8","shape":[${Array(64).fill(0)}],"data_offsets":[0,0]}`), 0],
  metadata: (n) => [fill(n, '{"__metadata__":{', "}}", (i) => `"${i.toString(36)}":""`), 0],
  unknown: (n) => [fill(n, '{"a":{', "}}", (i) => `"${i.toString(36)}":0`), 0],
  same: (n) => [fill(n, "{", "}", (i) => `"t${i.toString(36)}":{"dtype":"U8","shape":[160000],"data_offsets":[0,160000]}`), 160000],
  wide: (n) => [fill(n, "{", "}", (i) => `"\u4e2d${i.toString(36)}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`), 0],
  nest: (n) => [new Uint8Array(n).fill(91), 0],
  bigstring: (n) => [enc.encode(`{"${"x".repeat(n - 50)}":{"dtype":"F33"}}`), 0],
  escapes: (n) => [enc.encode(`{"${"\\u0041".repeat(n / 6)}":{"dtype":"F33"}}`), 0],
}
