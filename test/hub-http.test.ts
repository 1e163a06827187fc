/** @file The module that speaks HTTP to the Hub: what it tries again, when, where it follows, what it sends where. */
import { readdirSync, readFileSync } from "node:fs"
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { join, resolve } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { hubHttp, hubUrl, segments, type HubHttpOptions, type HubInit } from "../src/hub/http.ts"
import { fakeClock } from "./helpers/fake-clock.ts"
import { secretForms } from "./helpers/secret-forms.ts"
import { thrown } from "./helpers/thrown.ts"

const CANARY = "hf_canary-4f1d8c0b7e"
const HUB = "https://hub.test"

type Answer = Response | Error | (() => Response | Error)
interface Sent {
  readonly url: string
  readonly headers: Headers
  readonly init: RequestInit
}

/** A Hub client whose network is a list of answers, the last of which is given again and again. */
function client(answers: readonly Answer[], options: Partial<HubHttpOptions> = {}) {
  const sent: Sent[] = []
  const clock = fakeClock()
  const send = (async (input: string | URL | Request, init: RequestInit = {}) => {
    sent.push({ url: input instanceof Request ? input.url : String(input), headers: new Headers(init.headers), init })
    await Promise.resolve()
    const next = answers[Math.min(sent.length, answers.length) - 1]!
    const answer = typeof next === "function" ? next() : next
    if (answer instanceof Error) throw answer
    return answer.clone()
  }) as typeof fetch
  const waits: string[] = []
  const http = hubHttp({ endpoint: HUB, token: CANARY, clock, send, onWait: (text) => waits.push(text), ...options })
  return { http, sent, clock, waits }
}

/** As undici throws it. */
const broken = (code: string, message = code): Error =>
  new TypeError("fetch failed", { cause: Object.assign(new Error(message), { code }) })
const status = (code: number, headers: Record<string, string> = {}, body = ""): Response =>
  new Response(code === 204 || code === 304 ? null : body, { status: code, headers })
const fine = () => status(200, {}, '{"fine":true}')

/** Requests as the parts of the project make them. */
const REQUESTS: readonly (readonly [string, string, HubInit])[] = [
  ["HEAD of a file", `${HUB}/a/b/resolve/main/x`, { method: "HEAD" }],
  ["GET of a file", `${HUB}/a/b/resolve/main/x`, {}],
  ["list of files", `${HUB}/api/models/a/b/tree/main?recursive=true`, {}],
  ["preupload", `${HUB}/api/models/a/b/preupload/main`, { method: "POST", body: "{}" }],
  ["PUT of a part", "https://store.test/part?signature=1", { method: "PUT", body: new Blob(["part"]) }],
  ["commit", `${HUB}/api/models/a/b/commit/main`, { method: "POST", body: "{}" }],
]
const RETRIED: readonly (readonly [string, Answer])[] = [
  ...[408, 429, 500, 502, 503, 504].map((code) => [String(code), status(code)] as const),
  ["a reset", broken("ECONNRESET")],
  ["a time-out", broken("UND_ERR_HEADERS_TIMEOUT")],
  ["a broken pipe", broken("EPIPE")],
  ["a closed socket", broken("UND_ERR_SOCKET", "other side closed")],
]

describe.each(REQUESTS)("%s", (_, url, init) => {
  it.each(RETRIED)("after %s is tried again, up to five times, after 1, 2, 4, 8 and 8 s", async (__, failure) => {
    for (let failures = 1; failures <= 5; failures++) {
      const { http, sent, clock, waits } = client([...Array<Answer>(failures).fill(failure), fine()])
      expect((await http.request(url, init)).status).toBe(200)
      expect(sent).toHaveLength(failures + 1)
      expect(clock.slept).toEqual([1000, 2000, 4000, 8000, 8000].slice(0, failures))
      expect(waits).toHaveLength(failures)
    }
    const { http, sent } = client([failure])
    const error = await thrown(http.request(url, init))
    expect(error.code).toMatch(/^E_(HUB_UNAVAILABLE|HUB_RATE_LIMIT|HUB_TIMEOUT|NETWORK)$/)
    expect(error.retryable).toBe(true)
    expect(sent).toHaveLength(6)
  })

  it.each([400, 401, 403, 404, 409, 410, 412, 413, 422, 451])("after %i is not tried again", async (code) => {
    const { http, sent, clock } = client([status(code), fine()])
    expect((await http.fetch(url, init)).status).toBe(code)
    expect(sent).toHaveLength(1)
    await thrown(client([status(code)]).http.request(url, init))
    expect(clock.slept).toEqual([])
  })
})

describe("waits", () => {
  const wait = async (headers: Record<string, string>, code = 429, random = 0) => {
    const clock = fakeClock(random)
    const { http } = client([status(code, headers), fine()], { clock })
    await http.request(`${HUB}/x`)
    return clock.slept
  }
  it.each([0, 0.5, 0.999])("are as long as Retry-After says, up to a second more (jitter %f)", async (random) => {
    for (const seconds of [0, 1, 2, 7, 60, 119]) {
      const [ms, ...more] = await wait({ "retry-after": String(seconds) }, seconds % 2 ? 503 : 429, random)
      expect(more).toEqual([])
      expect(ms).toBeGreaterThanOrEqual(seconds * 1000)
      expect(ms).toBeLessThanOrEqual(seconds * 1000 + 2000)
    }
  })
  it("are until the date of Retry-After", async () => {
    const date = new Date(fakeClock().now() + 5000).toUTCString()
    const [ms] = await wait({ "retry-after": date })
    expect(ms).toBeGreaterThanOrEqual(5000)
    expect(ms).toBeLessThanOrEqual(7000)
    expect(await wait({ "retry-after": new Date(0).toUTCString() })).toEqual([0])
    // asctime's form, which names no zone, is GMT (RFC 9110).
    const [, day, month, year, time] = date.split(" ")
    const asctime = `${date.slice(0, 3)} ${month} ${day!.replace(/^0/, " ")} ${time} ${year}`
    expect(await wait({ "retry-after": asctime })).toEqual([ms])
  })
  it.each(["soon", "-5", "+2", "2, 3", "2000-01-01"])("are the usual ones where Retry-After is %j", async (after) => {
    expect(await wait({ "retry-after": after })).toEqual([1000])
  })
  it("are as RateLimit says, where nothing is left; of two wishes the longer counts", async () => {
    expect(await wait({ ratelimit: '"api";r=0;t=2' })).toEqual([2000])
    expect(await wait({ ratelimit: '"api"; r=0; t=2', "retry-after": "4" })).toEqual([4000])
    expect(await wait({ ratelimit: '"api";r=7;t=55' })).toEqual([1000])
  })
  it.each<[string, number]>([
    ['"api";t=2;r=0', 2],
    ['"api";r=0;pk=:YQ==:;t=2', 2],
    ["api; r=0; t=2", 2],
    ['"pages";r=0;t=2, "api";r=0;t=3', 3],
    ['"pages";r=5;t=200,"api";t=2;r=0', 2],
    ['"api";r=05;t=9', 1],
  ])("for a RateLimit of %s (HD-04) are %f s", async (ratelimit, seconds) => {
    expect(await wait({ ratelimit })).toEqual([1000 * seconds])
  })
  it("of more than 120 s in all are refused at once", async () => {
    const long = client([status(429, { "retry-after": "3600" })])
    const error = await thrown(long.http.request(`${HUB}/x`))
    expect(error).toMatchObject({ code: "E_HUB_RATE_LIMIT", retryable: true })
    expect(error.message).toContain("asks to wait 3600 s")
    expect(long.clock.slept).toEqual([])
    expect(error.message).toContain("--wait 3600")
    const patient = client([status(429, { "retry-after": "3600" }), fine()], { wait: 3_700_000 })
    expect((await patient.http.request(`${HUB}/x`)).status).toBe(200)
    expect(patient.clock.slept).toEqual([3_600_000])
    const several = client([status(429, { "retry-after": "50" })])
    await thrown(several.http.request(`${HUB}/x`))
    expect(several.clock.slept).toEqual([50_000, 50_000])
  })
  it("have a jitter of a quarter at most, and end with the caller's signal", async () => {
    const clock = fakeClock(0.999)
    await thrown(client([status(503)], { clock }).http.request(`${HUB}/x`))
    for (const [i, ms] of clock.slept.entries()) expect(ms / Math.min(8000, 1000 * 2 ** i)).toBeCloseTo(1.25, 2)
    const stop = new AbortController()
    const { clock: real } = await import("../src/hub/clock.ts")
    const work = client([status(503)], { clock: real, onWait: () => stop.abort() }).http
    expect((await thrown(work.request(`${HUB}/x`, { signal: stop.signal }))).code).toBe("E_INTERRUPTED")
  })
  it("are none for a body that is a stream, or where one try was asked for", async () => {
    const body = () => new Blob(["x"]).stream()
    const one = client([status(503), fine()])
    await thrown(one.http.request(`${HUB}/x`, { method: "POST", body: body(), duplex: "half" }))
    await thrown(client([status(503)]).http.request(`${HUB}/x`, { tries: 1 }))
    expect(one.clock.slept).toEqual([])
  })
})

describe("an answer that is no success", () => {
  const refused = async (response: Response, options: Partial<HubHttpOptions> = {}, repo: string | undefined = "a/b") =>
    thrown(
      client([response], options).http.request(`${HUB}/api/models/a/b/revision/main?x=1`, { ...(repo && { repo }) }),
    )
  const coded = (code: number, error: string) => status(code, { "x-error-code": error })
  const anonymous = { token: undefined }

  it.each<[string, Response, Partial<HubHttpOptions>, string, RegExp]>([
    ["401 for a token", status(401, {}, '{"error":"Invalid credentials in Authorization header"}'), {}, "E_HUB_AUTH", /token was refused.*HF_TOKEN/],
    ["401 Invalid credentials for nobody", status(401, {}, '{"error":"Invalid credentials"}'), anonymous, "E_HUB_AUTH", /wants a token/],
    ["401 for what nobody may know of", status(401, {}, '{"error":"Invalid username or password."}'), anonymous, "E_HUB_NOT_FOUND", /private.*HF_TOKEN/],
    ["403", status(403), {}, "E_HUB_AUTH", /no right/],
    ["403 gated", coded(403, "GatedRepo"), {}, "E_HUB_GATED", /https:\/\/hub\.test\/a\/b with the account/],
    ["401 gated", coded(401, "GatedRepo"), anonymous, "E_HUB_GATED", /https:\/\/hub\.test\/a\/b and give a token/],
    ["404 of a repo", coded(404, "RepoNotFound"), {}, "E_HUB_NOT_FOUND", /no such repo/],
    ["404 of a revision", coded(404, "RevisionNotFound"), {}, "E_HUB_NOT_FOUND", /no such revision/],
    ["404 of a file", coded(404, "EntryNotFound"), {}, "E_HUB_NOT_FOUND", /no such file/],
    ["404 of anything", status(404), {}, "E_HUB_NOT_FOUND", /nothing at this address/],
    ["409", status(409), {}, "E_HUB_CONFLICT", /conflict/],
    ["412", status(412), {}, "E_HUB_CONFLICT", /changed meanwhile/],
    ["422", status(422, {}, '{"error":"no"}'), {}, "E_HUB_PROTOCOL", /says "no"/],
    ["408 at last", status(408), {}, "E_HUB_UNAVAILABLE", /HTTP 408/],
    ["503 at last", status(503), {}, "E_HUB_UNAVAILABLE", /HTTP 503/],
    ["429 at last", status(429), {}, "E_HUB_RATE_LIMIT", /HTTP 429/],
  ])("%s", async (_, response, options, code, message) => {
    const error = await refused(response, options)
    expect(error.code).toBe(code)
    expect(error.message).toMatch(message)
    expect(error).toMatchObject({ repo: "a/b", url: `${HUB}/api/models/a/b/revision/main` })
    expect(error.exitCode).toBe(code === "E_HUB_CONFLICT" ? 6 : 4)
    expect(error.message).not.toMatch(/\?x=1/)
  }) // prettier-ignore

  it("is told in the server's words, one line, without queries, tokens and pages", async () => {
    const words = `bad\n${CANARY} at https://s.test/x?X-Amz-Signature=abc /y?Signature=d //u:Signature@z ${encodeURIComponent(CANARY)} ${btoa(CANARY)}`
    for (const response of [status(400, {}, JSON.stringify({ error: words })), status(400, { "x-error-message": words.replace("\n", " ") }), status(400, {}, words)]) {
      const { message } = await refused(response)
      expect(message).toContain("https://s.test/x")
      expect(message).not.toMatch(new RegExp(`${CANARY}|${btoa(CANARY)}|Signature`))
    }
    expect((await refused(status(400, {}, "<html>login</html>"))).message).not.toContain("html")
    expect((await refused(status(400, {}, "x".repeat(1e6)))).message.length).toBeLessThan(600)
  }) // prettier-ignore

  it.each([
    ["a name that nobody knows", "ENOTFOUND", "E_NETWORK", 3],
    ["names that cannot be asked for", "EAI_AGAIN", "E_NETWORK", 6],
    ["a refused connection", "ECONNREFUSED", "E_NETWORK", 6],
    ["a certificate of another name", "ERR_TLS_CERT_ALTNAME_INVALID", "E_NETWORK", 1],
    ["a certificate of nobody", "SELF_SIGNED_CERT_IN_CHAIN", "E_NETWORK", 1],
    ["an old certificate", "CERT_HAS_EXPIRED", "E_NETWORK", 1],
    ["no answer", "UND_ERR_CONNECT_TIMEOUT", "E_HUB_TIMEOUT", 6],
    ["what is no HTTP", "HPE_INVALID_CONSTANT", "E_HUB_PROTOCOL", 6],
    ["a header that none may send", "UND_ERR_INVALID_ARG", "E_HUB_PROTOCOL", 1],
  ])("%s (%s) is %s after %i tries", async (_, system, code, tries) => {
    const { http, sent } = client([broken(system, `about ${CANARY}`)])
    const error = await thrown(http.request(`${HUB}/x?secret=1`))
    expect(error.code).toBe(code)
    expect(error.message).toContain(system)
    expect(error.message).not.toMatch(new RegExp(`${CANARY}|secret`))
    expect(sent).toHaveLength(tries)
  })

  it("of OpenSSL is the same twice (I8), whatever thread it speaks of", async () => {
    const said = "error:0A00010B:SSL routines:ssl3_get_record:wrong version number"
    const messages = ["80FCCD71A67F0000", "40E7B9A1D37F0000"].map(async (thread) => {
      const { http } = client([broken("ERR_SSL_WRONG_VERSION_NUMBER", `${thread}:${said}`)])
      return (await thrown(http.request(`${HUB}/x`))).message
    })
    expect(new Set(await Promise.all(messages)).size).toBe(1)
  })

  it.each([{ "x a": "b" }, { a: "b\r\nc: d" }])(
    "to a request with the headers %j that a store names is none",
    async (headers) => {
      const { http, sent, clock } = client([fine()])
      expect((await thrown(http.request("https://store.test/x", { headers }))).code).toBe("E_HUB_PROTOCOL")
      expect([sent, clock.slept]).toEqual([[], []])
    },
  )

  it("is one line of E_HUB_PROTOCOL where JSON was expected", async () => {
    for (const body of ["<html>log in</html>", "", "{", "\u0000", `<b>${CANARY}`, `${"x".repeat(30)}${CANARY}`]) {
      const { http } = client([status(200, { "content-type": "text/html" }, body)])
      const error = await thrown(http.json(`${HUB}/x`))
      expect(error.code).toBe("E_HUB_PROTOCOL")
      expect(error.message).not.toContain("hf_")
    }
    const { http } = client([() => status(200, {}, JSON.stringify("x".repeat(2000)))])
    expect(await http.json(`${HUB}/x`)).toHaveLength(2000)
    expect((await thrown(http.json(`${HUB}/x`, { maxBytes: 1999 }))).message).toContain("more than 1999 bytes")
  })

  it("offline is refused before a socket is made", async () => {
    const { http, sent } = client([fine()], { offline: true })
    const error = await thrown(http.request(`${HUB}/x?y=1`, { repo: "a/b" }))
    expect(error).toMatchObject({ code: "E_OFFLINE", url: `${HUB}/x`, repo: "a/b" })
    expect(sent).toEqual([])
  })
})

describe("a redirect", () => {
  const to = (location: string, code = 302) => status(code, { location })
  const through = (locations: readonly string[], start = `${HUB}/a/b/resolve/main/x`, options: Partial<HubHttpOptions> = {}, init: HubInit = {}) => {
    const { http, sent } = client([...locations.map((l) => to(l)), fine()], options)
    return { work: http.request(start, init), sent }
  } // prettier-ignore
  const LOCAL = "http://127.0.0.1:4000"

  it.each<[string, string[], string[]]>([
    ["to a store", ["https://cdn.test/x?sig=1"], ["https://cdn.test/x?sig=1"]],
    ["inside the Hub", ["/c/d/resolve/main/x"], [`${HUB}/c/d/resolve/main/x`]],
    ["relative to its folder", ["y"], [`${HUB}/a/b/resolve/main/y`]],
    ["to another port", [`${HUB}:8443/x`], [`${HUB}:8443/x`]],
    ["to a subdomain", ["https://evil.hub.test/x"], ["https://evil.hub.test/x"]],
    ["to a name that begins alike", ["https://hub.test.evil.test/x"], ["https://hub.test.evil.test/x"]],
    ["through two stores", ["https://one.test/x", "https://two.test/x"], ["https://one.test/x", "https://two.test/x"]],
    ["away and back", ["https://one.test/x", `${HUB}/y`], ["https://one.test/x", `${HUB}/y`]],
    ["without a protocol", ["//cdn.test/x"], ["https://cdn.test/x"]],
    ["with capitals", ["HTTPS://CDN.TEST/x"], ["https://cdn.test/x"]],
    ["to a trailing dot", ["https://hub.test./x"], ["https://hub.test./x"]],
    ["20 times", Array.from({ length: 20 }, (_, i) => `https://h${i}.test/`), Array.from({ length: 20 }, (_, i) => `https://h${i}.test/`)],
  ])("%s is followed, and the token goes to the Hub alone", async (_, locations, urls) => {
    const { work, sent } = through(locations, undefined, undefined, { headers: { cookie: "session=1" } })
    expect((await work).ok).toBe(true)
    expect(sent.map((s) => s.url).slice(1)).toEqual(urls)
    for (const [i, { url, headers }] of sent.entries()) {
      const own = new URL(url).origin === HUB
      expect(headers.get("authorization"), url).toBe(own ? `Bearer ${CANARY}` : null)
      if (i && !own) expect(headers.get("cookie")).toBe(null)
      if (!own) expect(JSON.stringify([...headers])).not.toContain(CANARY)
    }
  }) // prettier-ignore

  it.each<[string, string]>([
    ["off https", "http://cdn.test/x"],
    ["off https on the Hub itself", "http://hub.test/x"],
    ["to a file", "file:///etc/passwd"],
    ["to data", "data:text/plain,x"],
    ["to ftp", "ftp://cdn.test/x"],
    ["to a cloud's metadata", "https://169.254.169.254/latest"],
    ["to it in one number", "https://2852039166/latest"],
    ["to it in hex", "https://0xA9FEA9FE/latest"],
    ["to it as IPv6", "https://[::ffff:169.254.169.254]/latest"],
    ["to it as IPv6 of another form", "https://[::169.254.169.254]/latest"],
    ["to it by 6to4", "https://[2002:a9fe:a9fe::]/latest"],
    ["to it by Teredo", "https://[2001:0:a9fe:a9fe::]/latest"],
    ["to AWS's own", "https://[fd00:ec2::254]/latest"],
    ["to Google's by name", "https://metadata.google.internal/"],
    ["to this machine", "https://127.0.0.1/x"],
    ["to this machine by name", "https://localhost:9200/"],
    ["to this machine as IPv6", "https://[::1]/"],
    ["to a private network", "https://10.0.0.8/x"],
    ["to a home's", "https://192.168.1.1/"],
    ["to a carrier's", "https://100.64.0.1/"],
    ["with a user name", "https://user:secret@cdn.test/x"],
    ["to nothing", ""],
    ["to what is no address", "https://"],
  ])("%s is refused", async (_, location) => {
    const { work, sent } = through([location])
    const error = await thrown(work)
    expect(error.code).toBe("E_HUB_PROTOCOL")
    expect(error.message).not.toContain("secret")
    expect(sent).toHaveLength(1)
  })

  it("in a circle, or for the 21st time, is refused", async () => {
    expect((await thrown(through([`${HUB}/a/b/resolve/main/x`]).work)).message).toContain("circle")
    expect((await thrown(through(["https://one.test/", "https://two.test/", "https://one.test/"]).work)).message).toContain("circle")
    const many = through(Array.from({ length: 21 }, (_, i) => `https://h${i}.test/`))
    expect((await thrown(many.work)).message).toContain("more than 20 times")
    expect(many.sent).toHaveLength(21)
  }) // prettier-ignore

  it("on http is followed from loopback to loopback, and inside one host", async () => {
    const local = { endpoint: LOCAL }
    expect((await through(["http://127.0.0.1:5000/x"], `${LOCAL}/y`, local).work).ok).toBe(true)
    expect((await through(["http://localhost:5000/x"], `${LOCAL}/y`, local).work).ok).toBe(true)
    expect((await through(["https://cdn.test/x"], `${LOCAL}/y`, local).work).ok).toBe(true)
    expect((await thrown(through(["http://10.0.0.1/x"], `${LOCAL}/y`, local).work)).code).toBe("E_HUB_PROTOCOL")
    const plain = { endpoint: "http://hub.lan:80" }
    expect((await through(["/y"], "http://hub.lan/x", plain).work).ok).toBe(true)
    expect((await thrown(through(["http://other.lan/y"], "http://hub.lan/x", plain).work)).code).toBe("E_HUB_PROTOCOL")
  })

  it("is given back where it shall not be followed, or not off the Hub", async () => {
    const { http, sent } = client([to("/y"), to("https://cdn.test/x"), fine()])
    const response = await http.fetch(`${HUB}/x`, { follow: "own", method: "HEAD" })
    expect([response.status, response.headers.get("location")]).toEqual([302, "https://cdn.test/x"])
    expect(sent.map((s) => s.url)).toEqual([`${HUB}/x`, `${HUB}/y`])
    expect((await client([to("/y")]).http.fetch(`${HUB}/x`, { follow: "none" })).status).toBe(302)
  })

  it("of a POST keeps method and body with 307 and 308, and is refused else", async () => {
    for (const code of [307, 308]) {
      const { http, sent } = client([to("/y", code), fine()])
      await http.request(`${HUB}/x`, { method: "POST", body: "{}" })
      expect(sent[1]!.init).toMatchObject({ method: "POST", body: "{}" })
    }
    for (const code of [301, 302, 303]) {
      const { http } = client([to("/y", code), fine()])
      expect((await thrown(http.request(`${HUB}/x`, { method: "POST", body: "{}" }))).code).toBe("E_HUB_PROTOCOL")
    }
  })
})

describe("the token", () => {
  it("that a caller put into headers for another host is taken out, other hosts' own stay", async () => {
    const { http, sent } = client([fine()])
    await http.request("https://cas.test/x", { headers: { authorization: `Bearer ${CANARY}`, "x-a": `b ${CANARY}` } })
    await http.request("https://cas.test/x", { headers: { authorization: "Bearer xet-token" } })
    await http.request(`${HUB}/x`, { headers: { authorization: `Bearer ${CANARY}` } })
    await http.fetch(new Request(`${HUB}/x`, { headers: { "x-own": "1" } }))
    expect(sent.map((s) => [s.headers.get("authorization"), s.headers.get("x-a") ?? s.headers.get("x-own")])).toEqual([
      [null, null],
      ["Bearer xet-token", null],
      [`Bearer ${CANARY}`, null],
      [`Bearer ${CANARY}`, "1"],
    ])
  })
  it("in the headers for another host is taken out in whatever form", async () => {
    const token = "hf_can~~~ary+4f1d?8c=0b7e"
    const { http, sent } = client([fine()], { token })
    for (const form of [...secretForms(token), btoa(`user:${token}`), btoa(`us:${token}`), btoa(`u:${token}`)]) {
      await http.request("https://cas.test/x", { headers: { "x-a": `Basic ${form}` } })
      expect(sent.at(-1)!.headers.get("x-a"), form).toBe(null)
    }
  })
  it("that a Hub says back is not said on, in whatever form, nor its start where the text is cut off", async () => {
    const token = "hf_can~~~ary+4f1d?8c=0b7e"
    for (const form of secretForms(token)) {
      // An error's message shows 120 characters of a foreign text.
      for (let before = 0; before < 119; before += before ? 3 : 119 - Math.min(118, form.length)) {
        const text = `${"x".repeat(before)} ${form}`
        const { http } = client([status(403, {}, JSON.stringify({ error: text }))], { token })
        const errors = [
          await thrown(http.request(`${HUB}/x`)),
          await thrown(client([status(403, { "x-error-message": text })], { token }).http.request(`${HUB}/x`)),
          await thrown(client([status(200, {}, text)], { token }).http.json(`${HUB}/x`)),
        ]
        for (const { message } of errors) expect(message).not.toContain(form.slice(0, 20))
      }
    }
    const long = `hf_${"a1+/".repeat(2400)}`
    for (const text of [long, btoa(`user:${long}`).slice(7), encodeURIComponent(long)]) {
      const { http } = client([status(403, {}, JSON.stringify({ error: `Bad ${text}` }))], { token: long })
      expect((await thrown(http.request(`${HUB}/x`))).message).not.toContain(text.slice(0, 60))
    }
    const short = client([status(403, {}, JSON.stringify({ error: `Bad ${token.slice(0, 7)}` }))], { token })
    expect((await thrown(short.http.request(`${HUB}/x`))).message).toContain('"Bad hf_can~"')
  })
  it("is sent to an endpoint below a path, and not where there is none", async () => {
    const below = client([fine()], { endpoint: `${HUB}/mirror` })
    await below.http.request(hubUrl(below.http.endpoint, "api", ...segments("a/b c"), "refs/pr/1"))
    expect(below.sent[0]!.url).toBe(`${HUB}/mirror/api/a/b%20c/refs%2Fpr%2F1`)
    expect(below.sent[0]!.headers.get("authorization")).toContain(CANARY)
    const nobody = client([fine()], { token: undefined })
    await nobody.http.request(`${HUB}/x`)
    expect(nobody.sent[0]!.headers.has("authorization")).toBe(false)
    expect(nobody.sent[0]!.headers.get("user-agent")).toMatch(/^vit-prisma\/\d/)
  })
})

describe("a real server", () => {
  const servers: ReturnType<typeof createServer>[] = []
  afterAll(() => servers.forEach((s) => s.closeAllConnections() ?? s.close()))
  const serve = async (answer: (request: IncomingMessage, response: ServerResponse) => void) => {
    const server = createServer(answer)
    servers.push(server)
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done))
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }
  const reading = async (work: Promise<Response>) => (await work).arrayBuffer()

  it("that never answers is given up after the stall time, five times, in two minutes", async () => {
    let asked = 0
    const endpoint = await serve(() => void asked++)
    const clock = fakeClock()
    // Time passes while the request waits.
    const ticking = setInterval(() => clock.pass(5000), 5)
    const began = clock.now()
    const error = await thrown(hubHttp({ endpoint, clock }).request(`${endpoint}/x`))
    clearInterval(ticking)
    expect([error.code, asked]).toEqual(["E_HUB_TIMEOUT", 5])
    expect(clock.now() - began).toBeLessThanOrEqual(120_000)
  })

  it.each<[string, (response: ServerResponse) => void, number]>([
    ["stands still after a byte", (r) => r.write("x"), 45_000],
    ["comes byte by byte, each just before half the time is over", (r) => { const t = setInterval(() => r.write("x"), 29); r.on("close", () => clearInterval(t)) }, 45_000],
    ["drips", (r) => { const t = setInterval(() => r.write("x"), 5); r.on("close", () => clearInterval(t)) }, 45_000],
  ])("whose body %s is given up in 45 s", async (_, body, limit) => {
    const endpoint = await serve((__, response) => {
      response.writeHead(200)
      body(response)
    })
    const clock = fakeClock()
    const response = await hubHttp({ endpoint, clock }).request(`${endpoint}/x`)
    const began = clock.now()
    const ticking = setInterval(() => clock.pass(2500), 5)
    const error = await thrown(response.text())
    clearInterval(ticking)
    expect(error.code).toBe("E_HUB_TIMEOUT")
    expect(clock.now() - began).toBeLessThanOrEqual(limit)
  }) // prettier-ignore

  it.each([5000, 9000])("whose list drips a byte every %i ms is asked for again, and given up within two minutes (HD-13)", async (ms) => {
    for (const jitter of [0, 0.999]) {
      const clock = fakeClock(jitter)
      const began = clock.now()
      const drip = () => {
        const over = new AbortController()
        const pull = (controller: ReadableStreamDefaultController<Uint8Array>) => {
          for (let left = ms; left > 0 && !over.signal.aborted; left -= 1000) clock.pass(1000)
          if (!over.signal.aborted) controller.enqueue(Buffer.from("["))
        }
        const cancel = () => over.abort()
        return Promise.resolve(new Response(new ReadableStream({ pull, cancel }, { highWaterMark: 0 })))
      }
      const http = hubHttp({ endpoint: HUB, clock, send: drip })
      const error = await thrown(http.json(`${HUB}/x`))
      expect(error.code).toBe("E_HUB_TIMEOUT")
      expect(clock.slept.length).toBeGreaterThan(1)
      expect(clock.now() - began).toBeLessThanOrEqual(120_000)
    }
  }) // prettier-ignore

  it("whose body is cut is an error of the body, and one that is too large too", async () => {
    const endpoint = await serve((request, response) => {
      response.writeHead(200, request.url === "/cut" ? { "content-length": "100" } : {})
      if (request.url === "/cut") response.write("x".repeat(10), () => setTimeout(() => response.destroy(), 5))
      else response.end("x".repeat(1000))
    })
    const http = hubHttp({ endpoint })
    expect(await thrown(reading(http.request(`${endpoint}/cut`)))).toMatchObject({ code: "E_NETWORK", retryable: true })
    expect((await thrown(reading(http.request(`${endpoint}/all`, { maxBytes: 999 })))).code).toBe("E_HUB_PROTOCOL")
    expect(await reading(http.request(`${endpoint}/all`, { maxBytes: 1000 }))).toHaveProperty("byteLength", 1000)
  })

  it("whose body comes no further ends with the caller's signal, also where fetch does not see to it", async () => {
    const silent = (() => Promise.resolve(new Response(new ReadableStream()))) as typeof fetch
    const http = hubHttp({ endpoint: HUB, send: silent })
    const stop = new AbortController()
    const response = await http.request(`${HUB}/x`, { signal: stop.signal })
    const body = thrown(response.text())
    stop.abort()
    expect((await body).code).toBe("E_INTERRUPTED")
    const early = await http.request(`${HUB}/x`, { signal: stop.signal })
    expect((await thrown(early.text())).code).toBe("E_INTERRUPTED")
  })

  it("gets a Blob as it is, with its length, and no second time after a redirect", async () => {
    const got: [string | undefined, number][] = []
    const endpoint = await serve((request, response) => {
      const parts: Buffer[] = []
      request.on("data", (part: Buffer) => parts.push(part))
      request.on("end", () => {
        got.push([request.headers["content-length"], Buffer.concat(parts).length])
        response.writeHead(request.url === "/away" ? 307 : 200, { location: "/x" }).end()
      })
    })
    const http = hubHttp({ endpoint })
    const body = new Blob([new Uint8Array(300_000), "end"])
    expect((await http.request(`${endpoint}/x`, { method: "PUT", body })).status).toBe(200)
    expect(got).toEqual([["300003", 300_003]])
    const error = await thrown(http.request(`${endpoint}/away`, { method: "PUT", body }))
    expect(error.code).toBe("E_HUB_PROTOCOL")
    expect(got).toHaveLength(2)
  })

  it("is spoken to by one file of src/hub", () => {
    const folder = resolve(import.meta.dirname, "../src/hub")
    const speaks = (text: string) =>
      /(?<![.\w])fetch\b\)?\s*\(|\.fetch = |"(node:)?(https?|net|tls|http2|undici)"/.test(text)
    const speakers = readdirSync(folder).filter((name) => speaks(readFileSync(join(folder, name), "utf8")))
    expect(speakers).toEqual(["http.ts", "redirects.ts"])
    expect(readFileSync(join(folder, "redirects.ts"), "utf8").match(/import .*"node:net"/g)).toEqual([
      'import { isIP } from "node:net"',
    ])
    expect(["await fetch(url)", 'import http from "node:http"'].map(speaks)).toEqual([true, true])
  })
})
