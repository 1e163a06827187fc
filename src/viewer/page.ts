/** @file A view as one HTML file: page, style, script and data, with nothing to load and nothing else allowed to run. */
import { createHash } from "node:crypto"
import { readFile } from "node:fs/promises"
import { fileURLToPath } from "node:url"
import { readError } from "../files/system-errors.ts"
import { version } from "../version.ts"
import type { View } from "./data.ts"
import { style } from "./style.ts"

/** page/*.ts as the build makes one script of them (bundle.js): beside this module, or in dist for its source. */
const SCRIPT = fileURLToPath(
  new URL(import.meta.url.endsWith(".ts") ? "../../dist/lib/viewer/script.js" : "./script.js", import.meta.url),
)

/** The page; the same view gives the same bytes. Names in the view are shown as text, whatever they are. */
export async function viewHtml(view: View): Promise<string> {
  const script = await readFile(SCRIPT, "utf8").catch((e: unknown) => readError(e, SCRIPT))
  const policy = [
    "default-src 'none'",
    `script-src '${hash(script)}'`,
    `style-src '${hash(style)}'`,
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
  ].join("; ")
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="vit-prisma ${version}">
<title>${escaped(view.title)}</title>
<style>${style}</style>
</head>
<body>
${BODY}
<script type="application/json" id="view">${embedded(view)}</script>
<script>${script}</script>
</body>
</html>
`
}

const hash = (text: string): string => `sha256-${createHash("sha256").update(text).digest("base64")}`

const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
}
const escaped = (text: string): string => text.replace(/[&<>"']/g, (c) => ENTITIES[c]!)

/** No `<` is left that could end the element or begin a comment. */
const embedded = (view: View): string => JSON.stringify(view).replaceAll("<", "\\u003c")

const BODY = `<header class="top">
<div><h1 id="title"></h1><p id="model"></p></div>
<div class="tools">
<button id="theme" type="button" aria-label="Colours of the page: as the system"></button>
<button id="help-open" type="button" aria-label="Help and keys" title="Help and keys (?)">?</button>
</div>
</header>
<noscript><p class="fatal">This page draws with JavaScript, which is switched off here.</p></noscript>
<p id="fatal" class="fatal" role="alert" hidden></p>
<main id="main" hidden>
<div class="bar" role="toolbar" aria-label="What is shown">
<label class="field" id="show-field">Show<select id="show"></select></label>
<label class="field" id="direction-field">Direction<select id="direction"><option value="from">where the token looks</option><option value="to">who looks at the token</option></select></label>
<label class="field" id="scale-field">Colours<select id="scale"><option value="each">each map to its own largest</option><option value="shared">all maps to one scale</option></select></label>
<label class="field" id="layer-field">Layer<span class="row"><button id="play" type="button" aria-pressed="false" aria-label="Play over the layers" title="Play over the layers (space)"></button><input id="layer" type="range" step="1"><output id="layer-name"></output></span></label>
<label class="field" id="opacity-field">Opacity<input id="opacity" type="range" min="0" max="1" step="0.05" value="0.65" title="Of the map over the image"></label>
<button id="compare" type="button" aria-pressed="false" title="Two heads or two images side by side (c)">Compare</button>
</div>
<div class="stage" id="stage">
<div id="panels" class="panels"></div>
<section class="card" id="heads-card"><header><h2>All heads</h2><p id="heads-caption"></p></header><div class="scroll"><canvas id="heads" tabindex="0" role="img"></canvas></div></section>
<section class="card" id="pattern-card"><header><h2>Whole pattern</h2><p id="pattern-caption"></p></header><canvas id="pattern" tabindex="0" role="img"></canvas><div id="pattern-legend" class="legend"></div></section>
</div>
<div id="charts" class="charts"></div>
<details id="notes" open hidden><summary>Notes</summary><ul id="notes-list"></ul></details>
<p id="live" class="hidden" aria-live="polite"></p>
</main>
<footer>vit-prisma ${version}</footer>
<dialog id="help" aria-labelledby="help-title">
<h2 id="help-title">How to read this page</h2>
<p>Every square of the grid is one token of the model. Point at one, in an image or in the pattern, to see where each head looks from there; click to hold it. In all maps, special tokens stand as chips or as small squares above the patches.</p>
<dl id="keys"></dl>
<form method="dialog"><button>Close</button></form>
</dialog>`
