/** @file The forms in which a server may say a secret back. */

/** What of a text's base64 is the secret's alone, which stands in it after so many bytes: what two such texts have in common. */
function inBase64(secret: string, before: number): string {
  const [a, b] = [0x00, 0xff].map((byte) => {
    const other = Buffer.alloc(3, byte)
    return Buffer.concat([other.subarray(0, before), Buffer.from(secret), other]).toString("base64")
  })
  let [longest, run] = ["", ""]
  for (const [i, c] of a!.split("").entries()) {
    run = c === b![i] ? run + c : ""
    if (run.length > longest.length) longest = run
  }
  return longest
}

/** Plain, and inside base64 of both alphabets; each also escaped for a URL, once and twice. */
export function secretForms(secret: string): string[] {
  const base64 = [0, 1, 2].map((before) => inBase64(secret, before))
  const forURLs = base64.map((text) => text.replaceAll("+", "-").replaceAll("/", "_"))
  const forms = [secret, ...base64, ...forURLs]
  const escaped = forms.map(encodeURIComponent)
  return [...new Set([...forms, ...escaped, ...escaped.map(encodeURIComponent)])]
}
