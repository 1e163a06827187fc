/** @file A Blob whose bytes are made when they are sent, each time anew: request bodies of any size in little memory. */

type Bytes = ReturnType<Blob["stream"]>

/** fetch asks a Blob for its size and its stream only. */
export class LazyBlob extends Blob {
  readonly #open: () => Bytes

  constructor(size: number, open: () => Bytes) {
    super([])
    this.#open = open
    Object.defineProperty(this, "size", { value: size })
  }

  override stream(): Bytes {
    return this.#open()
  }
}

/** The same bytes; `onBytes` is told how many are sent, from 0 on again where they are sent again. */
export const counted = (blob: Blob, onBytes: (sent: number) => void): LazyBlob =>
  new LazyBlob(blob.size, () => {
    let sent = 0
    onBytes(sent)
    const count = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
      transform(chunk, controller) {
        onBytes((sent += chunk.length))
        controller.enqueue(chunk)
      },
    })
    return blob.stream().pipeThrough(count)
  })
