"""The model card of exported weights: a README.md with the YAML head that the Hugging Face Hub reads.

It holds no path of this machine: of result files only benchmark, protocol, scores and hashes are taken.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from pipeline.cards import marked
from pipeline.reading import read_json
from pipeline.settings import UserError
from training.backbone.source import MODEL

Format = Literal["portable", "transformers", "timm"]
CITATION = """\
@inproceedings{liu2025tcore,
  title     = {When the Future Becomes the Past: Taming Temporal Correspondence for Self-supervised Video
               Representation Learning},
  author    = {Liu, Yang and Xu, Qianqian and Wen, Peisong and Dai, Siran and Huang, Qingming},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages     = {24033--24044},
  year      = {2025}
}"""
_LOADING = {
    "portable": """\
from training.backbone.weights import load_backbone  # of tcore-pipeline

tokens = load_backbone({name})(images)  # .cls, .registers, .patches""",
    "transformers": """\
from transformers import AutoImageProcessor, AutoModel

processor, model = AutoImageProcessor.from_pretrained({name}), AutoModel.from_pretrained({name})
tokens = model(**processor(image, return_tensors="pt")).last_hidden_state  # CLS, registers, patches""",
    "timm": """\
import timm

model = timm.create_model({name}, pretrained=True).eval()
tokens = model.forward_features(images)  # CLS, registers, patches""",
}
LICENSES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
    lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl
    openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl
    lgpl-lr deepfloyd-if-license llama2 gemma unknown other
    """.split()  # noqa: SIM905 - seventy lines otherwise
)
"""Identifiers of licenses of the Hugging Face Hub (its documentation, page "Licenses"); all others are `other`."""
_LIBRARIES = {"portable": "tcore-pipeline", "transformers": "transformers", "timm": "timm"}


class License(NamedTuple):
    """The license of the weights."""

    identifier: str = "unknown"
    """One of `LICENSES`."""
    name: str | None = None
    """Of the license `other`."""


NO_LICENSE = License()


class Result(NamedTuple):
    """What a result file of `python -m evaluation` says about some weights."""

    task: str
    title: str
    protocol: str
    scores: dict[str, float]
    """Fractions."""
    sequences: str
    """How many of them are scored."""
    data: str
    """Hash of the sequences."""


def read_results(paths: Sequence[Path], weights_sha256: str) -> list[Result]:
    """The scores in result files; equal results of a benchmark under a protocol are one.

    Raises:
        UserError: a file cannot be used (`read_result`), or two files have different results for the same.
    """
    found: dict[tuple[str, str], tuple[Path, Result]] = {}
    for path in paths:
        result = read_result(path, weights_sha256)
        first, known = found.setdefault((result.task, result.protocol), (path, result))
        if known != result:
            raise UserError(
                f"--scores {path}: another result for {result.title} under the protocol {result.protocol} than in "
                f"{first}: give one of them"
            )
    return [result for _, result in found.values()]


def read_result(path: Path, weights_sha256: str) -> Result:
    """The scores in a result file.

    Raises:
        UserError: the file is missing, is no result file, holds no scores or one that is no finite number, or is about
            other weights.
    """
    record = read_json(path)
    try:
        if "weights" not in record or "card" not in record["weights"]:
            raise UserError(f"--scores {path}: no result of scoring weights with `python -m evaluation`")
        weights = record["weights"]
        scored = weights["card"].get("weights_sha256")
        if scored != weights_sha256 or weights["random_init_seed"] is not None:
            known = f"weights {scored[:12]}" if scored else "weights without a hash"
            known = "random weights" if weights["random_init_seed"] is not None else known
            raise UserError(
                f"--scores {path}: scores of {known}, not of those that are exported ({weights_sha256[:12]}): export "
                "first, score that file, and export again with --scores"
            )
        if not record["scores"]:
            raise UserError(f"--scores {path}: no sequence could be scored")
        scores = {str(name): float(value) for name, value in record["scores"].items()}
        if broken := [name for name, value in scores.items() if not math.isfinite(value)]:
            raise UserError(f"--scores {path}: {broken[0]} = {scores[broken[0]]} is no score: score the weights again")
        done = sum(sequence["status"] == "scored" for sequence in record["sequences"].values())
        return Result(
            task=str(record["task"]),
            title=str(record.get("title", record["task"])),
            protocol=str(record["protocol"].get("name", "not recorded")),
            scores=scores,
            sequences=f"{done} of {len(record['sequences'])}",
            data=str(record["data"]["sha256"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"--scores {path}: not a result file of `python -m evaluation`") from error


def model_card(out: Path, card: Mapping[str, Any], results: Sequence[Result], license: License, format: Format) -> str:  # noqa: A002 - as the options
    """The text of the model card.

    Args:
        out: the file or folder with the weights.
        card: their origin, as it is stored with them.
        results: scores of these weights.
        license: of the weights.
        format: how the weights are stored.
    """
    written = out.absolute().name
    name = _one_line(out.stem if format == "portable" else written)
    loaded = f"local-dir:{written}" if format == "timm" else written
    head: dict[str, Any] = {
        "library_name": _LIBRARIES[format],
        "license": license.identifier,
        **({"license_name": license.name} if license.name else {}),
        "pipeline_tag": "image-feature-extraction",
        "tags": ["t-core", "self-supervised-learning", "video", "vision-transformer"],
    }
    if results:
        head["model-index"] = [{"name": name, "results": [_indexed(result) for result in results]}]
    size = card["architecture"]
    sections = [
        f"# {name}",
        f"A Vision Transformer (width {size['width']}, {size['depth']} blocks, {size['heads']} heads, patches of "
        f"{size['patch_size']} pixels, images of {size['image_size']}) pre-trained without labels by T-CoRe with "
        f"tcore-pipeline; the {card['part']} of the run. Images are RGB in 0 to 1, normalized by the ImageNet mean and "
        "standard deviation.",
        f"```python\n{_LOADING[format].format(name=repr(loaded))}\n```",
        "## Training",
        _training(card),
        "## Scores",
        _scores(results),
        "## Data, people and license",
        _terms(license),
        "## Citation",
        f"```bibtex\n{CITATION}\n```",
    ]
    text = f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n" + "\n\n".join(sections) + "\n"
    return marked(text, "training.export")


def _indexed(result: Result) -> dict[str, Any]:
    """A result as the Hub's model-index has it; values in percent."""
    return {
        "task": {"type": "label-propagation", "name": "Label propagation with frozen features"},
        "dataset": {"type": result.task, "name": result.title, "config": result.protocol, "revision": result.data},
        "metrics": [{"type": name, "name": name, "value": _percent(value, 2)} for name, value in result.scores.items()],
    }


def _percent(fraction: float, digits: int) -> float:
    """Rounded, and never -0.0."""
    return round(100 * fraction, digits) + 0.0


def _one_line(text: object) -> str:
    """A text without line breaks, and with ? for what UTF-8 cannot hold."""
    return " ".join(str(text).split()).encode(errors="replace").decode()


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown, whatever its cells hold."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([_one_line(cell).replace("\\", "\\\\").replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _training(card: Mapping[str, Any]) -> str:
    rows = {"preset": card.get("preset") or "none", "training steps": card.get("steps", "unknown")}
    for number, dataset in enumerate(card.get("datasets") or [], start=1):
        rows[f"data set {number}"] = f"hash `{dataset['dataset_hash']}`, weight {dataset['weight']}"
    if card.get("neighbours_sha256"):
        rows["neighbours"] = f"hash `{card['neighbours_sha256']}`"
    if card.get("init"):
        rows["initial weights"] = f"{card['init']['source']}, hash `{card['init']['source_sha256']}`"
    if branch := card.get("branched_from"):
        rows["continues"] = f"step {branch['step']} of a run with other settings, hash `{branch['sha256'][MODEL]}`"
    rows["weights"] = f"hash `{card['weights_sha256']}`"
    rows |= {f"last {key}": value for key, value in (card.get("logged") or {}).items() if key != "step"}
    settings = json.dumps(card.get("config", {}), indent=2)
    return (
        f"{_table(('', ''), rows.items())}\n\n"
        f"<details><summary>All settings</summary>\n\n```json\n{settings}\n```\n\n</details>"
    )


def _scores(results: Sequence[Result]) -> str:
    if not results:
        return "Not scored."
    rows = (
        (
            result.title,
            result.protocol,
            ", ".join(f"{name} {_percent(value, 1):.1f}" for name, value in result.scores.items()),
            result.sequences,
            f"`{result.data[:12]}`",
        )
        for result in results
    )
    return (
        "Label propagation with frozen features, percent. Scores of different protocols do not compare.\n\n"
        + _table(("benchmark", "protocol", "scores", "sequences", "data hash"), rows)
    )


def _terms(license: License) -> str:  # noqa: A002 - as the option
    chosen = (
        "No license has been chosen for these weights: without one, nobody else may use them."
        if license.identifier == "unknown"
        else f"The weights are under the license `{license.name or license.identifier}`."
    )
    return (
        f"{chosen} The terms of the data they were trained on apply beside it; some data sets allow research only. "
        "Videos and pictures of people show faces and places, mostly without their consent to this use: do not use the "
        "features to identify people."
    )
