/** @file A million mutated safetensors files through the reader (figure G2). Once built
 * (`npx tsc -p bench/tsconfig.json`): `node dist/bench/fuzz-safetensors.js [count] [seed]`. */
import { readSafetensors } from "../src/tensor/safetensors.ts"
import { fuzz } from "../test/helpers/safetensors-fuzz.ts"

const count = Number(process.argv[2] ?? 1_000_000)
const seed = Number(process.argv[3] ?? Date.now() % 2 ** 31)
const start = performance.now()
const { accepted, codes, untyped, differences, slowest } = fuzz((bytes) => readSafetensors(bytes), count, seed)
const seconds = ((performance.now() - start) / 1000).toFixed(1)
console.log(`seed ${seed}: ${count} files in ${seconds} s, ${accepted} accepted, slowest ${slowest.toFixed(1)} ms`)
console.log(Object.fromEntries(codes))
for (const failure of [...untyped, ...differences]) console.error(failure)
if (untyped.length + differences.length > 0) process.exitCode = 1
