import json
from pathlib import Path

import pytest

from evaluation.comparison import mismatches, read_rows, row
from evaluation.davis import DAVIS
from pipeline.settings import UserError
from tests.evaluation.trees import evaluate, moving_squares, write_sequence
from tests.pipeline.report.test_page import Page


def test_scores_of_another_protocol_are_shown_and_flagged(
    tmp_path: Path, patch_filter: None, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, masks = moving_squares(3)
    write_sequence(tmp_path / "data", "one", frames, dict(enumerate(masks)))
    ours = evaluate(DAVIS, tmp_path / "data")
    assert ours["protocol"]["name"] == "t-core"
    earlier = tmp_path / "earlier" / "davis.json"
    earlier.parent.mkdir()
    named = {**ours, "weights": {"name": "ours"}}
    earlier.write_text(json.dumps(named))
    capsys.readouterr()
    evaluate(DAVIS, tmp_path / "data", protocol="dino", size=(96,), compare=(earlier,), report={"enabled": True})
    printed = capsys.readouterr().out
    flag = "Scores of different protocols do not compare (filter-0: dino, changed: size=96; ours (earlier): t-core)."
    assert f"note: {flag}" in printed
    assert f"{100 * ours['scores']['J&F-Mean']:.1f}" in printed
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert flag in page.text
    assert "ours (earlier)" in page.text


def test_what_differs_is_said() -> None:
    def scored(protocol: str, data: str) -> dict[str, object]:
        return {"scores": {"IoU": 0.5}, "protocol": {"name": protocol}, "data": {"sha256": data}}

    same = [row(name, scored("dino", "a")) for name in "xy"]
    assert mismatches(same) == []
    assert mismatches(same[:1]) == []
    (sentence,) = mismatches([*same, row("z", scored("dino", "b"))])
    assert sentence.startswith("Scores of different data do not compare")
    (sentence,) = mismatches([*same, row("z", {**scored("dino", "a"), "protocol": {}})])  # before protocols had names
    assert sentence == "Scores of different protocols do not compare (x: dino; y: dino; z: unknown protocol)."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "not a result file of `python -m evaluation davis`"),
        ('{"task": "vip"}', "a result of vip, not of davis"),
        ('{"task": "davis", "scores": {"IoU": 1}, "protocol": {}, "data": {"sha256": ""}}', "has other scores than J"),
        ("[", "is not valid JSON"),
    ],
)
def test_other_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_rows([tmp_path / "file.json"], "davis", ("J",))
