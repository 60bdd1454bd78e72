"""Colours of the pictures and the page, and the style sheet of the page, for light and dark screens."""

ROLE_COLOURS = {"past": "#0a6fb5", "current": "#d98a00", "future": "#00936b"}
"""Told apart with any colour vision (after Okabe and Ito)."""

INK, SOFT, PAPER = "#1b2127", "#626d78", "#ffffff"
"""Text, text beside it, and what they stand on, of the pictures and of the page on light screens."""

STYLE = (
    f"""
:root {{ color-scheme: light dark; --ink: {INK}; --soft: {SOFT}; --page: {PAPER}; --line: #e0e4e8; --wash: #f4f6f8;
  --bar: #4a7fb0; """
    + " ".join(f"--{role}: {colour};" for role, colour in ROLE_COLOURS.items())
    + """ }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #98a3ae; --line: #2f363d; --wash: #1d2329;
  --page: #14181c; --bar: #6b9fd0; --past: #4aa8e8; --current: #f0aa2e; --future: #2fc596; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 44px 32px 96px; max-width: 1320px; color: var(--ink); background: var(--page);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 56px 0 6px; letter-spacing: -0.005em; }
h3 { font-size: 14px; font-weight: 600; margin: 0 0 8px; }
p, figcaption, .meta { color: var(--soft); }
p { margin: 2px 0 14px; max-width: 82ch; }
figure { margin: 0; }
figcaption { font-size: 12.5px; padding-top: 4px; overflow-wrap: anywhere; }
img { display: block; width: 100%; height: auto; background: var(--wash); border-radius: 3px; }
.cards { display: flex; flex-wrap: wrap; gap: 14px; margin: 24px 0 0; }
.cards div { border: 1px solid var(--line); border-radius: 8px; padding: 12px 20px; min-width: 130px; }
.cards b { display: block; font-size: 26px; line-height: 1.25; font-weight: 600; }
.cards span { color: var(--soft); font-size: 13px; }
.sample { border-top: 1px solid var(--line); padding: 16px 0 20px; }
.sample h3 { font-size: 15px; margin: 0; overflow-wrap: anywhere; }
.meta { font-size: 13px; margin: 0 0 10px; overflow-wrap: anywhere; }
.strip, .lane { margin-left: 84px; }
.strip { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: 2px; }
.lane { position: relative; height: 20px; }
.lane::before { content: ""; position: absolute; left: 0; right: 0; top: 10px; border-top: 1px solid var(--line); }
.lane > span { position: absolute; right: 100%; width: 84px; font-size: 12px; line-height: 20px; color: var(--soft); }
.lane > b { position: absolute; top: 9px; height: 3px; background: var(--soft); opacity: 0.45; }
.lane > i, .dot { width: 11px; height: 11px; border-radius: 50%; display: inline-block; }
.lane > i { position: absolute; top: 5px; margin-left: -5.5px; }
.past { background: var(--past); } .current { background: var(--current); } .future { background: var(--future); }
.draws { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 8px 20px; margin-top: 12px; }
.draws > div { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 4px; }
.draws > div > span { grid-column: 1 / -1; font-size: 12px; color: var(--soft); }
.draws figure { border-top: 4px solid; border-radius: 3px; background: none; }
.draws figure.past { border-color: var(--past); } .draws figure.current { border-color: var(--current); }
.draws figure.future { border-color: var(--future); }
.legend { display: flex; gap: 20px; font-size: 13.5px; margin: 0 0 12px; color: var(--soft); }
.legend .dot { margin-right: 7px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 18px 14px; }
.tiles img { aspect-ratio: 4 / 3; object-fit: contain; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(250px, 1fr)); gap: 28px; margin-top: 14px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11.5px; fill: var(--soft); }
.bar, .area { fill: var(--bar); } .axis { stroke: var(--line); }
.curve { height: 110px; margin: 8px 0 20px; border-bottom: 1px solid var(--line); }
.bars { columns: 3 300px; column-gap: 36px; margin-top: 10px; }
.end { margin-top: 24px; }
.row { display: flex; align-items: center; gap: 10px; font-size: 13.5px; padding: 2px 0; break-inside: avoid; }
.label { flex: 0 0 46%; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.track { flex: 1; height: 9px; background: var(--wash); border-radius: 2px; }
.track > span { display: block; height: 100%; min-width: 1px; background: var(--bar); border-radius: 2px; }
.count { min-width: 56px; text-align: right; color: var(--soft); }
.rejects { border-collapse: collapse; width: 100%; margin-top: 10px; font-size: 13.5px; }
.rejects td, .rejects th { text-align: left; vertical-align: top; padding: 8px 18px 8px 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
.rejects th { color: var(--soft); font-weight: 600; font-size: 12.5px; }
.rejects div + div { margin-top: 5px; } .rejects small { color: var(--soft); font-size: 12.5px; display: block; }
.number { text-align: right !important; white-space: nowrap; }
details { margin-top: 14px; } summary { cursor: pointer; color: var(--soft); }
pre { background: var(--wash); padding: 14px 18px; border-radius: 6px; overflow-x: auto; font-size: 12.5px; }
"""
)
