import pytest

from pipeline.settings import UserError
from tests.training.recorded import recorded
from training.schedules import Schedules, ScheduleSettings, build_schedules, frozen_steps

FULL = build_schedules(ScheduleSettings(), epochs=400, steps_per_epoch=936, total_batch_size=256)
TINY = build_schedules(
    ScheduleSettings(base_lr=0.02, warmup_epochs=2, teacher_temperature_epochs=3),
    epochs=6,
    steps_per_epoch=4,
    total_batch_size=3,
)
NAMES = {"wd": "weight_decay", "teacher_temp": "teacher_temperature", "aux_lr": "pmm_lr"}


@pytest.mark.parametrize("name", ["lr", "wd", "momentum", "teacher_temp", "last_layer_lr", "aux_lr"])
@pytest.mark.parametrize(("run", "schedules"), [("full", FULL), ("tiny", TINY)])
def test_values_are_the_recorded_ones(run: str, schedules: Schedules, name: str) -> None:
    arrays = recorded("schedules")
    expected = arrays[f"{run}/{name}"].tolist()
    steps = arrays["full/probe_iters"].tolist() if run == "full" else range(len(expected))
    values = [getattr(schedules.at(step), NAMES.get(name, name)) for step in steps]
    assert values == pytest.approx(expected, rel=1e-12, abs=1e-18)


def test_the_rate_follows_the_root_of_the_batch() -> None:
    assert FULL.at(20 * 936).lr == pytest.approx(0.001)
    larger = build_schedules(ScheduleSettings(), epochs=400, steps_per_epoch=936, total_batch_size=1024)
    assert larger.at(20 * 936).lr == pytest.approx(0.002)


def test_without_warm_up_and_freeze_the_first_step_has_the_full_rate() -> None:
    settings = ScheduleSettings(warmup_epochs=0, freeze_last_layer_epochs=0, teacher_temperature_epochs=0)
    first = build_schedules(settings, epochs=3, steps_per_epoch=5, total_batch_size=1024).at(0)
    assert (first.lr, first.last_layer_lr, first.pmm_lr) == pytest.approx((0.002, 0.002, 0.0002))
    assert first.teacher_temperature == 0.07


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(UserError, match=r"schedule\.warmup_epochs = 20 is longer than the run of 10 epochs"):
        build_schedules(ScheduleSettings(), epochs=10, steps_per_epoch=5, total_batch_size=8)
    build_schedules(ScheduleSettings(), epochs=20, steps_per_epoch=5, total_batch_size=8)


def test_a_freeze_of_the_backbone_ends_within_the_run() -> None:
    assert [frozen_steps(epochs, 3, 5) for epochs in (None, 1, 2)] == [0, 5, 10]
    with pytest.raises(UserError, match=r"model\.freeze_backbone_epochs = 3 leaves none of the 3 epochs"):
        frozen_steps(3, 3, 5)
