/** @file Zip archives put together byte by byte, so that any field can be wrong. */
import { crc32, deflateRawSync } from "node:zlib"

export const u16 = (n: number): string => String.fromCharCode(n & 255, (n >> 8) & 255)
export const u32 = (n: number): string => u16(n & 0xffff) + u16(Math.floor(n / 65536))
export const u64 = (n: bigint): string => u32(Number(n & 0xffffffffn)) + u32(Number(n >> 32n))
export const latin1 = (s: string): Buffer => Buffer.from(s, "latin1")

/** A field that is given stands in the archive in place of the right one. */
export interface Member {
  name: string
  data: Buffer
  deflate?: boolean
  flags?: number
  method?: number
  crc?: number
  size?: number
  localName?: string
  localSize?: number
  localCrc?: number
  extra?: string
  at?: number
}

export interface Layout {
  prefix?: string
  suffix?: string
  count?: number
  disk?: number
  beforeEnd?: string
}

/** An archive whose every field can lie. */
export function zip(
  members: readonly Member[],
  { prefix = "", suffix = "", count, disk = 0, beforeEnd = "" }: Layout = {},
) {
  const local: Buffer[] = [latin1(prefix)]
  const central: Buffer[] = []
  let at = prefix.length
  for (const m of members) {
    const data = m.deflate === true ? deflateRawSync(m.data) : m.data
    const method = m.method ?? (m.deflate === true ? 8 : 0)
    const crc = m.crc ?? crc32(m.data)
    const size = m.size ?? m.data.length
    const name = Buffer.from(m.name).toString("latin1")
    const localName = m.localName ?? name
    const fields = (crc: number, size: number, name: string, extra: string): string =>
      `${u16(20)}${u16(m.flags ?? 0)}${u16(method)}${u32(0)}${u32(crc)}${u32(method === 0 ? size : data.length)}` +
      `${u32(size)}${u16(name.length)}${u16(extra.length)}`
    const header = `PK\x03\x04${fields(m.localCrc ?? crc, m.localSize ?? size, localName, "")}${localName}`
    const extra = m.extra ?? ""
    central.push(
      latin1(
        `PK\x01\x02${u16(20)}${fields(crc, size, name, extra)}${u16(0)}${u16(0)}${u16(0)}${u32(0)}` +
          `${u32(m.at ?? at)}${name}${extra}`,
      ),
    )
    local.push(latin1(header), data)
    at += header.length + data.length
  }
  const directory = Buffer.concat(central)
  const n = count ?? members.length
  const end = `PK\x05\x06${u16(disk)}${u16(0)}${u16(n)}${u16(n)}${u32(directory.length)}${u32(at)}${u16(0)}${suffix}`
  return Buffer.concat([...local, directory, latin1(beforeEnd), latin1(end)])
}
