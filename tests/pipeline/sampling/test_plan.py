from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.sampling.plan import BatchPlan, PlanSettings, SampleTable, plan_batch
from pipeline.sampling.sandwich import SandwichSettings
from pipeline.sampling.views import ViewSettings, center_boxes

SETTINGS = PlanSettings(seed=3, views=ViewSettings(global_size=64, local_size=32, local_crops=3))


def table(samples: int, neighbours: np.ndarray | None = None) -> SampleTable:
    generator = np.random.default_rng(0)
    frames = generator.integers(8, 40, samples)
    height, width = generator.integers(100, 400, (2, samples))
    return SampleTable(frames, height, width, neighbours)


def arrays(plan: Any) -> dict[str, np.ndarray]:
    """All per-clip arrays of a plan by name."""
    result: dict[str, np.ndarray] = {}
    for name in [field.name for field in fields(plan)] if is_dataclass(plan) else plan._fields:
        value = getattr(plan, name)
        if isinstance(value, np.ndarray):
            result[name] = value
        elif not isinstance(value, int):
            result |= {f"{name}.{inner}": array for inner, array in arrays(value).items()}
    return result


def joined(parts: list[BatchPlan]) -> dict[str, np.ndarray]:
    """The arrays of several parts as those of the whole batch; masks are ordered by crop, then clip."""
    plans = [arrays(part) for part in parts]
    whole = {name: np.concatenate([plan[name] for plan in plans]) for name in plans[0] if name != "masks"}
    crops = [plan["masks"].reshape(2, len(plan["rows"]), -1) for plan in plans]
    return whole | {"masks": np.concatenate(crops, axis=1).reshape(2 * len(whole["rows"]), -1)}


@given(ranks=st.sampled_from([1, 2, 4, 8]), size=st.integers(1, 4), samples=st.integers(1, 30), step=st.integers(0, 20))
def test_global_batch_is_the_same_on_any_number_of_ranks(ranks: int, size: int, samples: int, step: int) -> None:
    batch = ranks * size
    data = table(samples)
    whole = arrays(plan_batch(SETTINGS, data, step, batch, slice(0, batch)))
    parts = [plan_batch(SETTINGS, data, step, batch, slice(r * size, (r + 1) * size)) for r in range(ranks)]
    for name, value in joined(parts).items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)
    assert {part.masked_in_global_batch for part in parts} == {int(whole["masks"].sum())}


def test_draws_differ_by_epoch_and_do_not_depend_on_the_batch_size() -> None:
    data = table(12)
    first, second = (arrays(plan_batch(SETTINGS, data, step, 12, slice(0, 12))) for step in (0, 1))
    small = [arrays(plan_batch(SETTINGS, data, step, 4, slice(0, 4))) for step in range(3)]
    again = np.argsort(second["rows"])[first["rows"]]
    assert (second["rows"][again] == first["rows"]).all()
    for name in ("boxes.top", "photometry.brightness", "photometry.sigma"):
        assert (first[name] != second[name][again]).any(), name
        np.testing.assert_array_equal(np.concatenate([part[name] for part in small]), first[name])


def test_shapes() -> None:
    plan = plan_batch(SETTINGS, table(10), 0, 6, slice(2, 5))
    shapes = {name: value.shape for name, value in arrays(plan).items()}
    assert shapes["rows"] == (3,)
    assert shapes["frames"] == shapes["source_rows"] == (3, 3)
    assert shapes["boxes.top"] == shapes["flip"] == shapes["photometry.hue"] == (3, 5 + 4)
    assert shapes["masks"] == (6, 16)


def test_views_of_one_clip_differ_and_only_local_crops_are_mirrored() -> None:
    plan = plan_batch(SETTINGS, table(64), 0, 64, slice(0, 64))
    assert not plan.flip[:, [0, 1, 5, 6, 7, 8]].any()
    assert 0.3 < plan.flip[:, 2:5].mean() < 0.7
    assert (plan.boxes.width[:, 0] != plan.boxes.width[:, 1]).any()
    brightness = plan.photometry.brightness
    assert (brightness[:, 5] != brightness[:, 6]).any()
    area = plan.boxes.height * plan.boxes.width / (table(64).height * table(64).width)[plan.rows][:, None]
    assert area[:, :2].min() > area[:, 2:5].mean()


def test_auxiliary_frames_are_random_neighbours() -> None:
    neighbours = (np.arange(20)[:, None] + np.arange(1, 6)) % 20
    data = table(20, neighbours)
    drawn = [plan_batch(SETTINGS, data, step, 20, slice(0, 20)) for step in range(40)]
    rows, sources = np.concatenate([p.rows for p in drawn]), np.concatenate([p.source_rows for p in drawn])
    assert (sources[:, 0] == rows).all()
    counts = np.bincount((sources[:, 1] - rows) % 20, minlength=6)
    assert counts[0] == 0
    assert counts[6:].sum() == 0
    assert (abs(counts[1:6] - 160) < 5 * np.sqrt(160 * 0.8)).all()
    assert not np.concatenate([p.frames for p in drawn]).any()


@pytest.mark.parametrize("auxiliary", [(), ("past",), ("past", "past")])
def test_auxiliary_variants(auxiliary: tuple[str, ...]) -> None:
    settings = SETTINGS.model_copy(update={"sandwich": SandwichSettings(auxiliary=auxiliary)})
    plan = plan_batch(settings, table(5), 0, 5, slice(0, 5))
    assert plan.frames.shape == (5, 1 + len(auxiliary))
    assert plan.photometry.hue.shape == plan.boxes.top.shape == (5, 5 + 2 * len(auxiliary))


@pytest.mark.parametrize("crop", ["frame", "current"])
def test_auxiliary_views_show_the_whole_frame_or_the_boxes_of_the_global_crops(crop: str) -> None:
    views = SETTINGS.views.model_copy(update={"auxiliary_crop": crop})
    plan = plan_batch(SETTINGS.model_copy(update={"views": views}), table(30), 0, 30, slice(0, 30))
    assert (plan.frames[:, 1:] != plan.frames[:, :1]).all(), "another frame"
    whole = center_boxes(*(getattr(table(30), side)[plan.rows] for side in ("height", "width")))
    for edge, center in zip(plan.boxes, whole, strict=True):
        expected = edge[:, :2] if crop == "current" else np.stack([center, center], axis=1)
        np.testing.assert_array_equal(edge[:, 5:], np.concatenate([expected, expected], axis=1))


@pytest.mark.parametrize(("ratio", "fits"), [((0.1, 0.7), True), ((0.1, 0.75), False), ((1.0, 1.0), False)])
def test_masks_that_blocks_cannot_fill_are_refused(ratio: tuple[float, float], fits: bool) -> None:
    values = {"views": {"global_size": 32}, "masks": {"ratio": ratio}}
    if fits:
        PlanSettings.model_validate(values)
    else:
        with pytest.raises(ValidationError, match=r"masks 3 of the 2 x 2 patches of views\.global_size = 32"):
            PlanSettings.model_validate(values)
    PlanSettings.model_validate({"views": {"global_size": 48}, "masks": {"ratio": ratio}})
