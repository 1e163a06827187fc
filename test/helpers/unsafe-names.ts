/** @file Names of files that escaped a folder once. */

/** The 13 of CVE-2026-15717, as the Hub clients test them. */
export const CVE_NAMES: readonly string[] = [
  "../evil",
  "folder/../../evil",
  "a\\..\\..\\evil",
  "folder/..\\evil",
  "/etc/evil",
  "C:\\Windows\\System32\\evil",
  "C:/Windows/System32/evil",
  "D:relative\\evil",
  "\\\\attacker\\share\\evil",
  "\\evil",
  "folder/C:\\Windows\\evil",
  "folder/\\\\attacker\\share\\evil",
  "folder/\\evil",
]
