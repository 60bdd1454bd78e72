import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.made_shards import make_shards
from pipeline.dataset import ShardDataset
from pipeline.reader.batch import Batch
from pipeline.reader.loader import Loader, ReaderSettings
from pipeline.sampling.plan import plan_batch
from pipeline.sampling.sandwich import SandwichSettings
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD, ViewSettings
from pipeline.settings import UserError
from tests.media import decode, exif_block, jpeg, picture, with_segments
from tests.pipeline.verify.damage import Copy

VIEWS = ViewSettings(global_size=64, local_size=32, local_crops=3)
PLAIN = ViewSettings(global_size=64, local_size=32, local_crops=1, jitter=0, gray=0, blur=(0, 0, 0), solarize=(0, 0, 0))


@pytest.fixture(scope="module")
def made_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 clips of 8 small frames in 3 shards."""
    return make_shards(tmp_path_factory.mktemp("made") / "clips", 12, frames=8, size=(96, 80), per_shard=4)


def read(settings: ReaderSettings, first: int, last: int, batch: int = 4, rank: int = 0, ranks: int = 1) -> list[Batch]:
    with Loader(settings, batch, first, last, rank, ranks) as loader:
        return list(loader)


@pytest.mark.parametrize(
    ("batch", "steps", "rank", "ranks", "message"),
    [
        (0, (0, 1), 0, 1, "the total batch size is 0; it must be at least 1"),
        (-4, (0, 1), 0, 1, "the total batch size is -4; it must be at least 1"),
        (4, (0, 1), 0, 0, "there is no rank 0 of 0: ranks count from 0"),
        (4, (0, 1), 2, 2, "there is no rank 2 of 2"),
        (4, (0, 1), -1, 2, "there is no rank -1 of 2"),
        (4, (0, 1), 0, -1, "there is no rank 0 of -1"),
        (4, (0, 1), 0, 3, "the total batch size 4 does not divide by 3 ranks"),
        (4, (-1, 1), 0, 1, "steps -1 to 1 of 4 samples cannot be counted: they begin at 0"),
        (4, (2**62, 2**62 + 1), 0, 1, "cannot be counted: .* visit at most"),
    ],
)
def test_numbers_out_of_range_are_named(
    made_dataset: Path, batch: int, steps: tuple[int, int], rank: int, ranks: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Loader(ReaderSettings(shards=made_dataset, views=VIEWS), batch, *steps, rank, ranks)


def test_far_steps_are_read_and_a_closed_loader_says_so(made_dataset: Path) -> None:
    with Loader(ReaderSettings(shards=made_dataset, views=VIEWS), 2, 10**12, 10**12 + 2) as loader:
        assert next(loader).step == 10**12
    loader.close()
    with pytest.raises(UserError, match="this loader is closed: make a new one from the step that comes next"):
        next(loader)


def test_batches_have_the_documented_shapes(clip_dataset: Path) -> None:
    batches = read(ReaderSettings(shards=clip_dataset, views=VIEWS), 0, 3)
    assert [batch.step for batch in batches] == [0, 1, 2]
    for batch in batches:
        assert batch.global_crops.shape == (8, 3, 64, 64)
        assert batch.local_crops.shape == (12, 3, 32, 32)
        assert [tensor.shape for tensor in batch.auxiliary] == [(8, 3, 64, 64)] * 2
        assert batch.masks.shape == (8, 16)
        assert batch.masks.any(dim=1).sum() == 4
        assert batch.masked_loss_scale == 1.0
        assert batch.global_crops.dtype == torch.float32
        assert -2.2 < batch.global_crops.min() < batch.global_crops.max() < 2.7


def test_resumed_and_split_readers_give_the_same_batches(clip_dataset: Path) -> None:
    settings = ReaderSettings(shards=clip_dataset, views=VIEWS, seed=5)
    whole = read(settings, 0, 4)
    resumed = read(settings, 2, 4)
    for ours, theirs in zip(resumed, whole[2:], strict=True):
        assert torch.equal(ours.global_crops, theirs.global_crops)
        assert torch.equal(ours.auxiliary[1], theirs.auxiliary[1])
        assert torch.equal(ours.masks, theirs.masks)
    halves = [read(settings, 0, 2, rank=rank, ranks=2) for rank in range(2)]
    for step in range(2):
        parts = [half[step] for half in halves]
        crops = torch.cat([part.global_crops.view(2, 2, 3, 64, 64) for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(crops, whole[step].global_crops)
        shares = [part.masked_loss_scale for part in parts]
        assert sum(shares) == pytest.approx(2)
        masked = [int(part.masks.sum()) for part in parts]
        assert shares[0] == pytest.approx(2 * masked[0] / sum(masked))


def test_views_show_the_planned_frames(clip_dataset: Path) -> None:
    # the clips' brightness tells the time
    settings = ReaderSettings(shards=clip_dataset, views=PLAIN)
    with Loader(settings, 6, 0, 1) as loader:
        (batch,) = list(loader)
        plan = plan_batch(settings, loader.table, 0, 6, slice(0, 6))
        dataset = loader.dataset
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for clip in range(6):
        row = int(plan.rows[clip])
        assert int(batch.rows[clip]) == row
        for column, views in enumerate((batch.global_crops, *batch.auxiliary)):
            frame = decode(dataset.frame(row, int(plan.frames[clip, column])))
            for crop, view in enumerate((views[clip], views[6 + clip])):
                if column and not batch.masks[6 * crop + clip].any():
                    assert not view.any(), "nothing is restored beside a crop without a mask"
                    continue
                level = float((view * std + mean).mean()) * 255
                assert abs(level - frame.mean()) < 6, "one frame later is 17 levels or more brighter"


def test_current_crops_are_the_planned_boxes(image_dataset: Path) -> None:
    settings = ReaderSettings(shards=image_dataset, views=PLAIN, sandwich=SandwichSettings(auxiliary=()))
    with Loader(settings, 4, 0, 1) as loader:
        (batch,) = list(loader)
        plan = plan_batch(settings, loader.table, 0, 4, slice(0, 4))
        dataset = loader.dataset
    mean, std = (np.array(values) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for clip in range(4):
        frame = decode(dataset.frame(int(plan.rows[clip]), 0)).astype(float)
        top, left, height, width = (int(edge[clip, 0]) for edge in plan.boxes)
        view = 255 * (batch.global_crops[clip].numpy().transpose(1, 2, 0) * std + mean)
        expected = frame[top : top + height, left : left + width].mean(axis=(0, 1))
        np.testing.assert_allclose(view.mean(axis=(0, 1)), expected, atol=3)
    assert batch.auxiliary == ()


def test_a_teacher_that_is_unaligned_in_time_only_sees_the_same_boxes(clip_dataset: Path) -> None:
    views = PLAIN.model_copy(update={"auxiliary_crop": "current"})
    same_frame = SandwichSettings(auxiliary=("future",), future_offset=(0, 0.001))
    settings = ReaderSettings(shards=clip_dataset, views=views, all_auxiliary=True, sandwich=same_frame)
    (batch,) = read(settings, 0, 1)
    assert torch.equal(batch.auxiliary[0], batch.global_crops)
    later = settings.model_copy(update={"sandwich": SandwichSettings(auxiliary=("future",))})
    (batch,) = read(later, 0, 1)
    # the clips' brightness tells the time
    brighter = (batch.auxiliary[0] - batch.global_crops).mean(dim=(1, 2, 3))
    assert (brighter > 17 / 255).all()


def test_views_are_parts_of_one_block(clip_dataset: Path) -> None:
    (batch,) = read(ReaderSettings(shards=clip_dataset, views=VIEWS), 0, 1)
    place = batch.global_crops.data_ptr()
    for views in (batch.global_crops, batch.local_crops, *batch.auxiliary):
        assert views.data_ptr() == place, "in the order of a batch"
        assert views.is_contiguous()
        place += views.nbytes


def test_still_images_have_no_past(image_dataset: Path) -> None:
    with pytest.raises(UserError, match=r"still images.*--data\.neighbours"):
        Loader(ReaderSettings(shards=image_dataset), 4, 0, 1)


def test_batch_must_divide_by_ranks(clip_dataset: Path) -> None:
    with pytest.raises(UserError, match="5 does not divide by 2 ranks"):
        Loader(ReaderSettings(shards=clip_dataset), 5, 0, 1, rank=0, ranks=2)


def damaged(dataset: ShardDataset) -> None:
    """Overwrite the pixels of every frame; sizes and headers stay."""
    for number, shard in enumerate(dataset.manifest.shards):
        path = Path(dataset.folder, shard.file)
        content = bytearray(path.read_bytes())
        for row in np.flatnonzero(dataset.shard == number).tolist():
            for frame in range(int(dataset.num_frames[row])):
                jpeg = dataset.frame(row, frame).tobytes()
                start = bytes(content).find(jpeg)
                content[start + 200 : start + len(jpeg)] = bytes(len(jpeg) - 200)
        path.write_bytes(content)


def test_damaged_frame_is_named(made_dataset: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(made_dataset, tmp_path / "copy")
    dataset = ShardDataset(copy)
    damaged(dataset)
    fault = (
        r"frame \d+ of sample clip\d+ in .*copy/shard-\d+\.tar is damaged: .* Run `python -m pipeline\.verify .*copy`"
    )
    with pytest.raises(UserError, match=fault):
        read(ReaderSettings(shards=copy, views=VIEWS), 0, 1)


def test_metadata_turns_no_frame(image_dataset: Path, tmp_path: Path) -> None:
    """Photos of older shards, in which DALI sees an orientation that the index does not know."""
    batches = []
    for name, segment in (("odd", exif_block((0x0112, 1, 1, 6))), ("plain", b"")):
        copy = Copy(Path(shutil.copytree(image_dataset, tmp_path / name)))
        for number, sample in np.ndindex(3, 4):
            pixels = picture(120, 160, seed=4 * number + sample)
            size = copy.member(number, sample, "jpg")[2]
            photo = with_segments(jpeg(pixels, quality=50), segment).ljust(size, b"\0")
            copy.overwrite(number, sample, "jpg", lambda _, photo=photo: photo)  # type: ignore[misc]
        settings = ReaderSettings(shards=copy.folder, views=PLAIN, sandwich=SandwichSettings(auxiliary=()))
        batches.append(read(settings, 0, 2))
    for odd, plain in zip(*batches, strict=True):
        assert torch.equal(odd.global_crops, plain.global_crops)
        assert torch.equal(odd.local_crops, plain.local_crops)


@pytest.mark.parametrize("fault", ["cut", "rewritten", "replaced", "removed"])
def test_a_shard_that_changes_while_it_is_read(fault: str, made_dataset: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(made_dataset, tmp_path / "copy")
    settings = ReaderSettings(shards=copy, views=VIEWS, prefetch=1, read_ahead=1)
    with Loader(settings, 8, 0, 40) as loader:
        next(loader)
        next(loader)  # every shard was touched
        for shard in copy.glob("*.tar"):
            content = shard.read_bytes()
            if fault == "cut":  # a map of the file would end the process with SIGBUS here
                os.truncate(shard, 512)
            elif fault == "rewritten":
                shard.write_bytes(content)
            elif fault == "replaced":
                (tmp_path / "new").write_bytes(bytes(len(content)))
                (tmp_path / "new").replace(shard)
            else:
                shard.unlink()
        if fault in ("replaced", "removed"):
            assert len(list(loader)) == 38, "the old file is read on"
        else:
            what = "ends within frame" if fault == "cut" else "changed since it was opened"
            with pytest.raises(
                UserError, match=rf"shard .*copy/shard-\d+\.tar {what}.* of sample clip.*pipeline\.verify"
            ):
                list(loader)


def test_no_thread_or_file_is_left(made_dataset: Path) -> None:
    def files() -> list[str]:
        return [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]

    settings = ReaderSettings(shards=made_dataset, views=VIEWS)
    with Loader(settings, 4, 0, 100) as loader:
        next(loader)
        assert any(name.startswith(str(made_dataset)) for name in files())
        assert "plan_0" in {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith(str(made_dataset)) for name in files())
    assert "plan_0" not in {thread.name for thread in threading.enumerate()}


def test_killed_reader_leaves_nothing_in_shared_memory(made_dataset: Path) -> None:
    program = (
        "import os, signal, sys; from pipeline.reader.loader import Loader, ReaderSettings\n"
        "loader = Loader(ReaderSettings(shards=sys.argv[1], views={'local_crops': 1}), 4, 0, 100)\n"
        "next(loader); os.kill(os.getpid(), signal.SIGKILL)"
    )
    shared = Path("/dev/shm")
    before = set(shared.iterdir())
    killed = subprocess.run([sys.executable, "-c", program, str(made_dataset)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    left = [path for path in set(shared.iterdir()) - before if path.owner() == Path.home().owner()]
    assert not [path for path in left if "torch" in path.name or "dali" in path.name.lower()]


def test_prefetch_depth_does_not_change_the_batches(made_dataset: Path) -> None:
    depths = [
        read(ReaderSettings(shards=made_dataset, views=VIEWS, prefetch=depth, read_ahead=depth, threads=depth), 0, 4)
        for depth in (1, 3)
    ]
    for ours, theirs in zip(*depths, strict=True):
        assert torch.equal(ours.global_crops, theirs.global_crops)
        assert torch.equal(ours.local_crops, theirs.local_crops)
        assert all(torch.equal(a, b) for a, b in zip(ours.auxiliary, theirs.auxiliary, strict=True))


def test_a_batch_outlives_the_next_ones(made_dataset: Path) -> None:
    with Loader(ReaderSettings(shards=made_dataset, views=VIEWS), 4, 0, 6) as loader:
        first = next(loader)
        kept = first.global_crops.clone()
        list(loader)
    assert torch.equal(first.global_crops, kept)


@pytest.mark.gpu
def test_gpu_gives_the_batches_of_the_cpu(clip_dataset: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    settings = ReaderSettings(shards=clip_dataset, views=VIEWS)
    (ours,) = read(settings, 0, 1)
    with Loader(settings, 4, 0, 1, device=torch.device("cuda", 0)) as loader:
        (theirs,) = list(loader)
    assert theirs.global_crops.is_cuda
    assert torch.equal(ours.masks, theirs.masks.cpu())
    pairs = [(ours.global_crops, theirs.global_crops), (ours.local_crops, theirs.local_crops)]
    for cpu, gpu in [*pairs, *zip(ours.auxiliary, theirs.auxiliary, strict=True)]:
        # in units of one gray level of 255 the decoders differ by a few
        assert float((cpu - gpu.cpu()).abs().mean()) < 2 / 255 / 0.225
