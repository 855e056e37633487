"""The look of the monitoring page: one style sheet, light and dark, wide and narrow."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --ink: #1c2128; --soft: #59636e; --line: #d8dee4;
  --batch: #0b62d6; --batch-fill: #0b62d622; --before: #b4bcc6;
  --alert: #c21f2c; --watch: #8f5d00; --ok: #17753a; --few: #59636e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1318; --card: #181d24; --ink: #e6eaef; --soft: #98a2ae; --line: #2f3742;
    --batch: #6cabff; --batch-fill: #6cabff2e; --before: #59636f;
    --alert: #ff7b80; --watch: #e3ab3f; --ok: #54c77d; --few: #98a2ae;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 66rem;
  background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: anywhere; font-variant-numeric: tabular-nums;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.25rem; margin: 0; display: flex; gap: .75rem; }
h2 .badge { align-self: center; }
h3 { font-size: .95rem; margin: 0 0 .5rem; }
p { margin: .25rem 0; }
a { color: inherit; text-underline-offset: .2em; }
small, .soft { color: var(--soft); font-size: .875rem; }
header { margin-bottom: 1.25rem; }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1rem 1.1rem; margin: 0 0 1.25rem;
}
.badge {
  flex: none; align-self: start; min-width: 5rem; padding: .1rem .6rem; border-radius: 1rem;
  border: 1.5px solid; font-size: .8rem; font-weight: 650; text-align: center; line-height: 1.4;
}
.alert { color: var(--alert); } .watch { color: var(--watch); }
.ok { color: var(--ok); } .few { color: var(--few); }
.badge.alert { background: var(--alert); border-color: var(--alert); color: var(--card); }
.verdicts { list-style: none; padding: 0; }
.verdicts li { display: flex; gap: 1rem; padding: .7rem 1.1rem; }
.verdicts li + li { border-top: 1px solid var(--line); }
.verdicts a { font-weight: 650; }
.facts { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: .9rem 0 1.1rem; }
.facts div { min-width: 6rem; }
.facts dt { color: var(--soft); font-size: .875rem; }
.facts dd { margin: 0; font-size: 1.15rem; font-weight: 600; }
.signals { list-style: none; padding: 0; margin: .75rem 0 1.25rem; }
.signals li {
  display: grid; grid-template-columns: auto 1fr auto; gap: .1rem 1rem; padding: .6rem 0;
  border-top: 1px solid var(--line); align-items: start;
}
.signals small { text-align: right; }
.signals:last-child { margin-bottom: 0; }
.charts { display: grid; grid-template-columns: 1fr 1fr; gap: 1.25rem 2rem; margin-top: .9rem; }
.key { display: flex; flex-wrap: wrap; gap: 0 1rem; margin: 0 0 .5rem; }
.key i { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; }
.key i.batch { border: 2px solid var(--batch); background: var(--batch-fill); }
.key i.before { background: var(--before); }
svg { display: block; width: 100%; height: auto; font-size: 13px; }
svg text { fill: var(--soft); }
svg .grid { stroke: var(--line); }
svg path.before { fill: var(--before); }
svg path.batch { fill: var(--batch-fill); stroke: var(--batch); stroke-width: 2; }
svg .median { stroke-width: 1.5; stroke-dasharray: 4 4; }
svg .median.before { stroke: var(--soft); } svg .median.batch { stroke: var(--batch); }
svg .dot { fill: var(--ok); stroke: var(--card); stroke-width: 1.5; }
svg .dot.watch { fill: var(--watch); } svg .dot.alert { fill: var(--alert); }
svg .dot.batch { fill: var(--batch); }
svg .interval { stroke: var(--batch); stroke-width: 2; opacity: .45; }
svg .truth { fill: var(--card); stroke: var(--ink); stroke-width: 2; }
svg .limit { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 4 4; }
.strip { list-style: none; padding: 0; margin: .9rem 0 .5rem; display: flex; flex-wrap: wrap; }
.strip li { padding: 2px; border-bottom: 3px solid transparent; }
.strip li::before {
  content: ""; display: block; width: 1.05rem; height: 1.05rem; border-radius: .2rem;
  font: 700 .8rem/1.05rem system-ui, sans-serif; text-align: center;
  -webkit-text-fill-color: var(--card); background: currentColor;
}
.strip .alert::before { content: "!"; } .strip .watch::before { content: "?"; }
.strip li.part { border-bottom-color: var(--alert); }
.key :is(.ok, .watch, .alert, .few) { background: currentColor; border-radius: .2rem; }
.key i.truth { border: 2px solid var(--ink); }
.key i.part { border-bottom: 3px solid var(--alert); }
.bars { list-style: none; padding: 0; margin: 0; }
.bars li {
  display: grid; grid-template-columns: minmax(5rem, 9rem) 1fr 5rem; gap: .7rem;
  align-items: center; padding: .16rem 0; font-size: .9rem; line-height: 1.25;
}
.bars .track i { display: block; height: .42rem; min-width: 1px; }
.bars .track .batch { background: var(--batch); }
.bars .track .before { background: var(--before); }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem 1.6rem; margin-top: 1.25rem; }
.pictures > div > div { display: flex; flex-wrap: wrap; gap: .6rem; }
figure { margin: 0; width: 6.6rem; font-size: .85rem; line-height: 1.3; }
figure img {
  display: block; width: 6.6rem; height: 6.6rem; object-fit: cover; border-radius: .4rem;
  background: var(--line); margin-bottom: .3rem;
}
figure small { display: block; font-size: .75rem; }
details p { max-width: 46rem; }
.charts + details { margin-top: 1rem; }
summary { cursor: pointer; }
@media (max-width: 40rem) {
  body { padding: 1rem .6rem 2rem; }
  .card { padding: .85rem; }
  .verdicts { padding: 0; } .verdicts li { padding: .7rem .85rem; }
  .verdicts li, .signals li { gap: .1rem .6rem; }
  .badge { min-width: 3.9rem; padding: .1rem .35rem; font-size: .75rem; }
  svg { font-size: 17px; }
  .facts { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem 1rem; }
  .charts { grid-template-columns: 1fr; }
  .signals li { grid-template-columns: auto 1fr; }
  .signals small { grid-column: 2; text-align: left; }
  .bars li { grid-template-columns: 7rem 1fr 4.3rem; gap: .5rem; }
  .pictures > div > div { display: grid; grid-template-columns: repeat(3, 1fr); gap: .6rem; }
  .pictures > div { width: 100%; }
  figure, figure img { width: 100%; } figure img { height: auto; aspect-ratio: 1; }
}
"""
