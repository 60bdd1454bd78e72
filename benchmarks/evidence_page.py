"""docs/evidence.md and its curves, from the numbers in benchmarks/results/evidence.json alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence_variants import MEASURES, TITLES, VARIANTS, Table, orderings, paragraph, spread, variant
from benchmarks.markdown import table
from benchmarks.result import write_page as replace_page
from pipeline.files import write_bytes
from pipeline.report import plots

CURVES = "evidence-curves.svg"
RULE = (
    "An ordering *shows* where the difference of the variants' means is more than twice its standard error (the root "
    "of the sum of both variants' variance over seeds / seeds), *is reversed* where it is as far on the other side, "
    "and *does not show* otherwise. With three seeds that is a weak test: two equal variants with normal errors would "
    "differ so much in about one comparison of nine (Student's t, four degrees of freedom)."
)


def score_table(scores: Table) -> str:
    """Markdown: mean and standard deviation of each variant in percent."""
    tasks = [task for task, key in MEASURES.items() if key in next(iter(scores.values()))[0]]
    lines = []
    for name in (name for name in (chosen.name for chosen in VARIANTS) if name in scores):
        spreads = [spread([seed[MEASURES[task]] for seed in scores[name]]) for task in tasks]
        cells = [f"{100 * cell.mean:.1f}" + f" ± {100 * cell.deviation:.1f}" * (cell.seeds > 1) for cell in spreads]
        lines.append([variant(name).title, *cells])
    return table(["", *(TITLES[task] for task in tasks)], lines)


def ordering_table(scores: Table) -> str:
    """Markdown: the paper's orderings and whether they show here."""
    lines = [
        (f"{variant(better).title} > {variant(worse).title}", str(result), result.verdict)
        for better, worse, result in orderings(scores)
    ]
    return table(["in the paper", "J&F, difference ± standard error", "here"], lines)


def curves(runs: dict[str, list[dict[str, Any]]]) -> str:
    """SVG: J&F of each trained variant's first seed over the steps, from the untrained score of the same seed on."""
    start = runs["random"][0]["scores"][MEASURES["davis"]]
    scored = {name: result[0]["curve"] for name, result in runs.items() if result[0].get("curve")}
    if not scored:
        return ""
    lines = [[start, *(score for _, score in curve)] for curve in scored.values()]
    last = max(step for curve in scored.values() for step, _ in curve)
    label = f"J&F (%) of the first seed over {last} steps"
    return plots.curves(lines, label, [variant(name).title for name in scored])


def table_of(runs: dict[str, list[dict[str, Any]]]) -> Table:
    """The scores of each variant's seeds."""
    return {name: [run["scores"] for run in seeds] for name, seeds in runs.items()}


def section(title: str, setup: dict[str, Any], settings: Sequence[str]) -> list[str]:
    """One training set: settings, scores, orderings, and what they say."""
    scores = table_of(setup["runs"])
    seeds = len(scores["full"])
    parts = [f"## {title}", " ".join(settings), score_table(scores)]
    if seeds < 2:
        return [*parts, "In percent, of a single seed, which cannot tell a difference from chance."]
    spreads = f"Mean ± standard deviation over seeds 0 to {seeds - 1}, in percent."
    return [*parts, spreads, ordering_table(scores), paragraph(scores)]


def page(result: dict[str, Any]) -> str:
    """The whole document."""
    made, machine = result["settings"], result["machine"]
    parts = [
        "# Does the method learn here?",
        "`make evidence` trains the same small ViT in each of five ways, with several seeds, and scores them on "
        "held-out clips. This page is written by it, from `benchmarks/results/evidence.json`. A seed sets the first "
        "weights and the order of the data, so the variants of one seed start from the same network.",
        RULE,
    ]
    preset = f"Preset `configs/tiny.yaml`, {made['steps']} steps for each run on {machine['cpu']}."
    demo = (
        f"{made['clips']} clips made by `benchmarks.demo_data`, and {made['sequences']} held-out sequences for DAVIS, "
        f"half as many for the others; they are scored at {made['size'][0]} x {made['size'][1]} pixels."
    )
    parts += section("Clips made by code", result["demo"], [preset, demo])
    if curves(result["demo"]["runs"]):
        parts.append(f"![J&F over the steps]({CURVES})")
    if "real" in result:
        note = "Real clips and real DAVIS sequences; the same preset and number of steps."
        parts += section("Real clips", result["real"], [note])
    parts += [
        "## Limitations",
        "Networks, clips and runs are thousands of times smaller than the paper's. An ordering that does not show here "
        "may well show there, and one that shows here proves nothing about the paper's sizes.",
        "The preset is the one kept of ten that were tried, all with the full method; they were scored on the first "
        "six of the sequences that the default settings make: the gain over random weights may be flattered by that "
        "choice. No other variant was trained while choosing, so the orderings were not looked at.",
        "## Reproducing",
        '    make evidence\n    make evidence ARGS="--real_clips CLIPS --real_davis DAVIS"',
        "The first takes about 40 minutes on two cores; both go on where they were interrupted. Where there is a GPU, "
        "runs are ten times as long. CLIPS has a folder of clips for each class, DAVIS has DAVIS-2017's layout.",
    ]
    return "\n\n".join(parts) + "\n"


def write_page(path: Path, result: dict[str, Any]) -> None:
    """Write the document and its curves beside it."""
    replace_page(path, page(result))
    if drawn := curves(result["demo"]["runs"]):
        write_bytes(path.with_name(CURVES), drawn.encode())
