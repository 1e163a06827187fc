/** @file Certificates for TLS servers of tests, encoded in plain code, for Node makes none
 * (https://www.rfc-editor.org/rfc/rfc5280#section-4.1). */
import { generateKeyPairSync, randomBytes, sign, type KeyObject } from "node:crypto"

export interface Certificate {
  readonly name: string
  /** In PEM, as its private key. */
  readonly cert: string
  readonly key: string
}

export interface CertificateOptions {
  /** Who signs it; by default its own key. */
  readonly issuer?: Certificate & { readonly privateKey: KeyObject }
  /** Host names that it is for; an authority is for none. */
  readonly hosts?: readonly string[]
  /** Days from now from which on it is valid, and at which it is no more. */
  readonly days?: readonly [from: number, to: number]
  /** What it may be used for. */
  readonly use?: "server" | "client"
  /** Has an extension that must be understood, and is by nobody. */
  readonly isStrange?: boolean
}

const der = (tag: number, ...parts: readonly Uint8Array[]): Buffer => {
  const body = Buffer.concat(parts)
  const { length } = body
  const size = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 255]
  return Buffer.concat([Buffer.from([tag, ...size]), body])
}
const sequence = (...parts: readonly Uint8Array[]): Buffer => der(0x30, ...parts)
const oid = (hex: string): Buffer => der(0x06, Buffer.from(hex, "hex"))
const bits = (bytes: Uint8Array): Buffer => der(0x03, Buffer.of(0), bytes)
const octets = (bytes: Uint8Array): Buffer => der(0x04, bytes)
const integer = (bytes: Uint8Array): Buffer => der(0x02, bytes)
const TRUE = der(0x01, Buffer.of(0xff))

const ECDSA_SHA256 = sequence(oid("2a8648ce3d040302"))
const [COMMON_NAME, ALT_NAME, CONSTRAINTS, USE] = ["550403", "551d11", "551d13", "551d25"].map(oid)
const STRANGE = oid("2b06010401ffffff7f01")
const USES = { server: oid("2b06010505070301"), client: oid("2b06010505070302") }

const nameOf = (name: string): Buffer =>
  sequence(der(0x31, sequence(COMMON_NAME!, der(0x0c, Buffer.from(name, "utf8")))))

/** YYMMDDHHMMSSZ, which is good up to the year 2049. */
const time = (days: number): Buffer => {
  const text = new Date(Date.now() + days * 24 * 3600 * 1000).toISOString().replace(/\..*|[-:T]/g, "")
  return der(0x17, Buffer.from(`${text.slice(2)}Z`))
}

export function makeCertificate(name: string, options: CertificateOptions = {}) {
  const { issuer, hosts = [], days = [-1, 1], use = "server", isStrange = false } = options
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" })
  const what = hosts.length
    ? [
        sequence(ALT_NAME!, octets(sequence(...hosts.map((host) => der(0x82, Buffer.from(host)))))),
        sequence(USE!, octets(sequence(USES[use]))),
        ...(isStrange ? [sequence(STRANGE, TRUE, octets(TRUE))] : []),
      ]
    : [sequence(CONSTRAINTS!, TRUE, octets(sequence(TRUE)))]
  const signed = sequence(
    der(0xa0, integer(Buffer.of(2))), // version 3
    integer(Buffer.concat([Buffer.of(1), randomBytes(8)])),
    ECDSA_SHA256,
    nameOf(issuer?.name ?? name),
    sequence(...days.map(time)),
    nameOf(name),
    publicKey.export({ type: "spki", format: "der" }),
    der(0xa3, sequence(...what)),
  )
  const bytes = sequence(signed, ECDSA_SHA256, bits(sign("sha256", signed, issuer?.privateKey ?? privateKey)))
  const lines = bytes.toString("base64").match(/.{1,64}/g)!
  const cert = ["-----BEGIN CERTIFICATE-----", ...lines, "-----END CERTIFICATE-----", ""].join("\n")
  return { name, cert, key: privateKey.export({ type: "pkcs8", format: "pem" }) as string, privateKey }
}
