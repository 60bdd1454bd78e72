from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.dataset import ShardDataset
from pipeline.sampling.sandwich import SandwichSettings
from pipeline.settings import UserError, parse_command
from tests.training.recorded import (
    TINY_MODEL,
    assert_near,
    recorded,
    recorded_model,
    recorded_views,
    write_checkpoint,
)
from training.attention_maps import (
    AttentionCommand,
    ClipFrames,
    cross_attention,
    draw_clip,
    frame_numbers,
    main,
    query_patch,
)


def checkpoint(folder: Path, auxiliary_branch: bool = True) -> Path:
    settings = TINY_MODEL.model_copy(update={"auxiliary_branch": auxiliary_branch})
    return write_checkpoint(folder, recorded_model(settings), {"data": {"sandwich": SandwichSettings().model_dump()}})


def test_a_picture_a_clip_with_current_masked_past_and_future(clip_dataset: Path, tmp_path: Path) -> None:
    keys = [str(key) for key in ShardDataset(clip_dataset).keys[:2]]
    options = [str(checkpoint(tmp_path / "c")), "--shards", str(clip_dataset), "--out", str(tmp_path / "maps")]
    main(parse_command(AttentionCommand, [*options, "--keys", ",".join(keys)]))
    assert sorted(path.stem for path in (tmp_path / "maps").glob("*.png")) == sorted(keys)
    main(parse_command(AttentionCommand, [*options, "--clips", "1"]))  # its own pictures are replaced
    with Image.open(tmp_path / "maps" / f"{keys[0]}.png") as picture:
        assert picture.width >= 4 * 64
    with pytest.raises(UserError, match="has no sample nobody"):
        main(parse_command(AttentionCommand, [*options, "--keys", "nobody"]))


def test_attention_is_that_of_the_recorded_step_on_its_images() -> None:
    step, views = recorded("train_step"), recorded_views()
    mean, deviation = (np.array(values) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    images = [views.global_crops[0], views.auxiliary[0][0], views.auxiliary[1][0]]
    frames: Any = [255 * (image.permute(1, 2, 0).numpy() * deviation + mean) for image in images]  # any value, for once
    clip = ClipFrames("key", frames, views.masks[0].numpy())
    past, future = cross_attention(recorded_model(), clip)
    assert_near(torch.from_numpy(past), step["out/pmm/past/cross_attn"][0], 1e-4)
    assert_near(torch.from_numpy(future), step["out/pmm/future/cross_attn"][0], 1e-4)


def test_the_attended_patch_is_the_brightest() -> None:
    frames = [np.full((64, 64, 3), 100, np.uint8)] * 2
    mask = np.zeros(16, bool)
    mask[[0, 6]] = True
    assert query_patch(mask) == 6
    attention = np.full((16, 16), 0.01, np.float32)
    attention[6, 3] = 0.85
    row = draw_clip(ClipFrames("key", frames, mask), [attention], ["past"])
    assert [tile.caption for tile in row.tiles] == ["current", "masked", "past"]
    _, masked, past = (np.asarray(tile.picture).astype(int) for tile in row.tiles)
    assert (masked[:16, :16] == 127).all()
    assert (masked[16, 32] == (255, 0, 0)).all()  # queried
    red = past[..., 0] - past[..., 2]
    row, column = np.unravel_index(red.argmax(), red.shape)
    assert (row // 16, column // 16) == (0, 3)


def test_frames_are_the_middle_one_and_those_at_the_mean_offset() -> None:
    assert frame_numbers(20, 10.0, SandwichSettings()) == [10, 6, 14]
    assert frame_numbers(1, 0.5, SandwichSettings()) == [0, 0, 0]
    assert frame_numbers(20, 10.0, SandwichSettings(auxiliary=("future",))) == [10, 14]
    assert frame_numbers(600, 60.0, SandwichSettings(unit="seconds")) == [300, 280, 320]


def test_a_model_without_auxiliary_branch_has_nothing_to_draw(clip_dataset: Path, tmp_path: Path) -> None:
    options = ["--shards", str(clip_dataset), "--out", str(tmp_path / "maps")]
    with pytest.raises(UserError, match="without past or future frames"):
        main(parse_command(AttentionCommand, [str(checkpoint(tmp_path / "c", False)), *options]))
    with pytest.raises(UserError, match="is not a training checkpoint"):
        main(parse_command(AttentionCommand, [str(tmp_path / "nowhere"), *options]))


def test_a_damaged_checkpoint_and_pictures_of_others_are_left_alone(clip_dataset: Path, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "c")
    picture = tmp_path / "maps" / f"{ShardDataset(clip_dataset).keys[0]}.png"
    options = [str(folder), "--shards", str(clip_dataset), "--out", str(picture.parent)]
    picture.parent.mkdir()
    picture.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"\.png was not made by `python -m training\.attention_maps`"):
        main(parse_command(AttentionCommand, options))
    assert picture.read_bytes() == b"mine"
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-4] + bytes(4))
    with pytest.raises(UserError, match=r"is damaged \(model\.safetensors has changed since it was written\)"):
        main(parse_command(AttentionCommand, options))
