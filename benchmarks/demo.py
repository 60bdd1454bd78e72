"""`make demo`: the whole flow, with the commands that a user would type, on data made by code.

Clips: shards -> preview -> pre-training -> weights -> DAVIS score. Images: shards -> pre-training without neighbours ->
weights -> neighbours -> pre-training with them.
Run again, it continues: finished data, shards and runs are kept; speeds and scores are measured again.
"""

import shlex
import time
from pathlib import Path
from typing import ClassVar

from benchmarks.programs import Programs
from benchmarks.result import print_table
from pipeline.dataset import MANIFEST, read_manifest
from pipeline.reading import read_json
from pipeline.settings import Command, UserError, run_command
from training.checkpoint import checkpoints
from training.metrics import read_metrics

PRETRAIN = (
    *("python", "-m", "training.launch", "--config_file", "configs/accelerate/single.yaml", "training/pretrain.py"),
    *("--config", "configs/tiny.yaml"),
)
SIZE = "160,288"
"""Height and width of the network's input in the evaluation; a patch covers as much of the scene as in training."""


class DemoCommand(Command):
    """Run the whole flow on synthetic data and print a table of the results."""

    program: ClassVar[str] = "python -m benchmarks.demo"

    out: Path = Path("demo")
    """Folder for all results of the demo."""


class Stages:
    """Runs commands as a user would, prints each, and records its time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._programs = Programs()

    def run(self, title: str, *arguments: str | Path) -> None:
        """Run one command of the project, `python ...`; `title` heads its output.

        Raises:
            UserError: it failed.
        """
        argv = [str(argument) for argument in arguments]
        print(f"\n== {title}\n$ {shlex.join(argv)}", flush=True)
        started = time.perf_counter()
        status = self._programs.run(argv)
        if status:
            raise UserError(f"the demo stopped at '{title}' (status {status}); see the lines above")
        self.seconds[title] = time.perf_counter() - started


def main(command: DemoCommand) -> None:
    """Run all stages, then print the table."""
    out, stages, started = command.out, Stages(), time.perf_counter()
    data, shards, weights = out / "data", out / "shards", out / "weights" / "clips.safetensors"
    runs, neighbours, plain = out / "runs", out / "neighbours", out / "weights" / "images-plain.safetensors"

    stages.run("demo data", "python", "-m", "benchmarks.demo_data", data, "--sequences", "8")
    existing = {source for source in ("kinetics", "imagenet") if (shards / source / MANIFEST).is_file()}
    for kind, source in (("clips", "kinetics"), ("images", "imagenet")):
        stages.run(
            f"shards of {kind}",
            *("python", "-m", "pipeline.shards", "--data", data / source / "train", "--out", shards / source),
        )
    stages.run(
        "preview of clips",
        *("python", "-m", "pipeline.preview", "--shards", shards / "kinetics", "--out", out / "preview"),
        *("--batch", "true"),
    )
    stages.run(
        "reader speed",
        *("python", "-m", "benchmarks.reader", "--shards", shards / "kinetics", "--out", out / "reader.json"),
    )
    stages.run(
        "pre-training on clips",
        *(*PRETRAIN, "--train.epochs", "12", "--data.shards", shards / "kinetics", "--out", runs / "clips"),
    )
    stages.run("export", "python", "-m", "training.export", checkpoints(runs / "clips")[-1], weights)
    on_images = (*PRETRAIN, "--train.epochs", "2", "--data.shards", shards / "imagenet")
    stages.run(
        "pre-training on images without neighbours",
        *on_images,
        *("--data.sandwich.auxiliary", "[]", "--model.auxiliary_branch", "false", "--out", runs / "images-plain"),
    )
    stages.run(
        "export of the model without neighbours",
        *("python", "-m", "training.export", checkpoints(runs / "images-plain")[-1], plain),
    )
    stages.run(
        "neighbours of images",
        *("python", "-m", "indexing.knn", "--shards", shards / "imagenet", "--weights", plain, "--out", neighbours),
    )
    stages.run("pre-training on images", *on_images, "--data.neighbours", neighbours, "--out", runs / "images")
    evaluation = ("python", "-m", "evaluation", "davis", "--data", data / "davis", "--weights", weights, "--size", SIZE)
    for name, options in (("trained", ()), ("random", ("--random_init",))):
        stages.run(f"DAVIS, {name} weights", *evaluation, "--out", out / "davis" / name, *options)

    rows: list[tuple[str, str]] = []
    for kind, source in (("clips", "kinetics"), ("images", "imagenet")):
        manifest, seconds = read_manifest(shards / source), stages.seconds[f"shards of {kind}"]
        speed = "already there" if source in existing else f"{manifest.inputs / seconds:.1f}/s with start-up"
        rows.append(
            (f"{kind} sharded", f"{manifest.samples} ({speed}, {manifest.rejects} rejects) in {shards / source}")
        )
    rows.append(("preview of clips", f"{out / 'preview'}/index.html"))
    rows.append(
        ("reader", f"{read_json(out / 'reader.json')['samples_per_second']:.1f} samples/s at the paper's sizes")
    )
    for kind in ("clips", "images-plain", "images"):
        metrics = read_metrics(runs / kind)
        losses = f"loss {metrics[0]['loss/total']:.3f} -> {metrics[-1]['loss/total']:.3f}"
        rows.append((f"trained on {kind}", f"{losses} in {metrics[-1]['step']} steps; {runs / kind}"))
    report = read_json(neighbours / "report.json")
    same, chance = report["same_class_rate"], report["same_class_rate_by_chance"]
    rows.append(("neighbours of images", f"{neighbours}/gallery.html"))
    rows.append(
        ("same class among neighbours", f"{same:.3f}, by chance {chance:.3f}: 40 steps are too few to learn classes")
    )
    for name in ("random", "trained"):
        score = read_json(out / "davis" / name / "davis.json")["scores"]["J&F-Mean"]
        rows.append((f"DAVIS J&F, {name} weights", f"{100 * score:.1f}; {out / 'davis' / name}/report.html"))
    rows.append(("exported weights", str(weights)))
    rows.append(("time", f"{time.perf_counter() - started:.0f} s"))
    print_table(rows, "Results of the demo")
    print("\nModel and data are tiny: the table shows that the flow works, not how good the method is.")


if __name__ == "__main__":
    run_command(DemoCommand, main)
