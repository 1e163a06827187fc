/** @file TensorBoard event files: protobuf Events in TFRecord frames
 * (https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto,
 * https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details). */
import { readdir } from "node:fs/promises"
import { join } from "node:path"
import { readError } from "../../files/system-errors.ts"
import { Writer } from "../../onnx/wire.ts"
import { openAppender } from "./append.ts"
import { now, type OpenTracker, type Values } from "./tracker.ts"

/** CRC-32C (Castagnoli), bits reflected: polynomial 0x1EDC6F41 read backwards. */
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0x82f63b78 : n >>> 1
  return n
})

function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff]! ^ (crc >>> 8)
  return ~crc >>> 0
}

/** TFRecord rotates the checksum and adds a constant, so that the checksum of bytes that hold checksums stays telling. */
function masked(bytes: Uint8Array): number {
  const crc = crc32c(bytes)
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0
}

/** u64 length, its checksum, the data, its checksum; all little-endian. */
function frame(data: Uint8Array): Uint8Array {
  const record = new Uint8Array(data.length + 16)
  const view = new DataView(record.buffer)
  view.setBigUint64(0, BigInt(data.length), true)
  view.setUint32(8, masked(record.subarray(0, 8)), true)
  record.set(data, 12)
  view.setUint32(12 + data.length, masked(data), true)
  return record
}

/** Event: 1 wall_time (double), 2 step, then one of 3 file_version, 5 summary, 7 session_log. */
function event(time: number, step: number, write: (w: Writer) => void): Uint8Array {
  // Fields may stand in any order and lists of them be joined, so the double comes before what Writer knows.
  const head = new DataView(new ArrayBuffer(9))
  head.setUint8(0, (1 << 3) | 1)
  head.setFloat64(1, time, true)
  const rest = new Writer()
  if (step) rest.int(2, step)
  write(rest)
  return frame(Buffer.concat([new Uint8Array(head.buffer), rest.finish()]))
}

const version = (time: number) => event(time, 0, (w) => w.string(3, "brain.Event:2"))

/** SessionLog { 1 status = START }: TensorBoard drops what earlier files say of this step and later ones. */
const restart = (time: number, step: number) => event(time, step, (w) => w.message(7, (log) => log.int(1, 1)))

/** Summary { 1 value { 1 tag, 2 simple_value } } */
const scalars = (time: number, step: number, values: Values) =>
  event(time, step, (w) =>
    w.message(5, (summary) => {
      for (const [tag, x] of Object.entries(values)) summary.message(1, (value) => value.string(1, tag).float(2, x))
    }),
  )

/** One file for each time the run is started, named so that TensorBoard reads them in order even if the clock went back:
 * by the second, and by how many there were before. */
async function fileName(dir: string, time: number): Promise<string> {
  const found = await readdir(dir).catch((e: unknown) => readError(e, dir))
  const seconds = found.flatMap((name) => /^events\.out\.tfevents\.(\d{10})\./.exec(name)?.[1] ?? [])
  const second = seconds.reduce((latest, s) => Math.max(latest, Number(s)), Math.floor(time))
  return `events.out.tfevents.${second}.vit-prisma.${String(seconds.length).padStart(6, "0")}`
}

/** Errors: E_OUTPUT, E_DISK_FULL, E_IO. */
export const openTensorBoard: OpenTracker = async ({ run: { dir, resumedAt } }) => {
  const time = now()
  const file = await openAppender(join(dir, await fileName(dir, time)), { fresh: true })
  file.append(version(time))
  if (resumedAt !== undefined) file.append(restart(time, resumedAt + 1))
  return {
    log: (step, values) => file.append(scalars(now(), step, values)),
    flush: () => file.flush(),
    close: () => file.close(),
  }
}
