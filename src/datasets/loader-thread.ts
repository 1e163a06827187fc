/** @file The thread in which the loader has images decoded. */
import { assemble } from "./batch.ts"
import { decodeSample } from "./encoded.ts"
import type { BatchRequest } from "./loader.ts"
import { serve } from "./thread.ts"

serve(async (request) => {
  const { indices, samples, ...changes } = request as BatchRequest
  const batch = await assemble(indices, (slot) => decodeSample(samples[slot]!), changes)
  return [batch, [batch.images.data.buffer as ArrayBuffer, batch.labels.data.buffer as ArrayBuffer]]
})
