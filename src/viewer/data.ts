/** @file What a page shows, as one JSON document of version 1: the contract of docs/viewer.md, with numbers packed for the page. */

export const VIEW_FORMAT = "vit-prisma-view"
export const VIEW_VERSION = 1

/** Low to high from one colour to another, or about 0 in two colours. */
export type ScaleKind = "sequential" | "diverging"

/**
 * Row-major numbers: an array, in which null is "not measured", or base64 of deflated (zlib) little-endian float32,
 * in which NaN is.
 */
export interface Numbers {
  readonly shape: readonly number[]
  readonly data: readonly (number | null)[] | string
}

/** What an axis of a matrix counts; a click on a cell then selects that layer, head or token. */
export type Axis = "layer" | "head" | "token"

/** One model's look at some images. All images have the same grid and the same special tokens. */
export interface View {
  readonly format: typeof VIEW_FORMAT
  readonly version: typeof VIEW_VERSION
  readonly title: string
  /** The model's name, as text. */
  readonly model?: string
  /** What a reader must know of these numbers: what was left out, above all. */
  readonly notes?: readonly string[]
  /** Patches down and across. */
  readonly grid: readonly [rows: number, columns: number]
  /** Names of the tokens before the patches, in the model's order, such as "CLS". */
  readonly special: readonly string[]
  readonly images: readonly ViewImage[]
  readonly tables?: readonly Table[]
  readonly matrices?: readonly Matrix[]
}

export interface ViewImage {
  readonly name: string
  /** A data URI of a PNG, JPEG or WebP file: what the model saw, resized and cropped, so that the grid fits. */
  readonly source: string
  /** In pixels. */
  readonly width: number
  readonly height: number
  readonly predictions?: readonly Prediction[]
  readonly attention?: Attention
  readonly overlays?: readonly Overlay[]
}

export interface Prediction {
  readonly label: string
  /** Probability in [0, 1]. */
  readonly score: number
  readonly logit?: number
}

/** Attention patterns of some layers, each of the same heads. */
export interface Attention {
  /** The model's numbers of the heads that are here, in this order. */
  readonly heads: readonly number[]
  /** In rising order of `layer`. */
  readonly layers: readonly LayerPattern[]
}

/** One layer's pattern [heads, queries, T]; how its bytes lie is in pattern.ts. */
export interface LayerPattern {
  readonly layer: number
  /** "special": only the rows of the special tokens' queries. */
  readonly queries: "all" | "special"
  /** Patches of each row that are kept with their values, the others being told by their mean; 0 keeps all. */
  readonly keep: number
  /** What the largest value stored as 1 stands for: 1, unless the pattern was edited to hold more. */
  readonly unit: number
  /** Base64 of deflated (zlib) bytes. */
  readonly data: string
}

/** A named map over the tokens, for one or more layers. */
export interface Overlay {
  readonly name: string
  readonly kind: ScaleKind
  /** [layers, tokens]; tokens are all T, special ones first, or the P patches alone. */
  readonly values: Numbers
  /** The layer of each row of `values`, rising; -1 is the embedding, before the first block. Absent: one row, of no layer. */
  readonly layers?: readonly number[]
  /** Such as "logits" or "probability". */
  readonly units?: string
  /** Ends of the colour scale; by default those of the values: [-m, m] of a diverging one. */
  readonly range?: readonly [number, number]
  /** A short text for each value, such as the class of the largest logit. */
  readonly labels?: Labels
}

export interface Labels {
  readonly names: readonly string[]
  /** What is drawn on a patch in place of the name: an emoji, a few letters. */
  readonly glyphs?: readonly string[]
  /** Index into `names` of each value, of the values' shape; null (NaN) where there is none. */
  readonly index: Numbers
}

/** Components and their values, drawn as bars. */
export interface Table {
  readonly name: string
  readonly units?: string
  /** Number of the image that it is about; absent: all. */
  readonly image?: number
  readonly rows: readonly { readonly name: string; readonly value: number; readonly note?: string }[]
}

/** A heat map with names. */
export interface Matrix {
  readonly name: string
  readonly kind: ScaleKind
  readonly units?: string
  readonly image?: number
  readonly rows: readonly string[]
  readonly columns: readonly string[]
  readonly rowAxis?: Axis
  readonly columnAxis?: Axis
  /** Model's numbers behind the rows and columns of an axis; by default 0, 1, 2, ... */
  readonly rowNumbers?: readonly number[]
  readonly columnNumbers?: readonly number[]
  /** [rows, columns] */
  readonly values: Numbers
  readonly range?: readonly [number, number]
}

/** T: special tokens and patches. */
export const tokensOf = ({ grid, special }: Pick<View, "grid" | "special">): number =>
  special.length + grid[0] * grid[1]
