/** @file A thread of a job's process that ends it when the process that watches over it is no more: a job in an endless loop
 * hears of nothing else (https://nodejs.org/api/worker_threads.html). */
import { workerData } from "node:worker_threads"

/** Milliseconds between two looks. */
const LOOK = 250

// Who has lost its parent gets another.
setInterval(() => process.ppid !== workerData && process.kill(process.pid, "SIGKILL"), LOOK)
