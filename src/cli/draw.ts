/** @file A digit drawn by strokes, so that the demo needs no image file: grey, 28 x 28, as MNIST's are. */
import type { Image } from "../data/image.ts"

type Point = readonly [x: number, y: number]

/** Each digit as lines through points, in pixels. */
const STROKES: Readonly<Record<number, readonly (readonly Point[])[]>> = {
  2: [
    [
      [9, 10],
      [11, 7],
      [15, 6],
      [18, 8],
      [18, 12],
      [14, 16],
      [9, 21],
      [19, 21],
    ],
  ],
  4: [
    [
      [11, 6],
      [9, 14],
      [18, 14],
    ],
    [
      [17, 7],
      [15, 22],
    ],
  ],
  7: [
    [
      [8, 8],
      [19, 7],
      [15, 14],
      [12, 21],
    ],
  ],
}

/** Half the width of a stroke, and how far its edge fades. */
const [RADIUS, FADE] = [1.1, 0.9]
const EDGE = 28

/** White on black: full within the stroke's radius, fading to 0 over the next pixel. */
export function drawDigit(digit: 2 | 4 | 7): Image {
  const data = new Uint8Array(EDGE * EDGE)
  const segments = STROKES[digit]!.flatMap((line) => line.slice(1).map((b, i) => [line[i]!, b] as const))
  for (let y = 0; y < EDGE; y++) {
    for (let x = 0; x < EDGE; x++) {
      const near = Math.min(...segments.map(([a, b]) => distance([x, y], a, b)))
      data[y * EDGE + x] = Math.round(255 * Math.min(1, Math.max(0, (RADIUS + FADE - near) / FADE)))
    }
  }
  return { width: EDGE, height: EDGE, channels: 1, data, notes: [] }
}

/** From a point to the line from a to b. */
function distance([x, y]: Point, [ax, ay]: Point, [bx, by]: Point): number {
  const [dx, dy] = [bx - ax, by - ay]
  const along = Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy)))
  return Math.hypot(x - ax - along * dx, y - ay - along * dy)
}
