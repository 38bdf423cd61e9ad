"""The style sheet of the page: paper-like, light and dark, narrow and wide, and fit to print."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --soft: #56606b; --faint: #9aa3ad; --rule: #d9dee3; --grid: #e9ecef;
  --panel: #f6f7f9; --accent: #0b5fa5; --good: #00704f; --bad: #b3400a;
  --s0: #0b62ab; --s1: #c44e00; --s2: #007a57; --s3: #a4437e; --s4: #8a6a00; --s5: #2a86b8; --s6: #6a51a3; --s7: #4d545b;
  --r0: #3b2f7d; --r1: #3a4d93; --r2: #2f6a98; --r3: #258592; --r4: #2b9a80; --r5: #5aa657; --r6: #93a332; --r7: #bd9714;
  --solid: 0.9; --on-dark: #ffffff; --heat: #0b5fa5; --miss: #c44e00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --ink: #e7eaed; --soft: #a3adb7; --faint: #6b7580; --rule: #333a41; --grid: #242a30;
    --panel: #1b1f24; --accent: #6cb4f0; --good: #4cc79a; --bad: #f08a4b;
    --s0: #66b2f2; --s1: #f0894a; --s2: #45c498; --s3: #e08cbd; --s4: #d9b944; --s5: #8fd0f0; --s6: #b3a0e8; --s7: #aeb6bd;
    --r0: #9c8cf0; --r1: #8aa2ee; --r2: #74b5e6; --r3: #5fc5d3; --r4: #5fd1b0; --r5: #86d885; --r6: #bcd866; --r7: #ecce5c;
    --solid: 0.6; --on-dark: #0e1113; --heat: #66b2f2; --miss: #f0894a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 -apple-system, "Segoe UI", Inter, Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", Arial,
    sans-serif;
  font-variant-numeric: tabular-nums lining-nums;
}
main, footer { max-width: 64rem; margin: 0 auto; padding: 0 2rem; }
header { padding: 3rem 0 0; }
h1, h2, h3 { line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h1 { font-size: 1.75rem; letter-spacing: -0.012em; font-weight: 650; }
h2 { font-size: 1.2rem; font-weight: 650; padding-top: 1rem; border-top: 1px solid var(--rule); }
h3 { font-size: 0.95rem; font-weight: 600; }
p { margin: 0; max-width: 44rem; overflow-wrap: anywhere; text-wrap: pretty; }
a { color: var(--accent); }
bdi { overflow-wrap: anywhere; }
.about { color: var(--soft); margin-top: 0.35rem; }
.verdict { font-size: 1.32rem; line-height: 1.42; margin: 1.6rem 0 0; letter-spacing: -0.005em; }
.verdict b { font-weight: 650; color: var(--accent); }
.verdict.poor b { color: var(--bad); }
.judgement, .pointer { color: var(--soft); margin-top: 0.6rem; }
.facts { display: flex; flex-wrap: wrap; gap: 0.9rem 2.6rem; margin: 1.6rem 0 0; padding: 0; }
.facts div { min-width: 5.5rem; }
.facts dt { color: var(--soft); font-size: 0.82rem; }
.facts dd { margin: 0; font-size: 1.1rem; font-weight: 600; }
section { margin-top: 2.6rem; }
section > p { margin-top: 0.55rem; }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.8rem 2.6rem; margin-top: 1.1rem; }
.charts > * { min-width: 0; }
figure { margin: 0; break-inside: avoid; }
figcaption { margin-bottom: 0.45rem; }
figcaption p { color: var(--soft); font-size: 0.87rem; }
.beside { font-size: 0.93rem; }
.beside > * + * { margin-top: 0.6rem; }
.beside > h3 + * { margin-top: 0.4rem; }
details { margin-top: 0.5rem; font-size: 0.87rem; }
summary { cursor: pointer; color: var(--soft); width: fit-content; border-radius: 3px; }
summary:hover { color: var(--ink); }
summary:focus-visible, a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.scroll { overflow-x: auto; max-height: 26rem; overflow-y: auto; }
.wide { overflow-x: auto; margin-top: 1rem; }
.tall { max-height: 44rem; overflow-y: auto; }
.scroll thead th, .tall thead th { position: sticky; top: 0; background: var(--paper); }
table { border-collapse: collapse; width: 100%; font-size: 0.93rem; }
details table, .beside table { font-size: 0.87rem; }
caption { text-align: left; color: var(--soft); padding-bottom: 0.3rem; font-size: 0.87rem; }
th, td { text-align: left; padding: 0.34rem 1.2rem 0.34rem 0; vertical-align: baseline; overflow-wrap: break-word; }
th { font-weight: 600; }
thead th { color: var(--soft); font-weight: 500; font-size: 0.82rem; border-bottom: 1px solid var(--rule); }
thead th { overflow-wrap: normal; }
tbody th { font-weight: 500; }
tbody tr + tr > * { border-top: 1px solid var(--grid); }
tfoot > tr > * { border-top: 1px solid var(--rule); font-weight: 600; }
th:last-child, td:last-child { padding-right: 0; }
.n { text-align: right; white-space: nowrap; overflow-wrap: normal; }
.metrics { max-width: 44rem; }
.columns tbody th { min-width: 8rem; }
.settings th { width: 45%; font-weight: 400; }
.settings td { overflow-wrap: anywhere; }
.metrics .n { padding-right: 2rem; }
.metrics td.n:nth-child(2) { font-weight: 650; }
.soft, td.soft { color: var(--soft); }
time { white-space: nowrap; }
code, .code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; font-size: 0.88em; }
.settings { columns: 2; column-gap: 2.6rem; margin-top: 1rem; }
.settings > div { break-inside: avoid; margin-bottom: 1.2rem; }
.settings h3 { margin-bottom: 0.2rem; }
.notices { margin: 1rem 0 0; padding: 0 0 0 1.1rem; max-width: 48rem; }
.notices li { margin-top: 0.35rem; overflow-wrap: anywhere; }
.legend {
  list-style: none; display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 0.15rem 1rem;
  margin: 0.3rem 0 0; padding: 0;
}
.legend svg { flex: none; }
.legend span { overflow-wrap: anywhere; }
.legend li { display: flex; align-items: center; gap: 0.4rem; font-size: 0.82rem; color: var(--soft); }
footer { margin-top: 3rem; padding-top: 1rem; padding-bottom: 3rem; color: var(--soft); font-size: 0.82rem; }
footer p { max-width: none; }

.chart { display: block; width: 100%; height: auto; overflow: visible; }
.chart text { fill: var(--ink); font-size: 11px; }
.chart .tick { fill: var(--soft); font-size: 10.5px; }
.chart .label, .chart .note { fill: var(--soft); font-size: 11px; }
.chart .figure { font-size: 15px; font-weight: 600; }
.chart .faint { fill: var(--faint); }
.chart .on-dark { fill: var(--on-dark); }
.chart .name { font-size: 11px; }
.chart .name.small { font-size: 9px; }
.grid { stroke: var(--grid); stroke-width: 1; }
.axis { stroke: var(--faint); stroke-width: 1; }
.marker { stroke: var(--faint); stroke-width: 1; stroke-dasharray: 4 3; }
.whisker { stroke: var(--ink); stroke-width: 1; opacity: 0.75; }
.whisker.thin { opacity: 0.4; }
.curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.curve.d1 { stroke-dasharray: 5 4; } .curve.d2 { stroke-dasharray: 1 4; }
.dot { stroke: var(--paper); stroke-width: 1.2; }
.bar { fill: var(--s0); fill-opacity: var(--solid); } .bar.negative { fill: var(--s7); } .bar.quiet { opacity: 0.35; }
.cloud circle { fill: var(--s0); fill-opacity: 0.55; } .cloud.dense circle { fill-opacity: 0.3; }
.cell-frame { fill: var(--panel); }
.hit-cell { fill: var(--heat); } .miss-cell { fill: var(--miss); }
.hit rect { fill: transparent; }
.hit .guide { stroke: var(--soft); stroke-width: 1; opacity: 0; }
.hit:hover .guide { opacity: 0.6; }

@media (max-width: 46rem) {
  main, footer { padding-left: 1.1rem; padding-right: 1.1rem; }
  header { padding-top: 1.6rem; }
  h1 { font-size: 1.45rem; }
  .verdict { font-size: 1.15rem; }
  .charts { grid-template-columns: minmax(0, 1fr); gap: 1.6rem; }
  .settings { columns: 1; }
  .facts { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 0.8rem 0.8rem; }
  .facts div { min-width: 0; }
  .chart text, .chart .tick, .chart .name, .chart .label, .chart .note { font-size: 12px; }
  .chart .figure { font-size: 15px; }
  .metrics .n { padding-right: 1.1rem; }
  .spelled { display: none; }
  th, td { padding-right: 0.8rem; }
  .columns { min-width: 36rem; }
}
@media print {
  :root {
    --paper: #ffffff; --ink: #000000; --soft: #444444; --faint: #888888; --rule: #cccccc; --grid: #e6e6e6;
    --panel: #f4f4f4;
  }
  @page { margin: 16mm 14mm; }
  body { font-size: 10pt; }
  main, footer { max-width: none; padding: 0; }
  header { padding-top: 0; }
  details { display: none; }
  section { break-inside: auto; margin-top: 1.6rem; }
  h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; }
  .scroll, .tall { max-height: none; overflow: visible; }
}
""" + "".join(
    f".curve.{kind}{place}{{stroke:var(--{kind}{place})}}"
    f".dot.{kind}{place},.chart .name.{kind}{place}{{fill:var(--{kind}{place})}}\n"
    for kind in "sr"
    for place in range(8)
)
