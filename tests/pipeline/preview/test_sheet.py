import numpy as np
import pytest
from PIL import Image

from pipeline.preview.sheet import arrange, sample_row
from pipeline.preview.strips import Draw, Strip


def strip(draws: list[Draw], size: tuple[int, int] = (320, 240), frames: int = 20, name: str = "riding") -> Strip:
    """Frame k is a gray of level 10 k."""
    return Strip(
        key="key",
        class_name=name,
        source="riding/file.mp4",
        size=size,
        num_frames=frames,
        duration_s=frames / 2,
        times_s={frame: frame / 2 for frame in range(frames)},
        pictures={frame: Image.new("RGB", size, (10 * frame,) * 3) for frame in range(frames)},
        even=list(range(frames)) if draws else [],
        draws=draws,
    )


@pytest.mark.parametrize("size", [(320, 240), (256, 455)])
def test_frames_of_a_clip_are_in_order_and_the_first_triplet_has_colored_edges(size: tuple[int, int]) -> None:
    row = sample_row(strip([Draw("epoch 0", (6, 9, 13)), Draw("epoch 1", (5, 8, 12))], size))
    assert row.heading == f"riding: key, 20 frames, 10.0 s, {size[0]} x {size[1]}"
    pictures = [tile.picture for tile in row.tiles]
    levels = [int(np.asarray(picture).mean()) for picture in pictures]
    assert len(levels) == 10
    assert levels == sorted(set(levels))
    assert (levels[0], levels[-1]) == (0, 190)
    assert max(picture.height for picture in pictures) <= 150
    edged = {tile.edge: (tile.caption, level) for tile, level in zip(row.tiles, levels, strict=True) if tile.edge}
    assert edged == {
        "blue": ("past, 3.00 s", 60),
        "orange": ("current, 4.50 s", 90),
        "green": ("future, 6.50 s", 130),
    }


def test_a_clip_of_three_frames() -> None:
    row = sample_row(strip([Draw("triplet 0", (0, 1, 2))], frames=3))
    assert [tile.edge for tile in row.tiles] == ["blue", "orange", "green"]


def test_images_share_rows_and_clips_do_not() -> None:
    images = arrange([sample_row(strip([], frames=1)) for _ in range(8)])
    assert [len(row.tiles) for row in images] == [6, 2]
    assert images[0].tiles[0].caption == "riding\nkey"
    clips = [sample_row(strip([Draw("epoch 0", (6, 9, 13))]))] * 2
    assert arrange(clips) == clips
    assert arrange([]) == []
