/** @file `npm run bench:parity`: the table of docs/parity.md, the worst figure of each reference case. */
import { measure, PARITY_ROOTS, parityCases, parityTable, type ParityRow } from "../test/helpers/parity.ts"

for (const from of PARITY_ROOTS) {
  const rows: ParityRow[] = []
  for (const c of parityCases(from)) rows.push(await measure(c))
  if (!rows.length) continue
  console.log(`${from}\n\n${parityTable(rows)}\n`)
  for (const { name, problems } of rows) for (const problem of problems) console.error(`${name}: ${problem}`)
  if (rows.some((r) => r.problems.length)) process.exitCode = 1
}
