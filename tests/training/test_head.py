import math

import pytest
import torch

from tests.reference_data import read_json
from tests.training.recorded import assert_near, recorded, recorded_model
from training.head import HeadSettings, ProjectionHead


def test_student_logits_are_the_recorded_ones() -> None:
    step = recorded("train_step")
    head = recorded_model().student.cls_head
    assert_near(head(step["out/student/local/cls"]), step["out/head/student/local_cls"], 1e-5)
    assert_near(head(step["out/student/global/cls"]), step["out/head/student/global_cls"], 1e-5)
    for frame in ("past", "future"):
        masked = step[f"out/pmm/{frame}/out"][step["in/collated_masks"]]
        assert_near(head(masked), step[f"out/head/student/{frame}_patch"], 1e-5)


def test_teacher_logits_are_the_recorded_ones() -> None:
    step = recorded("train_step")
    head = recorded_model().teacher.cls_head
    crop_2_first = step["out/teacher/global/cls"].roll(3, dims=0)
    assert_near(head(crop_2_first), step["out/head/teacher/cls_swapped"], 1e-5)
    assert_near(head(step["out/teacher/global/patch"][step["in/collated_masks"]]), step["out/head/teacher/patch"], 1e-5)


@pytest.mark.parametrize(("width", "recording"), [(384, "vits16"), (768, "vitb16")])
def test_names_and_shapes_are_the_published_ones(width: int, recording: str) -> None:
    checkpoint = read_json("checkpoint_keys")[recording]["teacher_checkpoint"]["teacher"]
    published = {k.removeprefix("dino_head."): tuple(v) for k, v in checkpoint.items() if k.startswith("dino_head.")}
    with torch.device("meta"):
        state = ProjectionHead(width, HeadSettings()).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published


def test_a_new_head_gives_cosines() -> None:
    head = ProjectionHead(16, HeadSettings(hidden=32, bottleneck=8, prototypes=50))
    rows = torch.randn(7, 16)
    torch.testing.assert_close(head.project(rows).norm(dim=1), torch.ones(7))
    prototypes = head.last_layer.weight_v / head.last_layer.weight_v.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head(rows), head.project(rows) @ prototypes.T)
    assert head.last_layer.weight_v.std().item() == pytest.approx(math.sqrt(1 / 8 / 3), rel=0.15)
