/** @file Time that this process has computed for: what else the machine does is not counted. */

/** Milliseconds of all cores, since the process began. */
export function cpuMs(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}
