/** @file Safetensors files made byte by byte, each with the verdict it must get: the shapes of mistake that readers met. */
import type { ErrorCode } from "../../src/errors.ts"

const utf8 = new TextEncoder()

/** A file: header text (or bytes), that many zero bytes of data (or these), and a header length other than the true one. */
export function file(header: string | Uint8Array, data: number | Uint8Array = 0, length?: bigint): Uint8Array {
  const json = typeof header === "string" ? utf8.encode(header) : header
  const tail = typeof data === "number" ? new Uint8Array(data) : data
  const bytes = new Uint8Array(8 + json.length + tail.length)
  new DataView(bytes.buffer).setBigUint64(0, length ?? BigInt(json.length), true)
  bytes.set(json, 8)
  bytes.set(tail, 8 + json.length)
  return bytes
}

/** One header member. */
export const entry = (name: string, dtype: string, shape: string, begin: number, end: number): string =>
  `"${name}":{"dtype":"${dtype}","shape":${shape},"data_offsets":[${begin},${end}]}`

const one = entry("a", "F32", "[2]", 0, 8)
const with_ = (members: string): string => `{"a":{${members}}}`
const rest = `"shape":[2],"data_offsets":[0,8]`
const dtypes = (names: string[], bytes: number): [string, Uint8Array][] =>
  names.map((d) => [`dtype ${d}`, file(`{${entry("a", d, "[8]", 0, 8 * bytes)}}`, 8 * bytes)])

export const ACCEPTED: readonly (readonly [name: string, bytes: Uint8Array])[] = [
  ["one tensor", file(`{${one}}`, 8)],
  ["no tensors, no data", file("{}")],
  ["metadata only", file(`{"__metadata__":{"format":"pt"}}`)],
  ["metadata and a tensor", file(`{"__metadata__":{"format":"pt","":""},${one}}`, 8)],
  ["metadata last", file(`{${one},"__metadata__":{}}`, 8)],
  ["metadata null", file(`{"__metadata__":null,${one}}`, 8)],
  ["leading spaces", file(`   {${one}}`, 8)],
  ["leading newline", file(`\n{${one}}`, 8)],
  ["trailing spaces", file(`{${one}}      `, 8)],
  ["trailing newline and tab", file(`{${one}}\n\t`, 8)],
  ["spaces everywhere", file(` { "a" : { "dtype" : "F32" , "shape" : [ 2 ] , "data_offsets" : [ 0 , 8 ] } } `, 8)],
  ["scalar", file(`{${entry("a", "F32", "[]", 0, 4)}}`, 4)],
  ["empty tensor", file(`{${entry("a", "F32", "[2,0]", 0, 0)}}`)],
  ["empty tensors between", file(`{${entry("e", "F32", "[0]", 8, 8)},${one},${entry("z", "U8", "[0]", 0, 0)}}`, 8)],
  ["out of order", file(`{${entry("b", "U8", "[3]", 8, 11)},${one}}`, 11)],
  ["unaligned", file(`{${entry("b", "U8", "[3]", 0, 3)},${entry("c", "F64", "[1]", 3, 11)}}`, 11)],
  ["unknown member", file(with_(`"dtype":"F32","note":{"x":[1e9,-2,null,true,false,"\\u0000"]},${rest}`), 8)],
  ["members in another order", file(with_(`"data_offsets":[0,8],"dtype":"F32","shape":[2]`), 8)],
  ["name of a path", file(`{${entry("../../etc/x", "F32", "[2]", 0, 8)}}`, 8)],
  ["name __proto__", file(`{${entry("__proto__", "F32", "[2]", 0, 8)}}`, 8)],
  ["empty name", file(`{${entry("", "F32", "[2]", 0, 8)}}`, 8)],
  ["name with escapes", file(`{${entry("\\u0061\\n\\ud83d\\ude00", "F32", "[2]", 0, 8)}}`, 8)],
  ["name in Chinese", file(`{${entry("\u6743\u91cd", "F32", "[2]", 0, 8)}}`, 8)],
  ["nesting 127", file(with_(`"dtype":"F32","x":${"[".repeat(125)}${"]".repeat(125)},${rest}`), 8)],
  ["F4 of whole bytes", file(`{${entry("a", "F4", "[2,3]", 0, 3)}}`, 3)],
  ["F6 of whole bytes", file(`{${entry("a", "F6_E2M3", "[4]", 0, 3)}}`, 3)],
  ...dtypes(["BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"], 1),
  ...dtypes(["I16", "U16", "F16", "BF16"], 2),
  ...dtypes(["I32", "U32", "F32"], 4),
  ...dtypes(["C64", "F64", "I64", "U64"], 8),
]

const json = (name: string, header: string, data = 0) => [name, "E_ST_HEADER_JSON", file(header, data)] as const
const number_ = (name: string, code: ErrorCode, shape: string, offsets: string) =>
  [name, code, file(with_(`"dtype":"F32","shape":${shape},"data_offsets":${offsets}`), 8)] as const
const bytes = (text: string): Uint8Array => Uint8Array.from(text, (c) => c.charCodeAt(0))

export const REJECTED: readonly (readonly [name: string, code: ErrorCode, bytes: Uint8Array])[] = [
  ...[0, 1, 7].map((n) => [`${n} bytes`, "E_ST_TRUNCATED", new Uint8Array(n)] as const),
  ["header longer than the file", "E_ST_HEADER_LENGTH", file("{}", 0, 3n)],
  ["header of 100,000,000 in a small file", "E_ST_HEADER_LENGTH", file("{}", 0, 100_000_000n)],
  ["header of 100,000,001", "E_ST_HEADER_TOO_LARGE", file("{}", 0, 100_000_001n)],
  ["header of 2^63", "E_ST_HEADER_TOO_LARGE", file("{}", 0, 2n ** 63n)],
  ["header of 2^64 - 1", "E_ST_HEADER_TOO_LARGE", file("{}", 0, 2n ** 64n - 1n)],
  ["empty header", "E_ST_HEADER_JSON", file("")],
  ["empty header, data", "E_ST_HEADER_JSON", file("", 8)],
  ["header cut", "E_ST_HEADER_JSON", file(`{${one}}`, 8, 20n)],
  ["bad UTF-8 in a name", "E_ST_HEADER_UTF8", file(bytes(`{"\xff":{}}`))],
  ["cut UTF-8", "E_ST_HEADER_UTF8", file(bytes(`{"\xe6\x9d"}`))],
  ["surrogate in UTF-8", "E_ST_HEADER_UTF8", file(bytes(`{"\xed\xa0\x80":{}}`))],
  json("byte order mark", `\ufeff{}`),
  json("root list", "[]"),
  json("root null", "null"),
  json("root string", `"a"`),
  json("root number", "1"),
  json("spaces only", "   "),
  json("trailing zero byte", "{}\0"),
  json("second object", "{}{}"),
  json("comment", "{/**/}"),
  json("trailing comma", `{${one},}`, 8),
  json("trailing comma in a list", with_(`"dtype":"F32","shape":[2,],"data_offsets":[0,8]`), 8),
  json("missing comma", `{${one}"b":1}`, 8),
  json("NaN", with_(`"dtype":"F32","x":NaN,${rest}`), 8),
  json("word", with_(`"dtype":"F32","x":nul,${rest}`), 8),
  json("leading zero", with_(`"dtype":"F32","shape":[02],"data_offsets":[0,8]`), 8),
  json("leading plus", with_(`"dtype":"F32","shape":[+2],"data_offsets":[0,8]`), 8),
  json("single quotes", `{'a':{}}`),
  json("key without quotes", `{a:{}}`),
  json("control character in a name", `{"a\n":{}}`),
  json("bad escape", `{"\\x41":{}}`),
  json("lone surrogate", `{${entry("\\ud800", "F32", "[2]", 0, 8)}}`, 8),
  json("unclosed string", `{"a`),
  json("escape at the end", `{"a\\`),
  json("nesting of 100,000 lists", "[".repeat(100_000)),
  json("nesting in a member", with_(`"dtype":"F32","x":${"[".repeat(100_000)}`)),
  json("nesting of objects", `{"a":`.repeat(100_000)),
  json("entry is a list", `{"a":["F32",[2],[0,8]]}`, 8),
  json("entry is null", `{"a":null}`),
  ["name twice", "E_ST_DUPLICATE_KEY", file(`{${one},${entry("a", "U8", "[1]", 8, 9)}}`, 9)],
  ["name twice, once escaped", "E_ST_DUPLICATE_KEY", file(`{${one},${entry("\\u0061", "U8", "[1]", 8, 9)}}`, 9)],
  ["dtype twice", "E_ST_DUPLICATE_KEY", file(with_(`"dtype":"F32","dtype":"F32",${rest}`), 8)],
  ["shape twice", "E_ST_DUPLICATE_KEY", file(with_(`"dtype":"F32","shape":[2],${rest}`), 8)],
  ["offsets twice", "E_ST_DUPLICATE_KEY", file(with_(`"dtype":"F32","data_offsets":[0,8],${rest}`), 8)],
  ["metadata twice", "E_ST_DUPLICATE_KEY", file(`{"__metadata__":{},"__metadata__":{}}`)],
  ["metadata null, then again", "E_ST_DUPLICATE_KEY", file(`{"__metadata__":null,"__metadata__":{}}`)],
  ["metadata key twice", "E_ST_DUPLICATE_KEY", file(`{"__metadata__":{"a":"1","a":"2"}}`)],
  number_("negative dim", "E_ST_SHAPE", "[-2]", "[0,8]"),
  number_("minus zero", "E_ST_SHAPE", "[-0]", "[0,0]"),
  number_("fraction", "E_ST_SHAPE", "[2.0]", "[0,8]"),
  number_("exponent", "E_ST_SHAPE", "[2e0]", "[0,8]"),
  number_("dim as text", "E_ST_SHAPE", `["2"]`, "[0,8]"),
  number_("shape null", "E_ST_SHAPE", "null", "[0,8]"),
  number_("shape number", "E_ST_SHAPE", "2", "[0,8]"),
  number_("span of another size", "E_ST_SHAPE", "[3]", "[0,8]"),
  number_("65 dims", "E_ST_SHAPE", `[2${",1".repeat(64)}]`, "[0,8]"),
  number_("negative offset", "E_ST_OFFSETS", "[2]", "[-8,0]"),
  number_("offset fraction", "E_ST_OFFSETS", "[2]", "[0,8.0]"),
  number_("begin after end", "E_ST_OFFSETS", "[2]", "[8,0]"),
  number_("one offset", "E_ST_OFFSETS", "[2]", "[8]"),
  number_("three offsets", "E_ST_OFFSETS", "[2]", "[0,8,8]"),
  number_("offsets object", "E_ST_OFFSETS", "[2]", `{"0":0}`),
  number_("offsets null", "E_ST_OFFSETS", "[2]", "null"),
  number_("dim above 2^53", "E_ST_INT_RANGE", "[9007199254740993]", "[0,8]"),
  number_("dim of 400 digits", "E_ST_INT_RANGE", `[${"9".repeat(400)}]`, "[0,8]"),
  number_("offset above 2^53", "E_ST_INT_RANGE", "[2]", "[0,18446744073709551616]"),
  number_("product above 2^53", "E_ST_INT_RANGE", "[4294967296,4294967296]", "[0,8]"),
  // 4 times this product is 8 modulo 2^64.
  number_("product wraps 2^64 to 8", "E_ST_INT_RANGE", "[2,5,5581,8681,49477,384773]", "[0,8]"),
  number_("product wraps 2^64 to 0", "E_ST_INT_RANGE", "[4294967296,4294967296]", "[0,0]"),
  ["dtype F33", "E_ST_DTYPE", file(with_(`"dtype":"F33",${rest}`), 8)],
  ["dtype f32", "E_ST_DTYPE", file(with_(`"dtype":"f32",${rest}`), 8)],
  ["dtype __proto__", "E_ST_DTYPE", file(with_(`"dtype":"__proto__",${rest}`), 8)],
  ["dtype number", "E_ST_DTYPE", file(with_(`"dtype":32,${rest}`), 8)],
  ["dtype missing", "E_ST_DTYPE", file(with_(rest), 8)],
  ["shape missing", "E_ST_SHAPE", file(with_(`"dtype":"F32","data_offsets":[0,8]`), 8)],
  ["offsets missing", "E_ST_OFFSETS", file(with_(`"dtype":"F32","shape":[2]`), 8)],
  ["F4 of half a byte", "E_ST_SHAPE", file(`{${entry("a", "F4", "[3]", 0, 2)}}`, 2)],
  ["overlap", "E_ST_OVERLAP", file(`{${one},${entry("b", "F32", "[2]", 4, 12)}}`, 12)],
  ["same bytes twice", "E_ST_OVERLAP", file(`{${one},${entry("b", "F32", "[2]", 0, 8)}}`, 8)],
  ["empty tensor inside another", "E_ST_OVERLAP", file(`{${one},${entry("b", "F32", "[0]", 4, 4)}}`, 8)],
  ["hole at the start", "E_ST_HOLE", file(`{${entry("a", "F32", "[2]", 4, 12)}}`, 12)],
  ["hole between", "E_ST_HOLE", file(`{${one},${entry("b", "F32", "[2]", 9, 17)}}`, 17)],
  ["empty tensor behind the end", "E_ST_HOLE", file(`{${one},${entry("b", "F32", "[0]", 12, 12)}}`, 8)],
  ["zip behind the tensors", "E_ST_TRAILING", file(`{${one}}`, bytes("\0\0\0\0\0\0\0\0PK\x03\x04"))],
  ["no tensors, data", "E_ST_TRAILING", file("{}", 8)],
  ["last byte missing", "E_ST_TRUNCATED", file(`{${one}}`, 7)],
  ["no data", "E_ST_TRUNCATED", file(`{${one}}`)],
  ["metadata number", "E_ST_METADATA", file(`{"__metadata__":{"a":1}}`)],
  ["metadata object", "E_ST_METADATA", file(`{"__metadata__":{"a":{}}}`)],
  ["metadata value list", "E_ST_METADATA", file(`{"__metadata__":{"a":[]}}`)],
  ["metadata value null", "E_ST_METADATA", file(`{"__metadata__":{"a":null}}`)],
  ["metadata list", "E_ST_METADATA", file(`{"__metadata__":[]}`)],
  ["metadata is a number", "E_ST_METADATA", file(`{"__metadata__":1}`)],
  ["metadata string", "E_ST_METADATA", file(`{"__metadata__":"pt"}`)],
  ["Git LFS pointer", "E_LFS_POINTER", bytes("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")],
  ["web page", "E_NOT_SAFETENSORS", bytes("<!DOCTYPE html><html></html>")],
  ["web page, indented", "E_NOT_SAFETENSORS", bytes("\n  <html><body></body></html>")],
  ["zip", "E_NOT_SAFETENSORS", bytes("PK\x03\x04\x14\0\0\x08\x08\0........")],
  ["pickle", "E_NOT_SAFETENSORS", bytes("\x80\x02}q\0X\x01\0\0\0aq\x01K\x01s.")],
  ["GGUF", "E_NOT_SAFETENSORS", bytes("GGUF\x03\0\0\0\0\0\0\0")],
  ["JSON error", "E_NOT_SAFETENSORS", bytes(`{"error":"Repository not found"}`)],
]
