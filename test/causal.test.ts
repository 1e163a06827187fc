/** @file Attribution patching, path patching and circuits, each against explicit runs or plain loops. */
import { afterAll, describe, expect, it } from "vitest"
import { attributionPatching } from "../src/interp/causal/attribution.ts"
import { findCircuit, runCircuit } from "../src/interp/causal/circuit.ts"
import { noise } from "../src/interp/causal/patching.ts"
import { pathPatch, type Receiver, type Sender } from "../src/interp/causal/path.ts"
import { measure } from "../src/interp/causal/sweep.ts"
import { sitesOf } from "../src/interp/causal/sites.ts"
import { HookedViT } from "../src/interp/hooked-vit.ts"
import { loadPretrained } from "../src/index.ts"
import { Random } from "../src/tensor/random.ts"
import { float32, size, type Tensor } from "../src/tensor/tensor.ts"
import { thrown } from "./helpers/thrown.ts"

const mouse = await loadPretrained("model-cards/mnist")
afterAll(() => mouse.release())
const { nLayers, nHeads } = mouse.config.vision
const metric = "logits[:, 7]"

function images(n: number, seed: number): Tensor<"float32"> {
  const random = new Random(seed, "images")
  const shape = [n, 1, 28, 28]
  return float32(
    shape,
    Float32Array.from({ length: size(shape) }, () => random.normal()),
  )
}
const copy = (t: Tensor): Tensor<"float32"> => float32(t.shape, Float32Array.from(t.data as Float32Array))
const cached = async (x: Tensor, names: readonly string[]) => {
  const { cache } = await mouse.runWithCache(x, { names })
  return (name: string) => copy(cache.get(name))
}
const logit7 = ({ data }: Tensor): number[] =>
  Array.from({ length: data.length / 10 }, (_, i) => Number(data[10 * i + 7]))
const close = (a: readonly number[], b: readonly number[], tolerance = 3e-4) => {
  expect(a.length).toBe(b.length)
  for (const [i, x] of a.entries()) expect(Math.abs(x - b[i]!)).toBeLessThan(tolerance * Math.max(1, Math.abs(b[i]!)))
}

describe("attribution patching", () => {
  it("is the effect of a real patch to first order: the error falls with the square of the step", async () => {
    const base = images(1, 1)
    const way = images(1, 2)
    const errors: number[] = []
    const sites = sitesOf(mouse, ["blocks.1.attn.hook_z", "blocks.2.hook_resid_pre"])
    for (const size of [0.1, 0.01]) {
      const source = float32(
        base.shape,
        base.data.map((x, i) => x + size * way.data[i]!),
      )
      const [plain] = await measure(mouse, base, metric)
      const estimate = await attributionPatching(mouse, {
        base,
        source: { run: source },
        hooks: sites.map((s) => s.hook),
        metric,
      })
      let worst = 0
      for await (const { site, values } of noise(mouse, { clean: base, corrupt: source, sites, metric })) {
        const total = estimate.get(site.hook)!.data.reduce((a, b) => a + b, 0)
        worst = Math.max(worst, Math.abs(values[0]! - plain! - total))
        if (size === 0.01) expect(Math.abs(values[0]! - plain! - total)).toBeLessThan(0.2 * Math.abs(total))
      }
      errors.push(worst)
    }
    expect(errors[1]!).toBeLessThan(errors[0]! / 20)
  })

  it("with zeros is minus value times gradient, by a loop", async () => {
    const base = images(2, 3)
    const hooks = ["blocks.1.attn.hook_z", "blocks.3.mlp.hook_post", "blocks.0.attn.hook_pattern"]
    const got = await attributionPatching(mouse, { base, source: { zero: true }, hooks, metric })
    const slopes = await mouse.gradients(base, metric, { at: hooks })
    const value = await cached(base, hooks)
    for (const name of hooks) {
      const [g, v] = [slopes.hooks.get(name)!, value(name)]
      const last = g.shape.at(-1)!
      expect(got.get(name)!.shape).toEqual(g.shape.slice(0, -1))
      for (let i = 0; i < g.data.length / last; i++) {
        let sum = 0
        for (let j = 0; j < last; j++) sum -= g.data[i * last + j]! * v.data[i * last + j]!
        expect(Math.abs(got.get(name)!.data[i]! - sum)).toBeLessThan(1e-5 * Math.max(1, Math.abs(sum)))
      }
    }
  })

  it("with a run's values, each image's or one's for all, from images or a cache, is a sum by a loop", async () => {
    const base = images(2, 3)
    const hooks = ["blocks.1.attn.hook_z", "blocks.3.mlp.hook_post", "blocks.0.attn.hook_pattern", "hook_pos_embed"]
    const slopes = await mouse.gradients(base, metric, { at: hooks })
    const ours = await cached(base, hooks)
    for (const run of [images(2, 8), images(1, 9)]) {
      const theirs = await cached(run, hooks)
      const { cache } = await mouse.runWithCache(run)
      for (const source of [{ run }, { cache }]) {
        const got = await attributionPatching(mouse, { base, source, hooks, metric })
        for (const name of hooks) {
          const [g, a, b] = [slopes.hooks.get(name)!, ours(name), theirs(name)]
          const last = g.shape.at(-1)!
          expect(got.get(name)!.shape).toEqual(g.shape.slice(0, -1))
          for (let i = 0; i < g.data.length / last; i++) {
            let sum = 0
            for (let j = i * last; j < (i + 1) * last; j++) {
              sum += g.data[j]! * (b.data[j % b.data.length]! - a.data[j % a.data.length]!)
            }
            expect(Math.abs(got.get(name)!.data[i]! - sum)).toBeLessThan(2e-5 * Math.max(1, Math.abs(sum)))
          }
        }
      }
    }
  })

  it("refuses a cache that has not every token, or other images", async () => {
    const [base, hooks] = [images(2, 3), ["blocks.1.attn.hook_z"]]
    const from = async (n: number, positions?: readonly [number, number]) =>
      (await mouse.runWithCache(images(n, 1), { names: hooks, ...(positions && { positions }) })).cache
    const refused = async (cache: Awaited<ReturnType<typeof from>>, name = hooks[0]!) =>
      thrown(attributionPatching(mouse, { base, source: { cache }, hooks: name, metric }))
    expect(await refused(await from(2, [0, 3]))).toMatchObject({
      code: "E_INPUT",
      message: expect.stringMatching(/cache has "blocks\.1\.attn\.hook_z" as \[2, 3, .*expected \[1 or 2, 17,/),
    })
    expect((await refused(await from(3))).code).toBe("E_INPUT")
    expect((await refused(await from(2), "blocks.2.attn.hook_z")).code).toBe("E_HOOK")
  })

  it("along the line from one image to the other adds up to the whole difference", async () => {
    const [base, source] = [images(1, 4), images(1, 5)]
    const effect = async (steps: number) => {
      const got = await attributionPatching(mouse, {
        base,
        source: { run: source },
        hooks: ["hook_embed"],
        metric,
        steps,
      })
      return got.get("hook_embed")!.data.reduce((a, b) => a + b, 0)
    }
    const [from, to] = [(await measure(mouse, base, metric))[0]!, (await measure(mouse, source, metric))[0]!]
    // The embedding is linear in the image: integrated gradients are complete there.
    expect(Math.abs((await effect(50)) - (to - from))).toBeLessThan(0.05 * Math.abs(to - from))
  })

  it("refuses steps without a run to go to", async () => {
    const options = { base: images(1, 1), source: { zero: true } as const, hooks: "hook_embed", metric, steps: 3 }
    expect((await thrown(attributionPatching(mouse, options))).code).toBe("E_INPUT")
  })
})

describe("path patching", () => {
  const [base, source] = [images(2, 6), images(2, 7)]
  const all = Array.from({ length: nLayers }, (_, l) => [
    `blocks.${l}.hook_attn_out`,
    `blocks.${l}.hook_mlp_out`,
  ]).flat()

  /** The run with the sender's value, every other write to the stream put back to the base's. */
  async function frozen(sender: Exclude<Sender, { embed: true }>, read: string): Promise<Tensor> {
    const at = `blocks.${sender.layer}`
    const own = await cached(base, [...all, `${at}.attn.hook_z`])
    const other = await cached(source, [`${at}.attn.hook_z`, `${at}.hook_mlp_out`])
    const patch: Record<string, Tensor> = Object.fromEntries(all.map((name) => [name, own(name)]))
    if ("mlp" in sender) patch[`${at}.hook_mlp_out`] = other(`${at}.hook_mlp_out`)
    else {
      delete patch[`${at}.hook_attn_out`]
      const [z, theirs] = [own(`${at}.attn.hook_z`), other(`${at}.attn.hook_z`)]
      const [n, T, h, e] = z.shape as readonly [number, number, number, number]
      for (let i = 0; i < n; i++)
        for (let t = 0; t < T; t++)
          for (let k = 0; k < e; k++) {
            const place = ((i * T + t) * h + sender.head) * e + k
            z.data[place] = theirs.data[place]!
          }
      patch[`${at}.attn.hook_z`] = z
    }
    const got = await mouse.run(base, { patch, outputs: [read] })
    return got[read]!
  }

  it.each<[Exclude<Sender, { embed: true }>]>([[{ layer: 1, head: 2 }], [{ layer: 0, mlp: true }]])(
    "from %o to the outputs",
    async (sender) => {
      const got = await pathPatch(mouse, { base, source, sender, receivers: [{ input: "end" }], metric })
      close(got, logit7(await frozen(sender, "logits")))
      const plain = await measure(mouse, base, metric)
      expect(Math.abs(got[0]! - plain[0]!)).toBeGreaterThan(1e-4)
    },
  )

  it.each<[Exclude<Sender, { embed: true }>, Exclude<Receiver, { input: "end" }>]>([
    [
      { layer: 0, head: 1 },
      { layer: 2, head: 3, input: "q" },
    ],
    [
      { layer: 0, head: 1 },
      { layer: 1, head: 0, input: "k" },
    ],
    [
      { layer: 1, mlp: true },
      { layer: 3, head: 2, input: "v" },
    ],
    [
      { layer: 2, head: 0 },
      { layer: 2, input: "mlp" },
    ],
  ])("from %o to %o", async (sender, receiver) => {
    const stream = receiver.input === "mlp" ? "hook_resid_mid" : "hook_resid_pre"
    const met = await frozen(sender, `blocks.${receiver.layer}.${stream}`)
    const hook = `blocks.${receiver.layer}.hook_${receiver.input === "mlp" ? "mlp_in" : `${receiver.input}_input`}`
    const input = (await cached(base, [hook]))(hook)
    const d = met.shape[2]!
    for (let row = 0; row < met.data.length / d; row++)
      for (let i = 0; i < d; i++) {
        const place = "head" in receiver ? (row * nHeads + receiver.head) * d + i : row * d + i
        input.data[place] = met.data[row * d + i] as number
      }
    const { logits } = await mouse.run(base, { patch: { [hook]: input } })
    close(await pathPatch(mouse, { base, source, sender, receivers: [receiver], metric }), logit7(logits))
  })

  it("of one source serves all images, and counts at the named tokens alone", async () => {
    const one = images(1, 7)
    const twice = float32([2, ...one.shape.slice(1)], [...one.data, ...one.data])
    const path = { base, sender: { layer: 1, mlp: true }, receivers: [{ layer: 2, input: "mlp" }], metric } as const
    close(await pathPatch(mouse, { ...path, source: one }), await pathPatch(mouse, { ...path, source: twice }))
    const tokens = [...Array(17).keys()]
    close(await pathPatch(mouse, { ...path, source, tokens }), await pathPatch(mouse, { ...path, source }))
    const some = await pathPatch(mouse, { ...path, source, tokens: [0, 3] })
    const own = await cached(base, ["blocks.1.hook_mlp_out", "blocks.2.hook_mlp_in"])
    const [theirs, met] = [
      (await cached(source, ["blocks.1.hook_mlp_out"]))("blocks.1.hook_mlp_out"),
      own("blocks.2.hook_mlp_in"),
    ]
    for (let i = 0; i < met.data.length; i++)
      if ([0, 3].includes(Math.floor(i / 128) % 17))
        met.data[i]! += theirs.data[i]! - own("blocks.1.hook_mlp_out").data[i]!
    close(some, logit7((await mouse.run(base, { patch: { "blocks.2.hook_mlp_in": met } })).logits))
  })

  it("to the end beside another receiver is both: what the other makes of it, and the change itself", async () => {
    const path = { base, source, sender: { layer: 1, mlp: true }, metric } as const
    const end = `blocks.${nLayers - 1}.hook_resid_post`
    const [written, read] = ["blocks.1.hook_mlp_out", "blocks.2.hook_mlp_in"]
    const [ours, theirs] = [await cached(base, [written, read]), await cached(source, [written])]
    const moved = ({ shape, data }: Tensor) =>
      float32(
        shape,
        (data as Float32Array).map((x, i) => x + theirs(written).data[i]! - ours(written).data[i]!),
      )
    const met = await mouse.run(base, { patch: { [read]: moved(ours(read)) }, outputs: [end] })
    const post = moved(met[end]!)
    const want = logit7((await mouse.run(base, { patch: { [end]: post } })).logits)
    close(await pathPatch(mouse, { ...path, receivers: [{ layer: 2, input: "mlp" }, { input: "end" }] }), want)
  })

  it.each([
    [{ source: images(3, 1) }, /the source has 3 images .* expected 1 or the experiment's 2/],
    [{ tokens: [17] }, /token 17 of "blocks.0.attn.hook_z" does not exist; there are tokens 0 to 16/],
    [{ receivers: [] }, /no receiver was named; one is \{ layer, head, input/],
    [{ sender: { layer: 0 } }, /a sender is \{ layer, head \}, .*, got \{"layer":0\}/],
    [{ receivers: [{ layer: 1, input: "q" }] }, /a receiver is .*, got \{"layer":1,"input":"q"\}/],
    [{ receivers: [{ layer: 1, head: 0, input: "x" }] }, /a receiver is/],
    [{ base: float32([0, 1, 28, 28], []) }, /at least one image/],
  ])("refuses %#", async (changed, message) => {
    const path = { base, source, sender: { layer: 0, head: 0 }, receivers: [{ input: "end" }], metric }
    const error = await thrown(pathPatch(mouse, { ...path, ...changed } as Parameters<typeof pathPatch>[1]))
    expect([error.code, error.message]).toEqual(["E_INPUT", expect.stringMatching(message)])
  })

  it.each<[Sender, Receiver, RegExp]>([
    [{ layer: 2, head: 0 }, { layer: 1, head: 0, input: "q" }, /writes after it/],
    [{ layer: 1, mlp: true }, { layer: 1, input: "mlp" }, /writes after it/],
    [{ layer: 7, head: 0 }, { input: "end" }, /layers 0 to 3/],
    [{ layer: 0, head: 4 }, { input: "end" }, /heads 0 to 3/],
    [{ layer: 0, head: 0 }, { layer: 1, head: 9, input: "v" }, /heads 0 to 3/],
  ])("refuses %o to %o", async (sender, receiver, message) => {
    const error = await thrown(pathPatch(mouse, { base, source, sender, receivers: [receiver], metric }))
    expect(error.code).toBe("E_INPUT")
    expect(error.message).toMatch(message)
  })
})

describe("a circuit", () => {
  const [base, source] = [images(2, 8), images(2, 9)]

  it.each([{ layer: 4, head: 0 }, { layer: 0, head: 4 }, { layer: 9 }])("has no node %o", async (node) => {
    const error = await thrown(runCircuit(mouse, { base, source: { run: source }, metric, keep: [node] }))
    expect([error.code, error.message]).toEqual([
      "E_INPUT",
      `no node ${JSON.stringify(node)}: layers 0 to 3 have heads 0 to 3 and an MLP`,
    ])
  })

  it("of all nodes is the model, of none has every node patched", async () => {
    const { ranking, curve } = await findCircuit(mouse, { base, source: { run: source }, metric })
    expect(ranking.length).toBe(nLayers * (nHeads + 1))
    expect(curve.length).toBe(ranking.length + 1)
    expect(curve.at(-1)!.faithfulness).toBeCloseTo(1, 4)
    expect(curve[0]!.faithfulness).toBe(0)
    const names = Array.from({ length: nLayers }, (_, l) => [
      `blocks.${l}.attn.hook_z`,
      `blocks.${l}.hook_mlp_out`,
    ]).flat()
    const theirs = await cached(source, names)
    const { logits } = await mouse.run(base, { patch: Object.fromEntries(names.map((n) => [n, theirs(n)])) })
    close(await runCircuit(mouse, { base, source: { run: source }, metric, keep: [] }), logit7(logits))
    close(
      await runCircuit(mouse, { base, source: { run: source }, metric, keep: ranking.map((r) => r.node) }),
      await measure(mouse, base, metric),
    )
  })

  it("that was planted is found: two heads and an MLP write, the others write nothing", async () => {
    const planted = [{ layer: 0, head: 2 }, { layer: 1, head: 3 }, { layer: 2 }]
    const weights = new Map(mouse.weights)
    for (let layer = 0; layer < nLayers; layer++) {
      const heads = planted.flatMap((p) => (p.layer === layer && p.head !== undefined ? [p.head] : []))
      const out = copy(await mouse.weight(`blocks.${layer}.attn.out.weight`))
      const [d, width] = out.shape as readonly [number, number]
      const e = width / nHeads
      for (let i = 0; i < d * width; i++) if (!heads.includes(Math.floor((i % width) / e))) out.data[i] = 0
      weights.set(`blocks.${layer}.attn.out.weight`, { tensor: out, shape: out.shape })
      if (planted.some((p) => p.layer === layer && p.head === undefined)) continue
      const mlp = await mouse.weight(`blocks.${layer}.mlp.out.weight`)
      weights.set(`blocks.${layer}.mlp.out.weight`, {
        tensor: float32(mlp.shape, new Float32Array(size(mlp.shape))),
        shape: mlp.shape,
      })
    }
    const model = new HookedViT({ config: mouse.config, weights, runtime: mouse.runtime })
    const { ranking, curve } = await findCircuit(model, { base, source: { run: source }, metric, budget: 3, steps: 4 })
    const name = ({ layer, head }: { layer: number; head?: number }) => `${layer}.${head ?? "mlp"}`
    expect(
      ranking
        .slice(0, 3)
        .map((r) => name(r.node))
        .toSorted(),
    ).toEqual(planted.map(name).toSorted())
    for (const { effect } of ranking.slice(3)) expect(effect).toBeCloseTo(0, 6)
    expect(curve).toHaveLength(4)
    expect(curve[3]!.faithfulness).toBeCloseTo(1, 3)
  })
})
