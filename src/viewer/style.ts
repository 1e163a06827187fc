/** @file The page's style sheet: light and dark, wide and narrow. */
export const style = `
:root { color-scheme: light dark;
  --ground: #f6f6f4; --card: #ffffff; --ink: #1d1f23; --soft: #4a4e57; --faint: #6b7079; --line: #dcdde0; --control: #f1f1ef;
  --accent: #0b62c4; --on-accent: #ffffff; --mark: #ff9f1a; --bar: #3f7fcb; --positive: #d2691e; }
@media (prefers-color-scheme: dark) { :root:not([data-theme="light"]) {
  --ground: #131418; --card: #1c1e23; --ink: #eceef1; --soft: #bcc0c8; --faint: #969ba5; --line: #33363d; --control: #272a30;
  --accent: #6db1ff; --on-accent: #0c1420; --mark: #ffb13d; --bar: #5a9be6; --positive: #e8935a; } }
:root[data-theme="light"] { color-scheme: light }
:root[data-theme="dark"] { color-scheme: dark;
  --ground: #131418; --card: #1c1e23; --ink: #eceef1; --soft: #bcc0c8; --faint: #969ba5; --line: #33363d; --control: #272a30;
  --accent: #6db1ff; --on-accent: #0c1420; --mark: #ffb13d; --bar: #5a9be6; --positive: #e8935a; }
*, *::before, *::after { box-sizing: border-box }
[hidden] { display: none !important }
body { margin: 0 auto; max-width: 1560px; padding: 20px clamp(12px, 2.4vw, 32px) 12px; background: var(--ground); color: var(--ink);
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; font-variant-numeric: tabular-nums }
h1, h2, p, dl, dd, ol, ul { margin: 0 }
h1 { font-size: 21px; line-height: 1.25; font-weight: 650; letter-spacing: -0.01em; overflow-wrap: anywhere }
h2 { font-size: 14px; font-weight: 650 }
em { font-style: normal }
.top { display: flex; justify-content: space-between; gap: 16px; align-items: start; margin-bottom: 14px }
#model { color: var(--faint); overflow-wrap: anywhere }
.tools { display: flex; gap: 6px }
button, select { font: inherit; color: inherit; background: var(--control); border: 1px solid var(--line); border-radius: 7px; padding: 4px 10px;
  min-height: 32px; cursor: pointer }
select { max-width: 100%; padding-right: 6px }
button:hover, select:hover { border-color: var(--faint) }
button[aria-pressed="true"] { background: var(--accent); color: var(--on-accent); border-color: var(--accent) }
.tools button, #play { width: 32px; padding: 0; line-height: 1 }
#play { font-size: 11px }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
input[type="range"] { accent-color: var(--accent); width: 130px; margin: 0 }
#opacity { width: 90px }
.bar { display: flex; flex-wrap: wrap; gap: 10px 18px; align-items: end; padding: 10px 14px; margin-bottom: 14px; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px }
.bar:not(:has(> :not([hidden]))) { display: none }
.field { display: grid; gap: 3px; font-size: 12px; color: var(--faint) }
.field > select, .field > .row, .field > input { color: var(--ink); font-size: 14px; min-height: 32px }
.row { display: flex; gap: 8px; align-items: center }
#layer-name { min-width: 2ch }
#compare { margin-left: auto }
.stage { display: grid; grid-template-columns: minmax(280px, 30fr) minmax(0, 42fr) minmax(260px, 28fr); gap: 14px; align-items: start }
.panels { display: grid; gap: 14px; min-width: 0 }
.stage.comparing { grid-template-columns: minmax(0, 1.45fr) minmax(0, 1fr) }
.stage.comparing .panels { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr) }
.stage.comparing > #heads-card { grid-row: 1 / span 2; grid-column: 2 }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px; min-width: 0 }
.card > header { margin-bottom: 10px }
.card > header p { color: var(--faint); font-size: 12.5px; min-height: 2.9em; overflow-wrap: anywhere }
.charts .card > header p { min-height: 1.45em }
.panel.active { border-color: var(--accent); box-shadow: 0 0 0 1px var(--accent) }
.choose { display: flex; flex-wrap: wrap; gap: 6px; margin-bottom: 10px }
.choose select { flex: 0 1 auto; min-width: 0 }
.choose:not(:has(select:not([hidden]))) { display: none }
.frame { position: relative; line-height: 0 }
.frame canvas { border-radius: 3px }
.missing { position: absolute; inset: auto 8px 8px 8px; padding: 5px 8px; line-height: 1.35; font-size: 12.5px; border-radius: 6px;
  background: rgba(0, 0, 0, 0.72); color: #fff }
canvas { display: block; touch-action: manipulation }
.picture, #pattern { cursor: crosshair }
#heads { cursor: pointer }
.scroll { overflow-x: auto; padding-bottom: 2px }
.chips { display: flex; flex-wrap: wrap; gap: 6px; margin-bottom: 8px }
.chips:empty { display: none }
.chip { display: inline-flex; align-items: center; gap: 6px; min-height: 26px; padding: 1px 9px 1px 5px; font-size: 12.5px; border-radius: 6px }
.chip i { width: 15px; height: 15px; border-radius: 3px; border: 1px solid var(--line) }
.chip[aria-pressed="true"] { background: var(--control); color: inherit; border-color: var(--ink); box-shadow: 0 0 0 1px var(--ink) }
.chip.locked { border-color: var(--mark) !important; box-shadow: 0 0 0 1px var(--mark) !important }
.legend { display: grid; grid-template-columns: 1fr 1fr 1fr; gap: 2px 0; margin-top: 8px; font-size: 11.5px; color: var(--faint); max-width: 448px }
.legend canvas { grid-column: 1 / -1; width: 100%; height: 9px; border-radius: 2px }
.legend span:nth-of-type(2) { text-align: center }
.legend span:nth-of-type(3) { text-align: right }
.legend em { grid-column: 1 / -1; text-align: center; margin-top: -1px }
.legend em:empty { display: none }
.reading { margin-top: 8px; min-height: 1.45em; font-weight: 550; overflow-wrap: anywhere }
.strongest { list-style: none; padding: 0; margin-top: 4px; display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 1px 22px; font-size: 12.5px; color: var(--soft);
  min-height: 2.9em }
.strongest.labelled { grid-template-columns: 1fr }
.strongest li { display: flex; justify-content: space-between; gap: 8px; min-width: 0 }
.strongest span { white-space: nowrap }
.strongest em { overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.bars { display: grid; grid-template-columns: minmax(40px, max-content) minmax(60px, 1fr) max-content; gap: 3px 10px; font-size: 12.5px; align-items: center }
.bars > div { display: grid; grid-template-columns: subgrid; grid-column: 1 / -1; align-items: center }
.bars span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; max-width: 220px }
.bars b { position: relative; height: 9px; background: var(--control); border-radius: 2px; overflow: hidden }
.bars i { position: absolute; inset: 0 auto 0 0; background: var(--bar) }
.bars.signed i { background: var(--positive) }
.bars.signed i.negative { background: var(--bar) }
.bars em { text-align: right; color: var(--soft) }
.predictions { margin-top: 12px; padding-top: 10px; border-top: 1px solid var(--line) }
.predictions:empty { display: none }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 14px; margin-top: 14px; align-items: start }
.charts:empty { display: none }
.charts .wide { grid-column: 1 / -1 }
.plain { display: grid; grid-template-columns: minmax(280px, 36fr) minmax(0, 64fr); gap: 0 14px; align-items: start }
.plain > *, .plain:has(> .charts:empty) > .stage { grid-column: 1 / -1 }
.plain > .stage:not(.comparing) { grid-column: 1; grid-template-columns: minmax(0, 1fr); max-width: 720px }
.plain > .stage:not(.comparing) + .charts { grid-column: 2; margin-top: 0; grid-template-columns: repeat(auto-fit, minmax(min(100%, 360px), 1fr)) }
.plain > .stage.comparing, .plain > .stage.comparing .panels { grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)) }
#notes { margin-top: 14px; color: var(--soft); font-size: 13px; max-width: 90ch }
#notes summary { cursor: pointer; font-weight: 600 }
#notes ul { padding-left: 20px }
footer { margin-top: 18px; font-size: 12px; color: var(--faint) }
.fatal { padding: 12px 14px; border: 1px solid var(--positive); border-radius: 8px }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap }
dialog { border: 1px solid var(--line); border-radius: 12px; background: var(--card); color: var(--ink); max-width: 560px; padding: 20px 22px }
dialog::backdrop { background: rgba(0, 0, 0, 0.4) }
dialog h2 { font-size: 17px; margin-bottom: 8px }
dialog p { color: var(--soft) }
dialog dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 16px; margin: 14px 0 }
dialog dl div { display: grid; grid-template-columns: subgrid; grid-column: 1 / -1 }
dialog dt { font: 12.5px/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; padding: 0 6px; background: var(--control); border-radius: 4px;
  justify-self: start }
@media (max-width: 1180px) {
  .stage, .stage.comparing { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr) }
  .stage > #heads-card { grid-column: 2 }
  .stage > #pattern-card { grid-column: 1 / -1 }
  .stage.comparing .panels { grid-column: 1 / -1; grid-row: auto }
  .stage.comparing > #heads-card { grid-column: 1; grid-row: auto }
  .stage.comparing > #pattern-card { grid-column: 2 }
}
@media (max-width: 820px) {
  .plain { grid-template-columns: minmax(0, 1fr) }
  .plain > *, .plain > .stage:not(.comparing), .plain > .stage:not(.comparing) + .charts { grid-column: 1 }
  .plain > .stage:not(.comparing) + .charts { margin-top: 14px }
}
@media (max-width: 720px) {
  body { padding-top: 14px }
  .stage, .stage.comparing, .stage.comparing .panels { grid-template-columns: minmax(0, 1fr) }
  .stage > section, .stage.comparing > section { grid-column: 1 !important; grid-row: auto !important }
  .bar { gap: 10px 14px }
  #compare { margin-left: 0 }
}
@media print { .bar, .tools, footer { display: none } body { background: #fff } }
`
