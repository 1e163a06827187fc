/** @file Letters of 5 x 7 dots, for pictures made where no font is installed: a container, most often. */

/** The printing characters of ASCII from the space on, five columns each, the lowest bit the top dot. */
const LETTERS =
  "0000000000 00005F0000 0007000700 147F147F14 242A7F2A12 2313086462 3649562050 0005030000 001C224100 0041221C00 " +
  "14083E0814 08083E0808 0050300000 0808080808 0060600000 2010080402 3E5149453E 00427F4000 4261514946 2141454B31 " +
  "1814127F10 2745454539 3C4A494930 0171090503 3649494936 064949291E 0036360000 0056360000 0814224100 1414141414 " +
  "0041221408 0201510906 324979413E 7E1111117E 7F49494936 3E41414122 7F4141221C 7F49494941 7F09090901 3E4149497A " +
  "7F0808087F 00417F4100 2040413F01 7F08142241 7F40404040 7F020C027F 7F0408107F 3E4141413E 7F09090906 3E4151215E " +
  "7F09192946 4649494931 01017F0101 3F4040403F 1F2040201F 3F4038403F 6314081463 0708700807 6151494543 007F414100 " +
  "0204081020 0041417F00 0402010204 4040404040 0001020400 2054545478 7F48444438 3844444420 384444487F 3854545418 " +
  "087E090102 0C5252523E 7F08040478 00447D4000 2040443D00 7F10284400 00417F4000 7C04180478 7C08040478 3844444438 " +
  "7C14141408 081414187C 7C08040408 4854545420 043F444020 3C4040207C 1C2040201C 3C4030403C 4428102844 0C5050503C " +
  "4464544C44 0008364100 00007F0000 0041360800 1008081008"

/** Columns of dots by character. */
const COLUMNS = new Map(
  LETTERS.split(" ").map((hex, i) => [String.fromCodePoint(32 + i), hex.match(/../g)!.map((two) => parseInt(two, 16))]),
)
/** What stands for a character that is not there. */
const OTHER = [0x7f, 0x41, 0x41, 0x41, 0x7f]
const ALIKE: Readonly<Record<string, string>> = { "\u2212": "-", "\u2026": "...", "\u00b7": ".", "\u2192": ">" }

/** A dot's side and a letter's advance, of the font's size. */
const DOT = 0.1
const ADVANCE = 0.6

const TEXT =
  /<text x="([^"]*)" y="([^"]*)" font-size="([^"]*)" text-anchor="(start|middle|end)" fill="([^"]*)"[^>]*>([^<]*)<\/text>/g
const ENTITIES: Readonly<Record<string, string>> = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"' }
const BEFORE = { start: 0, middle: 0.5, end: 1 } as const

/** A picture of svg.ts whose text is paths of dots. */
export function withLetters(svg: string): string {
  return svg.replace(
    TEXT,
    (_, x: string, y: string, size: string, anchor: keyof typeof BEFORE, fill: string, said: string) => {
      const text = said
        .replace(/&\w+;/g, (entity) => ENTITIES[entity]!)
        .replace(/[\u2212\u2026\u00b7\u2192]/g, (c) => ALIKE[c]!)
      const letters = Array.from(text)
      const [dot, step] = [Number(size) * DOT, Number(size) * ADVANCE]
      const left = Number(x) - BEFORE[anchor] * letters.length * step
      const path = letters.map((c, i) => dots(COLUMNS.get(c) ?? OTHER, left + i * step, Number(y) - 7 * dot, dot))
      return `<path d="${path.join("")}" fill="${fill}"/>`
    },
  )
}

/** A rectangle for each run of dots in a column. */
function dots(columns: readonly number[], left: number, top: number, dot: number): string {
  const round = (v: number) => Math.round(v * 100) / 100
  return columns
    .map((bits, column) => {
      let path = ""
      for (let row = 0, length = 0; row < 7; row += Math.max(1, length)) {
        length = 0
        while ((bits >> (row + length)) & 1) length++
        if (length)
          path += `M${round(left + column * dot)},${round(top + row * dot)}h${round(dot)}v${round(length * dot)}h${round(-dot)}z`
      }
      return path
    })
    .join("")
}
