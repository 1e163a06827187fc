/** @file What the child processes of jobs load: each kind of job and what does it. */
import type { JobContext } from "./child.ts"
import type { Job, PlanJob } from "./job.ts"

/** A job, or the question what jobs over a dataset will come to. */
export type Work = Job | { readonly kind: "plan"; readonly plan: PlanJob }

type Does<W extends Work> = (work: W, context: JobContext) => Promise<unknown>

const KINDS: { readonly [K in Work["kind"]]: Does<Extract<Work, { kind: K }>> } = {
  convert: async (job, context) => (await import("./convert-job.ts")).convertJob(job, context),
  activations: async (job, context) => (await import("./activations-job.ts")).activationsJob(job, context),
  plan: async ({ plan }) => (await import("./activations-job.ts")).planActivations(plan),
}

export default (work: Work, context: JobContext): Promise<unknown> => (KINDS[work.kind] as Does<Work>)(work, context)
