/** @file Circuits: decompositions against numpy and by putting them together again, OV and QK against what a model does. */
import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { circuits, float32, loadPretrained, tensor, type Factored, type Tensor } from "../src/index.ts"
import { eigenvalues } from "../src/interp/circuits/eigen.ts"
import { matrix } from "../src/interp/circuits/matrix.ts"
import { jacobiSvd } from "../src/interp/circuits/svd.ts"
import { mulberry32 } from "./helpers/causality.ts"
import { reference, root } from "./helpers/cli.ts"
import { thrown } from "./helpers/thrown.ts"

interface Case {
  readonly matrix: number[][]
  readonly singular: number[]
  readonly eigen?: [number, number][]
}
const cases = Object.entries(
  JSON.parse(readFileSync(`${root}/test/fixtures/interp/matrices.json`, "utf8")) as Record<string, Case>,
)
const random = mulberry32(11)
const draw = (rows: number, columns: number): number[][] =>
  Array.from({ length: rows }, () => Array.from({ length: columns }, () => 2 * random() - 1))
const flip = (a: number[][]): number[][] => a[0]!.map((_, j) => a.map((row) => row[j]!))
const times = (a: number[][], b: number[][]): number[][] =>
  a.map((row) => b[0]!.map((_, j) => row.reduce((s, x, k) => s + x * b[k]![j]!, 0)))
const rowsOf = (data: ArrayLike<number>, columns: number): number[][] =>
  Array.from({ length: data.length / columns }, (_, i) =>
    Array.from({ length: columns }, (__, j) => data[i * columns + j]!),
  )
const scale = (a: readonly number[]): number => Math.max(1e-300, ...a.map(Math.abs))
const length = (a: number[][]): number => Math.sqrt(a.flat().reduce((s, x) => s + x * x, 0))
const f64 = (rows: number[][]): Tensor<"float64"> =>
  tensor("float64", [rows.length, rows[0]!.length], Float64Array.from(rows.flat()))
const product = (rows: number[][], more: number[][]): Factored => circuits.factored(f64(rows), f64(more))
const of = (rows: number[][]) => matrix(rows.length, rows[0]!.length, Float64Array.from(rows.flat()))

function expectClose(got: number[][], want: number[][], to: number): void {
  const [a, b] = [got.flat(), want.flat()]
  expect(a.length).toBe(b.length)
  expect(a.reduce((m, x, i) => Math.max(m, Math.abs(x - b[i]!)), 0)).toBeLessThan(to)
}
const identity = (n: number): number[][] =>
  Array.from({ length: n }, (_, i) => Array.from({ length: n }, (__, j) => +(i === j)))

describe("singular values", () => {
  it.each(cases)("of the %s matrix are numpy's, and its vectors put it together", (_, { matrix: rows, singular }) => {
    const { u, s, v } = jacobiSvd(of(rows))
    const k = singular.length
    const most = scale(singular)
    expectClose([[...s]], [singular], 1e-13 * most)
    const [left, right] = [rowsOf(u.data, k), rowsOf(v.data, k)]
    expectClose(times(flip(left), left), identity(k), 1e-12)
    expectClose(times(flip(right), right), identity(k), 1e-12)
    const scaled = left.map((row) => row.map((x, j) => x * s[j]!))
    expectClose(times(scaled, flip(right)), rows, 1e-13 * most)
  })

  it("that are small beside others keep their digits", () => {
    const { matrix: rows, singular } = Object.fromEntries(cases)["graded"]!
    // LAPACK's error is a share of the largest; one-sided Jacobi's is one of each, if rows are scaled: see the product.
    const s = jacobiSvd(of(rows)).s
    const logDet = [...s].reduce((sum, x) => sum + Math.log(x), 0)
    const free = rows.map((row, i) => row.map((x) => x / [1e8, 1, 1e-4, 1e-8][i]!))
    const exact = Math.log(Math.abs(determinant(free))) + Math.log(1e8 * 1e-4 * 1e-8)
    expect(logDet).toBeCloseTo(exact, 9)
    expect(s[0]! / singular[0]!).toBeCloseTo(1, 12)
  })

  it("of zeros are 0, with vectors at right angles all the same", () => {
    const { u, s, v } = jacobiSvd(matrix(4, 3))
    expect([...s]).toEqual([0, 0, 0])
    for (const x of [u, v]) expectClose(times(flip(rowsOf(x.data, 3)), rowsOf(x.data, 3)), identity(3), 1e-15)
  })

  it.each([
    ["tall times wide", 30, 4, 20],
    ["thicker than high", 3, 7, 9],
    ["thicker than wide", 9, 7, 3],
    ["one", 1, 1, 1],
  ])("of a product, %s, are those of the product, which is not formed", (_, n, r, m) => {
    const [a, b] = [draw(n, r), draw(r, m)]
    const whole = times(a, b)
    const k = Math.min(n, r, m)
    const { u, s, v } = circuits.svd(product(a, b))
    expect([u.shape, s.shape, v.shape]).toEqual([[n, k], [k], [m, k]])
    const scaled = rowsOf(u.data, k).map((row) => row.map((x, j) => x * s.data[j]!))
    expectClose(times(scaled, flip(rowsOf(v.data, k))), whole, 1e-12)
    expectClose(times(flip(rowsOf(u.data, k)), rowsOf(u.data, k)), identity(k), 1e-12)
    const others = [...jacobiSvd(of(whole)).s]
    expectClose([[...s.data]], [others.slice(0, k)], 1e-12)
    expect(circuits.norm(product(a, b)).data[0]).toBeCloseTo(length(whole), 12)
    expectClose(rowsOf(circuits.dense(product(a, b)).data, m), whole, 1e-14)
  })
})

function determinant(a: number[][]): number {
  if (a.length === 1) return a[0]![0]!
  return a[0]!.reduce((s, x, j) => s + (j % 2 ? -x : x) * determinant(a.slice(1).map((row) => row.toSpliced(j, 1))), 0)
}

describe("eigenvalues", () => {
  const square = cases.filter(([, c]) => c.eigen)

  /** Each of `want` has one of `got` for itself within `to`. */
  function expectSame(
    { re, im }: { re: Float64Array; im: Float64Array },
    want: readonly [number, number][],
    to: number,
  ) {
    const left = [...re].map((x, i) => [x, im[i]!] as const)
    expect(left.length).toBe(want.length)
    for (const [x, y] of want) {
      const away = left.map(([a, b]) => Math.hypot(a - x, b - y))
      const at = away.indexOf(Math.min(...away))
      expect(away[at]).toBeLessThan(to)
      left.splice(at, 1)
    }
  }

  it.each(square)("of the %s matrix are numpy's, largest first", (_, { matrix: rows, eigen }) => {
    const found = eigenvalues(of(rows))
    expectSame(found, eigen!, 1e-10 * scale(rows.flat()))
    const sizes = [...found.re].map((x, i) => Math.hypot(x, found.im[i]!))
    for (let i = 1; i < sizes.length; i++) expect(sizes[i]).toBeLessThanOrEqual(sizes[i - 1]! * (1 + 1e-9))
  })

  it("of a product are those of the product, but for zeros", () => {
    const [a, b] = [draw(12, 5), draw(5, 12)]
    const [found] = circuits.eigenvaluesOf(product(a, b))
    const all = eigenvalues(of(times(a, b)))
    expectSame(
      found!,
      [0, 1, 2, 3, 4].map((i) => [all.re[i]!, all.im[i]!]),
      1e-10,
    )
    expect(Math.hypot(all.re[5]!, all.im[5]!)).toBeLessThan(1e-12)
  })

  it("of a block with one eigenvector are found to half the digits, as can be", () => {
    expectSame(
      eigenvalues(
        of([
          [3, 1, 0],
          [0, 3, 1],
          [0, 0, 3],
        ]),
      ),
      [
        [3, 0],
        [3, 0],
        [3, 0],
      ],
      1e-4,
    )
    expectSame(eigenvalues(of([[5]])), [[5, 0]], 1e-15)
    expectSame(
      eigenvalues(matrix(3, 3)),
      [
        [0, 0],
        [0, 0],
        [0, 0],
      ],
      1e-15,
    )
  })
})

describe("circuits of a model", () => {
  const noise = (shape: readonly number[]) =>
    float32(
      shape,
      Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 2 * random() - 1),
    )
  const apart = (a: number[], b: number[]) => [a.map((x, i) => x - b[i]!)]

  it.each(["hf-dinov2", "hf-deit", "timm-deit3"])(
    "of %s, folded, give its scores and what a head writes",
    async (name) => {
      const model = await loadPretrained(reference(name), { threads: 1 })
      const { vision } = model.config
      const { nHeads: h, dHead: e, dModel: d } = vision
      const x = noise([1, vision.nChannels, ...vision.imageSize])
      const layer = 1
      const hook = (of0: string) => `blocks.${layer}.${of0}`
      const names = ["hook_resid_pre", "ln1.hook_scale", "attn.hook_attn_scores", "attn.hook_pattern"].map(hook)
      const { cache } = await model.runWithCache(x, { names })
      const stream = rowsOf(cache.get(names[0]!).data as Float32Array, d)
      const scales = cache.get(names[1]!).data as Float32Array
      const t = stream.length
      // A token as the folded weights see it: the stream over the norm's scale.
      const token = stream.map((row, i) => row.map((v) => v / scales[i]!))
      const [ov, qk] = [
        await circuits.ovCircuits(model, layer, { fold: true }),
        await circuits.qkCircuits(model, -1 - (vision.nLayers - 1 - layer), { fold: true }),
      ]
      expect(circuits.productShape(ov)).toEqual([h, d, d])
      const scores = cache.get(names[2]!).data as Float32Array
      const pattern = cache.get(names[3]!)

      for (let head = 0; head < h; head++) {
        // Biases add to whole rows and columns of scores: what is left of them in such a difference is q, k and no bias.
        const score = (q: number, k: number) => scores[(head * t + q) * t + k]! * Math.sqrt(e)
        const m = rowsOf(circuits.dense(circuits.head(qk, head)).data, d)
        const [i, j, k, l] = [1, 5, 2, 7]
        const want = score(i, k) - score(j, k) - score(i, l) + score(j, l)
        const got = times(times(apart(token[i]!, token[j]!), m), flip(apart(token[k]!, token[l]!)))[0]![0]!
        expect(Math.abs(got - want)).toBeLessThan(1e-5 * Math.max(1, Math.abs(want)))

        // The head looks at token k in one run and at token l in the other.
        const looking = async (at: number) => {
          const data = (pattern.data as Float32Array).slice()
          for (let p = 0; p < t * t; p++) data[head * t * t + p] = p % t === at ? 1 : 0
          const patch = { [names[3]!]: float32(pattern.shape, data) }
          const { [hook("hook_attn_out")]: out } = await model.run(x, { patch, outputs: [hook("hook_attn_out")] })
          return rowsOf(out!.data as Float32Array, d)[0]!
        }
        const written = apart(await looking(k), await looking(l))
        const w = rowsOf(circuits.dense(circuits.head(ov, head)).data, d)
        expectClose(times(apart(token[k]!, token[l]!), w), written, 1e-5 * Math.max(1, scale(written.flat())))
      }
    },
  )

  it("as they are given are products of the weights, also of the text tower and without an output projection", async () => {
    const clip = await loadPretrained(reference("hf-clip-eos-2"), { threads: 1 })
    const { nHeads: h, dHead: e, dModel: d } = clip.config.text!
    const ov = await circuits.ovCircuits(clip, 1, { tower: "text" })
    const [v, o] = [await clip.weight("text.blocks.1.attn.W_V"), await clip.weight("text.blocks.1.attn.W_O")]
    for (let head = 0; head < h; head++) {
      const of0 = ({ data }: Tensor<"float32">, columns: number) =>
        rowsOf(data.subarray(head * d * e, (head + 1) * d * e), columns)
      expectClose(rowsOf(circuits.dense(circuits.head(ov, head)).data, d), times(of0(v, e), of0(o, d)), 1e-6)
    }
    const bare = await loadPretrained(reference("base-vit-global-pool"), { threads: 1 })
    const [{ nHeads, dHead, dModel }, w] = [bare.config.vision, await bare.weight("blocks.0.attn.W_V")]
    const side = await circuits.ovCircuits(bare, 0)
    for (let head = 0; head < nHeads; head++) {
      const own = rowsOf(w.data.subarray(head * dModel * dHead, (head + 1) * dModel * dHead), dHead)
      const placed = own.map((row) => identity(dModel)[0]!.map((_, j) => row[j - head * dHead] ?? 0))
      expectClose(rowsOf(circuits.dense(circuits.head(side, head)).data, dModel), placed, 1e-7)
    }
  })

  it.each(circuits.COMPOSITIONS)("%s-composition is that of the products, formed", async (kind) => {
    const model = await loadPretrained(reference("hf-deit"), { threads: 1 })
    const { nLayers: n, nHeads: h, dModel: d } = model.config.vision
    const { scores, baseline } = await circuits.compositionScores(model, kind)
    expect(scores.shape).toEqual([n, h, n, h])
    expect(baseline).toBeCloseTo(1 / Math.sqrt(d), 12)
    const formed = async (layer: number, which: "OV" | "QK") => {
      const x = await (which === "OV" ? circuits.ovCircuits(model, layer) : circuits.qkCircuits(model, layer))
      return Array.from({ length: h }, (_, head) => rowsOf(circuits.dense(circuits.head(x, head)).data, d))
    }
    const [first, later] = [await formed(0, "OV"), await formed(1, kind === "V" ? "OV" : "QK")]
    for (let from = 0; from < h; from++) {
      for (let to = 0; to < h; to++) {
        const [x, y] = [first[from]!, kind === "K" ? flip(later[to]!) : later[to]!]
        const want = length(times(x, y)) / length(x) / length(y)
        expect(scores.data[(from * n + 1) * h + to]).toBeCloseTo(want, 5)
      }
    }
    const measured = [...scores.data].filter((x) => !Number.isNaN(x))
    expect(measured).toHaveLength((h * h * n * (n - 1)) / 2)
  })

  it.each(circuits.COMPOSITIONS)("%s-composition of folded weights has norm and LayerScale in it", async (kind) => {
    const model = await loadPretrained(reference("timm-deit3"), { threads: 1 })
    const { nHeads: h, dHead: e, dModel: d } = model.config.vision
    const weight = async (layer: number, name: string) => (await model.weight(`blocks.${layer}.${name}`)).data
    const read = async (layer: number, which: "Q" | "K" | "V", head: number) => {
      const [w, gain] = [await weight(layer, `attn.W_${which}`), await weight(layer, "ln1.weight")]
      const rows = rowsOf(w.subarray(head * d * e, (head + 1) * d * e), e).map((row, i) => row.map((x) => x * gain[i]!))
      return rows.map((row) => row.map((x, j) => x - rows.reduce((s, other) => s + other[j]! / d, 0)))
    }
    const ov = async (layer: number, head: number) => {
      const [w, gamma] = [await weight(layer, "attn.W_O"), await weight(layer, "ls1.gamma")]
      const rows = rowsOf(w.subarray(head * e * d, (head + 1) * e * d), d).map((row) =>
        row.map((x, j) => x * gamma[j]!),
      )
      return times(await read(layer, "V", head), rows)
    }
    const { scores } = await circuits.compositionScores(model, kind, { fold: true })
    for (let from = 0; from < h; from++) {
      for (let to = 0; to < h; to++) {
        const x = await ov(0, from)
        const [a, b] = kind === "K" ? (["K", "Q"] as const) : (["Q", "K"] as const)
        const y = kind === "V" ? await ov(1, to) : times(await read(1, a, to), flip(await read(1, b, to)))
        const want = length(times(x, y)) / length(x) / length(y)
        expect(scores.data[(from * model.config.vision.nLayers + 1) * h + to]).toBeCloseTo(want, 5)
      }
    }
  })

  it("have a baseline that is the mean over turned circuits: over all signed permutations it is exact", () => {
    const d = 3
    const [x, y] = [times(draw(d, 2), draw(2, d)), times(draw(d, 2), draw(2, d))]
    const orders = [
      [0, 1, 2],
      [0, 2, 1],
      [1, 0, 2],
      [1, 2, 0],
      [2, 0, 1],
      [2, 1, 0],
    ]
    const squares = orders.flatMap((order) =>
      [...Array(8).keys()].map((signs) => {
        const turned = order.map((column, i) =>
          Array.from({ length: d }, (_, j) => (j === column ? ((signs >> i) % 2 ? -1 : 1) : 0)),
        )
        return (length(times(times(x, turned), y)) / length(x) / length(y)) ** 2
      }),
    )
    expect(Math.sqrt(squares.reduce((a, b) => a + b, 0) / squares.length)).toBeCloseTo(1 / Math.sqrt(d), 12)
  })

  it("can be composed and transposed without being formed", () => {
    const [a, b, c, e] = [draw(6, 2), draw(2, 5), draw(5, 3), draw(3, 4)]
    const both = circuits.compose(product(a, b), product(c, e))
    expect(both.a.shape).toEqual([6, 2])
    expectClose(rowsOf(circuits.dense(both).data, 4), times(times(a, b), times(c, e)), 1e-13)
    expectClose(rowsOf(circuits.dense(circuits.transpose(product(a, b))).data, 6), flip(times(a, b)), 1e-14)
  })

  it("refuse what cannot be, in one line", async () => {
    const model = await loadPretrained(reference("hf-deit"), { threads: 1 })
    const normed = await loadPretrained(reference("timm-qk-norm"), { threads: 1 })
    const turned = await loadPretrained(reference("hf-dinov3"), { threads: 1 })
    const later =
      <T>(work: () => T) =>
      () =>
        Promise.resolve().then(work)
    const refused: [() => Promise<unknown>, string, RegExp][] = [
      [() => circuits.ovCircuits(model, 2), "E_HOOK", /layer 2 does not exist.*0 to 1/],
      [() => circuits.qkCircuits(model, 0.5), "E_HOOK", /layer 0.5/],
      [() => circuits.ovCircuits(model, 0, { tower: "text" }), "E_INPUT", /no text tower/],
      [() => circuits.qkCircuits(normed, 0), "E_INPUT", /normed/],
      [() => circuits.qkCircuits(turned, 0), "E_INPUT", /turned by their tokens' positions/],
      [() => circuits.compositionScores(turned, "Q"), "E_INPUT", /turned/],
      [() => circuits.compositionScores(model, "O" as never), "E_INPUT", /Q, K, V, got O/],
      [later(() => circuits.head(product(draw(2, 2), draw(2, 2)), 0)), "E_INPUT", /no axis of heads/],
      [later(() => product(draw(2, 3), draw(2, 3))), "E_INPUT", /\[2, 3\] and \[2, 3\]/],
      [later(() => product([[NaN]], [[1]])), "E_INPUT", /not finite/],
      [later(() => circuits.eigenvaluesOf(product(draw(2, 1), draw(1, 3)))), "E_INPUT", /square/],
      [
        later(() => circuits.compose(product(draw(2, 1), draw(1, 3)), product(draw(2, 1), draw(1, 3)))),
        "E_INPUT",
        /do not follow/,
      ],
      [async () => circuits.head(await circuits.ovCircuits(model, 0), 4), "E_INPUT", /no head 4; heads are 0 to 3/],
    ]
    for (const [work, code, said] of refused) {
      const error = await thrown(work())
      expect([error.code, error.message]).toEqual([code, expect.stringMatching(said)])
    }
  })
})
