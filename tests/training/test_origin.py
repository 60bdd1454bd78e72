"""Runs that begin with given weights or branch from a checkpoint; nearly all in forks, as in test_pretrain."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evaluation.backbones import open_checkpoint
from pipeline.files import sha256_file
from pipeline.settings import UserError, parse_command
from tests.training.forks import start_ranks, train
from tests.training.test_pretrain import assert_same_run, losses, small
from training.backbone.vit import VitSettings, random_backbone
from training.backbone.weights import load_backbone, save_backbone
from training.checkpoint import checkpoints
from training.export import export
from training.metrics import read_metrics
from training.model import TCoRe
from training.origin import origin_of, recorded_settings, refuse_other_source
from training.pretrain import PretrainCommand
from training.schedules import ScheduleSettings, build_schedules

SIZES = VitSettings(width=48, depth=3, heads=3, image_size=96, registers=2, layer_scale=0.1)
FROZEN = {"model.freeze_backbone_epochs": 1, "train.checkpoint_every": 2, "train.keep_checkpoints": 9}
SAME_ON_RANKS = {"model.loss.koleo": 0, "model.backbone.drop_path": 0}
STEPS = 6
"""An epoch of the runs."""


def adapt(shards: Path, out: Path, source: Path, **options: object) -> dict[str, object]:
    """Options of a run that begins with the weights `source`, without any size of the backbone."""
    free = {key: value for key, value in small(shards, out).items() if not key.startswith("model.backbone.")}
    return (
        free
        | {"model.init": source, "model.pmm.heads": 3, **SAME_ON_RANKS, "train.trackers": "[]", "train.report": False}
        | options
    )


def backbone_state(checkpoint: Path, part: str) -> dict[str, torch.Tensor]:
    prefix = f"{part}.backbone."
    tensors = load_file(checkpoint / "model.safetensors")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def same(state: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "released.safetensors"
    save_backbone(path, random_backbone(SIZES, seed=5), {})
    return path


@pytest.fixture(scope="module")
def adapted(clip_dataset: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose backbone is frozen in the first of two epochs."""
    out = tmp_path_factory.mktemp("runs") / "adapted"
    status, message = train(adapt(clip_dataset, out, source, **FROZEN))
    assert status == 0, message
    assert f"student and teacher begin with {source} (SHA-256 {sha256_file(source)[:12]})" in message
    return out


def test_before_the_first_update_the_backbones_are_the_source_and_the_rest_is_new(source: Path) -> None:
    command, origin = origin_of(parsed(source), None)
    models = []
    for backbone in (None, origin.backbone):
        torch.manual_seed(0)
        models.append(TCoRe(command.model))
        if backbone is not None:
            models[-1].initialize_backbones(backbone)
    random, model = models
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = load_backbone(source)(image)
        for branch in (model.student.eval(), model.teacher):
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(branch.backbone(image), expected, strict=True))
    for name, tensor in random.state_dict().items():
        assert ".backbone." in name or torch.equal(model.state_dict()[name], tensor)


def test_a_frozen_backbone_stays_bit_equal_while_the_heads_are_trained(adapted: Path, source: Path) -> None:
    given = load_backbone(source).state_dict()
    paths = checkpoints(adapted)
    assert [int(path.name[-2:]) for path in paths] == [2, 4, 6, 8, 10, 12]
    for path in paths:
        frozen = int(path.name[-2:]) <= STEPS
        assert same(backbone_state(path, "student"), given) == frozen
        assert same(backbone_state(path, "teacher"), given) == frozen
    first, second = (load_file(path / "model.safetensors") for path in paths[:2])
    for name in ("student.cls_head.mlp.0.weight", "teacher.cls_head.mlp.0.weight", "pmm.layers.0.linear.weight"):
        assert not torch.equal(first[name], second[name])
    trained = [line["step"] for line in read_metrics(adapted) if "gradient_norm/backbone" in line]
    assert trained == list(range(STEPS + 1, 2 * STEPS + 1))


@pytest.mark.parametrize(("step", "given"), [(4, True), (6, False)], ids=["frozen", "at the end of the freeze"])
def test_a_resumed_run_equals_the_undisturbed_one_and_needs_no_source(
    step: int, given: bool, adapted: Path, clip_dataset: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(adapted, out)
    for path in checkpoints(out):
        if int(path.name[-2:]) > step:
            shutil.rmtree(path)
    options = adapt(clip_dataset, out, source, **FROZEN)
    away = source.rename(source.with_name("away"))
    try:
        status, message = train(options if given else {key: options[key] for key in options if key != "model.init"})
    finally:
        away.rename(source)
    assert status == 0, message
    assert (out / "config.json").read_bytes() == (adapted / "config.json").read_bytes()
    assert_same_run(out, adapted)


def test_the_hash_of_the_source_travels_to_checkpoint_card_and_score(
    adapted: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "teacher.safetensors"
    export(checkpoints(adapted)[-1], out, "teacher")
    config = json.loads((checkpoints(adapted)[-1] / "config.json").read_text())
    card = open_checkpoint(out, "adapted", device=torch.device("cpu")).origin["card"]  # as a result file holds it
    for record in (config, card):
        assert record["init"]["source"] == "released.safetensors"
        assert record["init"]["source_sha256"] == sha256_file(source)
    assert config["model"]["backbone"] | {"drop_path": SIZES.drop_path} == SIZES.model_dump(mode="json")
    assert str(source.parent).encode() not in out.read_bytes()


def parsed(source: Path | None, *options: str) -> PretrainCommand:
    given = [] if source is None else ["--model.init", str(source), "--model.pmm.heads", "3"]
    out = [] if "--out" in options else ["--out", "absent"]
    return parse_command(PretrainCommand, ["--data.shards", "x", *out, *given, *options])


def test_sizes_follow_from_the_source_and_options_that_contradict_it_are_refused(source: Path, tmp_path: Path) -> None:
    options = ("--model.backbone.drop_path", "0", "--model.backbone.depth", "3", "--model.backbone.layer_scale", "1")
    command, origin = origin_of(parsed(source, *options), None)
    assert command.model.backbone == SIZES.model_copy(update={"drop_path": 0.0})
    assert origin.backbone is not None
    with pytest.raises(UserError, match=r"model\.backbone\.registers = 4, but the weights .*released.* have 2: leave"):
        origin_of(parsed(source, "--model.backbone.registers", "4"), None)
    (tmp_path / "preset.yaml").write_text("model: {backbone: {architecture: small}}")
    with pytest.raises(UserError, match=r"model\.backbone\.depth = 12, but the weights"):
        origin_of(parsed(source, "--config", str(tmp_path / "preset.yaml")), None)
    with pytest.raises(UserError, match=r"does not fit the model: pmm\.heads = 32 must divide backbone\.width = 48"):
        origin_of(parsed(source, "--model.pmm.heads", "32"), None)
    with pytest.raises(UserError, match=r"cannot read the weights .*absent"):
        origin_of(parsed(tmp_path / "absent"), None)
    assert origin_of(parsed(None), None)[0] == parsed(None)


def test_a_run_continues_wherever_its_source_is_and_with_no_other(source: Path, tmp_path: Path) -> None:
    _, origin = origin_of(parsed(source), None)
    options = {"family": "dino", "mean": [0.5] * 3, "std": [1.0] * 3}
    model = {"init": str(source), "init_options": options, "backbone": SIZES.model_dump(mode="json")}
    recorded = {"model": model, "init": origin.init}
    moved = Path(shutil.copy(source, tmp_path / "moved.safetensors"))
    for path in (source, moved, None):
        command, again = origin_of(parsed(path, "--model.pmm.heads", "3"), recorded)
        assert (command.model.init, again.init, again.backbone) == (source, origin.init, None)
        assert command.model.init_options.given() == options | {"mean": (0.5,) * 3, "std": (1.0,) * 3}
    other = tmp_path / "other.safetensors"
    save_backbone(other, random_backbone(SIZES, seed=6), {})
    same = "--model.init_options.family=dino", "--model.init_options.mean=0.5,0.5,0.5", "--model.init_options.std=1,1,1"
    for given in (parsed(source, *same), parsed(moved, same[0]), parsed(None, *same)):
        refuse_other_source(given.model, recorded)
    refusals: list[tuple[Path | None, tuple[str, ...], str]] = [
        (other, (), rf"other.safetensors holds other weights \({sha256_file(other)[:12]}\) than those that the run"),
        (tmp_path / "absent", (), f"absent is absent, and the run began with {source}: leave it out"),
        (None, ("--model.init_options.family=mae",), r"init_options\.family = mae, but the run began with dino: leave"),
        (source, ("--model.init_options.heads=3",), r"init_options\.heads = 3, but the run began with None: leave"),
    ]
    for path, words, message in refusals:
        with pytest.raises(UserError, match=message):
            refuse_other_source(parsed(path, *words).model, recorded)
    with pytest.raises(UserError, match=r"released\.safetensors, but the run began without such weights: leave it out"):
        refuse_other_source(parsed(source).model, recorded | {"init": None})
    with pytest.raises(UserError, match=r"init_options\.family says how to read model\.init, which is not given"):
        origin_of(parsed(None, "--model.init_options.family", "dino"), None)


def test_an_imported_source_is_known_by_its_own_hash(tmp_path: Path) -> None:
    card = {"source": "dino.pth", "source_sha256": "cd" * 32, "part": "teacher"}
    save_backbone(tmp_path / "imported.safetensors", random_backbone(SIZES, seed=5), card)
    _, origin = origin_of(parsed(tmp_path / "imported.safetensors"), None)
    recorded = {"model": {"init": "elsewhere", "backbone": {}}, "init": origin.init}
    assert origin.init is not None
    assert (origin.init["source"], origin.init["source_sha256"]) == ("dino.pth", "cd" * 32)
    refuse_other_source(parsed(tmp_path / "imported.safetensors").model, recorded)


LONGER = {"train.epochs": 3, "optimizer.layer_decay": 1.0, "optimizer.beta1": 0.5}


def test_a_branch_continues_under_new_settings_and_after_a_kill(
    adapted: Path, clip_dataset: Path, source: Path, tmp_path: Path
) -> None:
    origin = shutil.copytree(checkpoints(adapted)[3], tmp_path / "step-00000008")

    def branch(out: Path, **options: object) -> dict[str, object]:
        free = {key: value for key, value in adapt(clip_dataset, out, source).items() if key != "model.init"}
        return free | FROZEN | LONGER | {"resume": origin, "train.branch": True} | options

    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    status, message = train(branch(undisturbed))
    assert status == 0, message
    assert f"branching from {origin}" in message
    before, after = losses(adapted), losses(undisturbed)
    assert list(after) == list(range(9, 19))
    assert after[9] == before[9]  # the same weights and centers on the same batch
    assert after[10] != before[10]
    schedules = build_schedules(ScheduleSettings(warmup_epochs=0, freeze_last_layer_epochs=0), 3, STEPS, 4)
    assert read_metrics(undisturbed)[0]["schedule/lr"] == pytest.approx(schedules.at(8).lr, rel=1e-12)
    state = torch.load(checkpoints(undisturbed)[-1] / "optimizer.pt", weights_only=True)
    assert {group["betas"][0] for group in state["param_groups"]} == {0.5}
    assert {group["lr_multiplier"] for group in state["param_groups"]} == {1.0, 0.2}
    assert state["state"]["student.cls_head.mlp.0.weight"]["step"] == 18
    config = json.loads((undisturbed / "config.json").read_text())
    recorded = json.loads((origin / "config.json").read_text())
    assert (config["train"]["epochs"], config["branched_from"]["config"]) == (3, recorded)
    assert (config["branched_from"]["step"], config["init"]) == (8, recorded["init"])
    assert config["branched_from"]["sha256"]["model.safetensors"] == sha256_file(origin / "model.safetensors")
    export(checkpoints(undisturbed)[-1], tmp_path / "teacher.safetensors", "teacher")
    content = (tmp_path / "teacher.safetensors").read_bytes()
    assert str(source.parent).encode() not in content
    assert str(clip_dataset.parent).encode() not in content

    shutil.copytree(undisturbed, killed)
    step_6 = checkpoints(adapted)[2]
    for resume, of, words in (
        (step_6, killed, f"branched from another checkpoint than {step_6}: from step 8 with weights "),
        (tmp_path / "step-00000009", killed, "branched from another checkpoint than"),
        (checkpoints(adapted)[3], adapted, f"{adapted} holds a run that did not branch from"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            recorded_settings(parsed(None, "--out", str(of), "--resume", str(resume), "--train.branch", "true"))
    for path in checkpoints(killed)[2:]:
        shutil.rmtree(path)
    origin.rename(tmp_path / "away")
    status, message = train(branch(killed))
    assert status == 0, message
    assert "continuing from" in message
    assert_same_run(killed, undisturbed)


def test_without_a_branch_the_refusal_names_the_way(
    adapted: Path, clip_dataset: Path, source: Path, tmp_path: Path
) -> None:
    def refusal(out: Path, **options: object) -> str:
        status, message = train(adapt(clip_dataset, out, source, **FROZEN, **{"train.epochs": 3, **options}))
        assert status == 2
        return message

    differs = r"train.epochs = 2 (recorded), 3 (now)"
    message = refusal(adapted)
    assert differs in message
    assert f"--resume {adapted}/checkpoints/step-N --out NEW --train.branch true" in message
    message = refusal(tmp_path / "new", resume=checkpoints(adapted)[-1])
    assert differs in message
    assert "add --train.branch true" in message
    again = {"train.branch": True, "resume": checkpoints(adapted)[-1], "model.init": source.with_name("other")}
    assert f"other is absent, and the run began with {source}: leave it out" in refusal(tmp_path / "new", **again)
    assert "train.branch needs the checkpoint" in refusal(tmp_path / "new", **{"train.branch": True})
    other = {"train.branch": True, "resume": checkpoints(adapted)[-1], "model.head.prototypes": 32}
    message = refusal(tmp_path / "new", **other)
    assert re.search(
        r"does not match the model \(cls_center.*: model\.head\.prototypes = \d+ \(recorded\), 32 \(now\)", message
    )
    ended = {"train.branch": True, "resume": checkpoints(adapted)[-1], "train.epochs": 2}
    assert "train.epochs = 2 ends the run after step 12, but " in refusal(tmp_path / "new", **ended)
    assert not (tmp_path / "new").exists()


@pytest.mark.dist
def test_two_ranks_freeze_and_train_as_one(adapted: Path, clip_dataset: Path, source: Path, tmp_path: Path) -> None:
    for rank in start_ranks(adapt(clip_dataset, tmp_path / "run", source, **FROZEN)):
        status, message = rank.result()
        assert status == 0, message
    assert losses(tmp_path / "run") == pytest.approx(losses(adapted), rel=2e-3)
    ours, theirs = (read_metrics(run)[STEPS]["gradient_norm/backbone"] for run in (tmp_path / "run", adapted))
    assert ours == pytest.approx(theirs, rel=1e-3)  # the first gradients of the backbone are those of all ranks
    assert same(backbone_state(checkpoints(tmp_path / "run")[2], "student"), load_backbone(source).state_dict())
