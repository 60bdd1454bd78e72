from benchmarks.adapt import VARIANTS, summary
from pipeline.settings import parse_command
from training.pretrain import PretrainCommand


def test_the_lowest_rank_and_the_highest_koleo_are_those_of_any_line() -> None:
    lines = [
        {"features/effective_rank": rank, "loss/koleo": koleo, "loss/total": loss}
        for rank, koleo, loss in ((7.0, 0.2, 9.0), (2.0, 0.7, 4.0), (6.0, 0.3, 3.0))
    ]
    assert list(summary(lines).values()) == [7.0, 2.0, 6.0, 0.2, 0.7, 0.3, 3.0]


def test_the_runs_differ_in_rate_and_freeze_only() -> None:
    preset = ["--config", "configs/tiny.yaml", "--data.shards", "x", "--out", "y"]
    tenth, full, bare = (parse_command(PretrainCommand, [*preset, *options]) for options in VARIANTS.values())
    assert full.schedule.base_lr == bare.schedule.base_lr == 10 * tenth.schedule.base_lr
    assert [run.model.freeze_backbone_epochs for run in (tenth, full, bare)] == [1, 1, None]
    assert [run.schedule.warmup_epochs for run in (tenth, full, bare)] == [2, 2, 0]
