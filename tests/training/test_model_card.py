import ast
import json
import math
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData

from evaluation.davis import DAVIS
from pipeline.cards import save_card
from pipeline.settings import UserError, parse_command
from tests.evaluation.trees import evaluate, moving_squares, write_sequence
from tests.training.recorded import seal
from tests.training.test_export import checkpoint_of_a_run
from training.export import ExportCommand, export, main
from training.model_card import License, model_card, read_results

SIZES = {"width": 384, "depth": 12, "heads": 6, "patch_size": 16, "image_size": 224}
CARD: dict[str, Any] = {"architecture": SIZES, "part": "teacher", "weights_sha256": "ab", "steps": 7}
SECRETS = ("/secret", "home/someone", "s3://", "C:\\data")


def head(text: str) -> ModelCardData:
    """The head of a model card as the Hub's library reads it."""
    data = ModelCard(text).data
    assert isinstance(data, ModelCardData)
    return data


def result_file(path: Path, weights_sha256: str, **changes: Any) -> Path:
    """A result file as `python -m evaluation` writes it, paths of the machine included."""
    sequence = {"status": "scored"}
    record = {
        "task": "davis",
        "title": "DAVIS-2017",
        "scores": {"J&F-Mean": 0.6471, "J-Mean": 0.635},
        "sequences": {"dog": sequence, "cows": sequence, "gone": {"status": "failed"}},
        "protocol": {"name": "dino, changed: size=240", "data": "/secret/davis"},
        "data": {"path": "/secret/davis", "sha256": "ab" * 32},
        "weights": {"path": "/secret/w", "card": {"weights_sha256": weights_sha256}, "random_init_seed": None},
    }
    path.write_text(json.dumps(record | changes))
    return path


@pytest.mark.parametrize("kind", ["portable", "transformers", "timm"])
def test_the_card_beside_the_weights_is_one_of_the_hub(tmp_path: Path, kind: Any) -> None:
    checkpoint = checkpoint_of_a_run(tmp_path)
    config = json.loads((checkpoint / "config.json").read_text())
    config["model"]["init"] = "/secret/dino.pth"
    config["init"] = {"source": "dino.pth", "source_sha256": "cd" * 32}
    config["data"]["somewhere"] = ["home/someone/x", "s3://bucket/y", "C:\\data"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    seal(checkpoint)
    out = tmp_path / ("tiny.safetensors" if kind == "portable" else "tiny")
    sha256 = export(checkpoint, out, "teacher", kind)
    scored = result_file(tmp_path / "davis.json", sha256)
    license_ = License("cc-by-nc-4.0")
    assert export(checkpoint, out, "teacher", kind, [scored], license_) == sha256  # replaces the first card
    text = (tmp_path / "tiny.README.md" if kind == "portable" else out / "README.md").read_text()
    data = head(text)
    assert data.license == "cc-by-nc-4.0"
    assert data.library_name == {"portable": "tcore-pipeline"}.get(kind, kind)
    assert data.model_name == "tiny"
    assert data.eval_results is not None
    assert [(r.dataset_name, r.dataset_config, r.metric_type, r.metric_value) for r in data.eval_results] == [
        ("DAVIS-2017", "dino, changed: size=240", "J&F-Mean", 64.71),
        ("DAVIS-2017", "dino, changed: size=240", "J-Mean", 63.5),
    ]
    for content in (
        "paper-tiny",
        "`abc`",
        "`def`",
        sha256,
        "2 of 3",
        "loss/total",
        "cd" * 32,
        "@inproceedings",
        "faces",
    ):
        assert content in text
    written = b"".join(path.read_bytes() for path in [*tmp_path.glob("tiny*"), *out.glob("*")] if path.is_file())
    for secret in (*SECRETS, str(tmp_path)):
        assert secret.encode() not in written


@pytest.mark.parametrize("kind", ["portable", "transformers", "timm"])
def test_a_result_of_the_evaluation_goes_into_the_card(tmp_path: Path, kind: Any) -> None:
    checkpoint, out = checkpoint_of_a_run(tmp_path), tmp_path / "w.safetensors"
    config = json.loads((checkpoint / "config.json").read_text())
    config["init"] = {"source": "dino.pth", "source_sha256": "cd" * 32}
    (checkpoint / "config.json").write_text(json.dumps(config))
    seal(checkpoint)
    given = out if kind == "portable" else tmp_path / "folder"
    sha256 = export(checkpoint, given, "teacher", kind)
    frames, masks = moving_squares(3)
    write_sequence(tmp_path / "data", "one", frames, dict(enumerate(masks)))
    record = evaluate(DAVIS, tmp_path / "data", weights=given, size=(96, 160))
    card = record["weights"]["card"]
    assert (card["weights_sha256"], card["init"], card["part"]) == (sha256, config["init"], "teacher")
    export(checkpoint, out, "teacher", scores=[tmp_path / "out" / "davis.json"])
    (measured, *_) = head((tmp_path / "w.README.md").read_text()).eval_results or []
    assert measured.metric_value == pytest.approx(100 * record["scores"]["J&F-Mean"], abs=0.005)
    assert (measured.dataset_name, measured.dataset_config) == ("DAVIS-2017", "t-core, changed: size=96,160")
    assert measured.dataset_revision == record["data"]["sha256"]


def test_the_program_prints_where_the_card_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(checkpoint_of_a_run(tmp_path)), str(tmp_path / "w.safetensors"), "--license"]
    main(parse_command(ExportCommand, [*words, "mit"]))
    assert "w.README.md" in capsys.readouterr().out
    assert head((tmp_path / "w.README.md").read_text()).license == "mit"
    main(parse_command(ExportCommand, [*words, "other", "--license_name", "of-our-lab-1.0"]))
    data = head((tmp_path / "w.README.md").read_text())
    assert (data.license, data.license_name) == ("other", "of-our-lab-1.0")
    for given, message in (
        (["not a license: really"], "no identifier of the Hugging Face Hub"),
        (["apach-2.0"], r"such as .*apache-2\.0.*: for any other license, give --license other --license_name NAME"),
        (["other"], "license_name belongs to --license other, which needs it"),
        (["mit", "--scores", ""], "scores = .*: is empty: give a path, or leave the option out"),
        (["mit", "--license_name", "mine"], "license_name belongs to"),
        (["other", "--license_name", "My: own"], "license_name"),
    ):
        with pytest.raises(UserError, match=message):
            parse_command(ExportCommand, [*words, *given])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"weights": {"card": {"weights_sha256": "0" * 64}, "random_init_seed": None}},
            "scores of weights 00000000000",
        ),
        ({"weights": {"card": {}, "random_init_seed": None}}, "scores of weights without a hash, not of those"),
        ({"weights": {"card": {}, "random_init_seed": 3}}, "scores of random weights"),
        ({"weights": None}, "not a result file"),
        ({"scores": None}, "no sequence could be scored"),
        ({"sequences": 3}, "not a result file"),
        ({"scores": {"J-Mean": 0.5, "J&F-Mean": math.nan}}, "J&F-Mean = nan is no score: score the weights again"),
        ({"scores": {"J-Mean": -math.inf}}, "J-Mean = -inf is no score"),
    ],
)
def test_scores_of_other_weights_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    checkpoint, out = checkpoint_of_a_run(tmp_path), tmp_path / "w.safetensors"
    sha256 = export(checkpoint, out, "teacher")
    before = (tmp_path / "w.README.md").read_bytes()
    with pytest.raises(UserError, match=f"--scores .*r.json: {message}"):
        export(checkpoint, out, "teacher", scores=[result_file(tmp_path / "r.json", sha256, **changes)])
    assert (tmp_path / "w.README.md").read_bytes() == before


def test_predictions_from_disk_are_not_scores_of_weights(tmp_path: Path) -> None:
    record = json.loads(result_file(tmp_path / "r.json", "").read_text())
    del record["weights"]
    (tmp_path / "r.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="no result of scoring weights"):
        export(checkpoint_of_a_run(tmp_path), tmp_path / "w.safetensors", "teacher", scores=[tmp_path / "r.json"])


@pytest.mark.parametrize("kind", ["portable", "timm"])
def test_a_card_that_somebody_has_edited_stays(tmp_path: Path, kind: Any) -> None:
    checkpoint, out = checkpoint_of_a_run(tmp_path), tmp_path / ("w.safetensors" if kind == "portable" else "w")
    export(checkpoint, out, "teacher", kind)
    path = tmp_path / "w.README.md" if kind == "portable" else out / "README.md"
    edited = path.read_text().replace("## Scores", "My own words.\n\n## Scores")
    path.write_text(edited)
    with pytest.raises(UserError, match=r"README\.md was edited: move it away, or give another name"):
        export(checkpoint, out, "teacher", kind)
    assert path.read_text() == edited
    path.rename(tmp_path / "mine.md")
    export(checkpoint, out, "teacher", kind)
    assert "My own words" not in path.read_text()


def test_initial_weights_are_named_with_their_hash() -> None:
    card = CARD | {"init": {"source": "dino.pth", "source_sha256": "cd" * 32}}
    card["branched_from"] = {"step": 4, "sha256": {"config.json": "00" * 32, "model.safetensors": "ef" * 32}}
    text = model_card(Path("w"), card, [], License(), "portable")
    assert f"| continues | step 4 of a run with other settings, hash `{'ef' * 32}` |" in text
    assert f"| initial weights | dino.pth, hash `{'cd' * 32}` |" in text
    assert "No license has been chosen" in text
    assert "Not scored." in text
    assert head(text).license == "unknown"
    card["init"]["source"] = "a|b\\\nc.pth"
    assert r"| initial weights | a\|b\\ c.pth, hash" in model_card(Path("w"), card, [], License(), "portable")


@pytest.mark.parametrize("kind", ["portable", "transformers", "timm"])
@pytest.mark.parametrize("name", ["weights", "v1.5.safetensors", 'it\'s "mine"\\', "a\nb"])
def test_the_way_to_load_is_python_with_the_name_of_what_is_written(name: str, kind: Any) -> None:
    text = model_card(Path("somewhere") / name, CARD, [], License(), kind)
    code = ast.parse(text.split("```python\n")[1].split("```")[0])
    words = {node.value for node in ast.walk(code) if isinstance(node, ast.Constant)}
    assert (f"local-dir:{name}" if kind == "timm" else name) in words
    assert text.split("---\n\n")[1].startswith("# ")
    assert text.split("---\n\n")[1].split("\n")[1] == ""


def test_a_result_that_is_given_twice_is_one_and_two_of_the_same_are_refused(tmp_path: Path) -> None:
    def result(name: str, **changes: Any) -> Path:
        return result_file(tmp_path / name, "ab", **changes)

    first, again = result("1.json", scores={"zero": -0.0}), result("2.json", scores={"zero": -0.0})
    tap = result("3.json", task="tapvid", title="TAP | Vid", scores={"PCK": -1e-7})
    results = read_results([first, again, tap], "ab")
    assert [found.task for found in results] == ["davis", "tapvid"]
    text = model_card(Path("w"), CARD, results, License(), "portable")
    assert "| zero 0.0 |" in text
    assert r"| TAP \| Vid |" in text
    assert "-0.0" not in text
    with pytest.raises(UserError, match=r"2\.json: another result for DAVIS-2017 under .*dino.*1\.json: give"):
        read_results([first, result("2.json")], "ab")


def test_another_file_is_no_card(tmp_path: Path) -> None:
    for content in (b"# Notes\n", b"\xff\xfe"):
        (tmp_path / "README.md").write_bytes(content)
        with pytest.raises(UserError, match="is no card as this program writes it"):
            save_card(tmp_path / "README.md", "text")
    (tmp_path / "README.md").write_bytes(b"")
    save_card(tmp_path / "README.md", "text")
    assert (tmp_path / "README.md").read_text() == "text"
