import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from evaluation.__main__ import main
from evaluation.look.command import LookCommand, chosen_settings
from evaluation.pictures import save_mask
from pipeline.settings import UserError, parse_command
from tests.media import write_clip
from training.backbone.vit import VitSettings
from training.backbone.weights import random_backbone, save_backbone


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two tiny networks with patches of 16 and 14."""
    folder, paths = tmp_path_factory.mktemp("weights"), []
    for patch in (16, 14):
        settings = VitSettings(width=32, depth=1, heads=2, patch_size=patch, image_size=2 * patch)
        paths.append(folder / f"p{patch}.safetensors")
        save_backbone(paths[-1], random_backbone(settings, seed=0), card={})
    return paths


def look(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit status of `python -m evaluation look`."""
    monkeypatch.setattr(sys, "argv", ["evaluation", "look", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_video_becomes_a_film_a_sheet_and_a_page(
    weights: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "clip.avi", 1, 0, (64, 48))
    (tmp_path / "torn.avi").write_bytes((tmp_path / "clip.avi").read_bytes()[:3000])
    mask = np.zeros((48, 64), np.uint8)
    mask[10:30, 20:40] = 1
    save_mask(tmp_path / "mask.png", mask)
    options = ["--weights", ",".join(map(str, weights)), "--out", tmp_path / "out", "--threads", 1, "--fps", 2]
    status = look(
        monkeypatch,
        *(tmp_path / "torn.avi", tmp_path / "clip.avi", *options),
        *("--mask", tmp_path / "mask.png", "--size", "112,112", "--background"),
    )
    printed = capsys.readouterr()
    assert status == 1
    assert f"error: cannot look at {tmp_path / 'torn.avi'}: " in printed.err
    out = tmp_path / "out" / "clip"
    assert f"clip.avi: 2 frames, {out}" in printed.out
    reader = imageio_ffmpeg.read_frames(out / "look.mp4")
    facts = next(reader)
    assert (facts["codec"], facts["pix_fmt"].partition("(")[0], facts["fps"]) == ("h264", "yuv420p", 2)
    film = [np.frombuffer(frame, np.uint8).reshape(facts["size"][1], facts["size"][0], 3) for frame in reader]
    assert len(film) == 2
    assert film[0].shape[1] == 5 * 480 + 4 * 4, "the frame, the components of two networks, and their masks"
    assert film[0][30:, :480].mean() < film[1][30:, :480].mean(), "the clip gets lighter"
    page = (out / "page.html").read_text()
    assert page.count("propagated from the first frame") == 2
    assert "protocol t-core" in page
    assert "112 x 112, 7 x 7 patches" in page
    assert "112 x 112, 8 x 8 patches" in page
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width >= 2 * 240


def test_sizes_without_and_with_something_to_propagate(weights: list[Path]) -> None:
    required = ["a.mp4", "--weights", str(weights[0]), "--out", "x"]

    def settings(*options: str) -> tuple[tuple[int, ...], str, int]:
        chosen = chosen_settings(parse_command(LookCommand, [*required, *options]))
        return chosen.size, chosen.resampling, chosen.propagation.top_k

    assert settings()[:2] == ((256,), "dinov3")
    assert settings("--size", "480,640")[0] == (480, 640)
    assert settings("--points", "0.5,0.5") == ((480, 880), "t-core", 7)
    assert settings("--points", "0.5,0.5", "--protocol", "dino", "--size", "128") == ((128,), "dino", 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--points", "0.5"], "points = .*must be pairs of x,y"),
        (["--points", "0.5,1"], r"points.1 = 1: must be at least 0 and less than 1"),
        (["--points", "0.5,0.5", "--mask", "m.png"], "mask and points cannot be propagated at once"),
        (["--size", "1,2,3"], "must be a height and a width"),
        (["--protocol", "davis"], "protocol = 'davis'"),
    ],
)
def test_odd_options_end_in_one_sentence(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_command(LookCommand, ["a.mp4", "--weights", "w", "--out", "x", *options])


def test_a_missing_video_is_named(
    weights: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert look(monkeypatch, "gone.mp4", "--weights", weights[0], "--out", "x") == 2
    assert capsys.readouterr().err == "error: there is no video gone.mp4\n"
    assert look(monkeypatch, "--weights", weights[0], "--out", "x") == 2
    assert capsys.readouterr().err.count("\n") == 1
