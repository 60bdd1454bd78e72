"""Report of a step whose loss or gradient is not finite: enough to repeat the step."""

import dataclasses
import io
from pathlib import Path

import numpy as np

from pipeline.files import as_json, write_bytes
from pipeline.reader.loader import Loader
from pipeline.sampling.plan import BatchPlan
from pipeline.sampling.views import Boxes, ColorJitterParams
from training.step import StepResult

FOLDER = "nonfinite"


def broken_parts(result: StepResult) -> list[str]:
    """Names of the losses and gradients that are not finite on this rank."""
    named = {f"loss {name}": term for name, term in result.losses.items() if name != "total"}
    named |= {f"gradient of the {name}": norm for name, norm in result.norms.items()}
    return [name for name, value in named.items() if not bool(value.isfinite())]


def plan_arrays(plan: BatchPlan) -> dict[str, np.ndarray]:
    """All arrays of a plan by dotted name."""
    arrays: dict[str, np.ndarray] = {}
    for field in dataclasses.fields(plan):
        value = getattr(plan, field.name)
        if isinstance(value, Boxes):
            arrays |= {f"{field.name}.{name}": array for name, array in value._asdict().items()}
        elif isinstance(value, ColorJitterParams):
            arrays |= {f"{field.name}.{name}": array for name, array in vars(value).items()}
        else:
            arrays[field.name] = np.asarray(value)
    return arrays


def write_report(run: Path, result: StepResult, loader: Loader, plan: BatchPlan, rank: int) -> Path:
    """Write RUN/nonfinite/step-N-rank-R.json, and the batch plan as .npz beside it; returns the path of the first."""
    path = run / FOLDER / f"step-{plan.step:08d}-rank-{rank}.json"
    origins = [loader.mixture.origin(row) for row in plan.rows.tolist()]
    report = {
        "step": plan.step,
        "rank": rank,
        "broken": broken_parts(result),
        "losses": {name: str(float(term)) for name, term in result.losses.items()},
        "gradient_norms": {name: str(float(norm)) for name, norm in result.norms.items()},
        "samples": [{"dataset": origin.dataset.folder, "key": origin.key} for origin in origins],
    }
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **plan_arrays(plan))
    write_bytes(path.with_suffix(".npz"), stream.getvalue())
    write_bytes(path, as_json(report))
    return path
