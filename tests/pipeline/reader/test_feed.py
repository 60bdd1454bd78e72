import numpy as np
import pytest

from pipeline.reader.feed import plan_feed
from pipeline.sampling.color import color_map, is_colored
from pipeline.sampling.plan import PlanSettings, SampleTable, needed_frames, plan_batch
from pipeline.sampling.sandwich import SandwichSettings
from pipeline.sampling.views import SOLARIZE_OFF, Boxes, ColorJitterParams, ViewSettings

CLIPS = 7
VIEWS = ViewSettings(global_size=64, local_size=32, local_crops=3, solarize=(0.5, 0.5, 0.5))
CURRENT = 5


@pytest.mark.parametrize("auxiliary", [(), ("past",), ("past", "future")])
def test_inputs_of_every_view_are_those_of_the_plan(auxiliary: tuple[str, ...]) -> None:
    sandwich = SandwichSettings.model_validate({"auxiliary": auxiliary})
    settings = PlanSettings(views=VIEWS, sandwich=sandwich)
    table = SampleTable(np.full(9, 20), np.arange(100, 109), np.arange(140, 131, -1))
    plan = plan_batch(settings, table, 0, CLIPS, slice(0, CLIPS))
    frames = [[np.array([column, clip], np.uint8) for clip in range(CLIPS)] for column in range(1 + len(auxiliary))]
    feed = plan_feed(plan, VIEWS, frames)
    assert {len(values) for values in feed.values()} == {CLIPS * (CURRENT + 2 * len(auxiliary))}
    assert feed["decoded"].sum() == needed_frames(plan).sum(), "every frame once"
    for view, clip in np.ndindex(CURRENT + 2 * len(auxiliary), CLIPS):
        inputs = {name: values[view * CLIPS + clip] for name, values in feed.items()}
        if view < CURRENT:
            column = 0
            assert inputs["needed"]
        else:
            column = 1 + (view - CURRENT) // 2
            assert inputs["needed"] == plan.auxiliary_needed[clip, (view - CURRENT) % 2]
        assert inputs["mirror"] == plan.flip[clip, view]
        assert inputs["size"].tolist() == [32 if 2 <= view < CURRENT else 64] * 2
        box = Boxes(*(edge[clip, view] for edge in plan.boxes))
        assert inputs["start"].tolist() == [box.top, box.left]
        assert inputs["shape"].tolist() == [box.height, box.width]
        color = ColorJitterParams(
            **{name: np.array(value[clip, view]) for name, value in vars(plan.photometry).items()}
        )
        np.testing.assert_allclose(inputs["matrix"], color_map(color).matrix, rtol=1e-6)
        np.testing.assert_allclose(inputs["weights"], color_map(color).weights, rtol=1e-6, atol=1e-7)
        assert inputs["colored"] == is_colored(color)
        assert inputs["blurred"] == (color.sigma > 0)
        assert inputs["solarized"] == (color.solarize < SOLARIZE_OFF)
        if inputs["needed"]:
            holder = int(inputs["frame"])
            assert feed["decoded"][holder]
            assert feed["encoded"][holder].tolist() == [column, clip]
