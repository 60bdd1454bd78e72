import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from benchmarks.made_shards import make_shards
from pipeline.dataset import ShardDataset
from pipeline.reader.batch import PlannedBatch
from pipeline.reader.loader import Loader
from pipeline.reader.settings import ReaderSettings
from pipeline.sampling.sandwich import SandwichSettings
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD, ViewSettings
from pipeline.settings import UserError
from tests.media import decode, exif_block, jpeg, with_segments

VIEWS = ViewSettings(global_size=64, local_size=32, local_crops=3)
PLAIN = ViewSettings(global_size=64, local_size=32, local_crops=1, jitter=0, gray=0, blur=(0, 0, 0), solarize=(0, 0, 0))


@pytest.fixture(scope="module")
def made_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 clips of 8 small frames in 3 shards."""
    return make_shards(tmp_path_factory.mktemp("made") / "clips", 12, frames=8, size=(96, 80), per_shard=4)


def with_frames(source: Path, target: Path, encode: Callable[[np.ndarray, int], bytes]) -> Path:
    """A copy of a dataset in which JPEGs made from the pixels and number of each frame replace the frames."""
    dataset = ShardDataset(source)
    shutil.copytree(source, target)
    contents = {shard.file: (source / shard.file).read_bytes() for shard in dataset.manifest.shards}
    for row, frame in np.ndindex(len(dataset), int(dataset.num_frames[0])):
        old, file = dataset.frame(row, frame).tobytes(), dataset.manifest.shards[dataset.shard[row]].file
        new = encode(decode(np.frombuffer(old, np.uint8)), frame).ljust(len(old), b"\0")
        assert len(new) == len(old)
        contents[file] = contents[file].replace(old, new)
    dataset.close()
    for file, content in contents.items():
        (target / file).write_bytes(content)
    return target


@pytest.fixture(scope="module")
def timed_dataset(made_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`made_dataset` with frames whose brightness tells the time: 25 levels from one to the next."""

    def encode(pixels: np.ndarray, frame: int) -> bytes:
        return jpeg((0.1 * pixels + 25 * frame).astype(np.uint8), 50)

    return with_frames(made_dataset, tmp_path_factory.mktemp("timed") / "clips", encode)


Backend = Literal["dali", "torch"]
BACKENDS = pytest.mark.parametrize("backend", ["dali", "torch"])


def read(settings: ReaderSettings, first: int, last: int, rank: int = 0, ranks: int = 1) -> list[PlannedBatch]:
    with Loader(settings, 4, range(first, last), rank, ranks) as loader:
        return list(loader)


@pytest.mark.parametrize(
    ("batch", "steps", "rank", "ranks", "message"),
    [
        (0, (0, 1), 0, 1, "the total batch size is 0; it must be at least 1"),
        (-4, (0, 1), 0, 1, "the total batch size is -4; it must be at least 1"),
        (4, (0, 1), 0, 0, "there is no rank 0 of 0: ranks are numbered from 0"),
        (4, (0, 1), 2, 2, "there is no rank 2 of 2"),
        (4, (0, 1), -1, 2, "there is no rank -1 of 2"),
        (4, (0, 1), 0, -1, "there is no rank 0 of -1"),
        (4, (0, 1), 0, 3, "the total batch size 4 does not divide by 3 ranks"),
        (4, (-1, 1), 0, 1, "steps -1 to 1 of 4 samples are out of range: the first is step 0"),
        (4, (2**62, 2**62 + 1), 0, 1, "are out of range: .* read at most"),
    ],
)
def test_arguments_out_of_range_are_refused(
    made_dataset: Path, batch: int, steps: tuple[int, int], rank: int, ranks: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Loader(ReaderSettings(shards=made_dataset, views=VIEWS), batch, range(*steps), rank, ranks)


def test_late_steps_are_read_and_a_closed_loader_raises(made_dataset: Path) -> None:
    with Loader(ReaderSettings(shards=made_dataset, views=VIEWS), 2, range(10**12, 10**12 + 2)) as loader:
        assert next(loader).plan.step == 10**12
    loader.close()
    with pytest.raises(UserError, match="this loader is closed: create another one that starts at the next step"):
        next(loader)


def test_batches_have_the_documented_shapes(made_dataset: Path) -> None:
    batches = read(ReaderSettings(shards=made_dataset, views=VIEWS), 0, 3)
    assert [batch.plan.step for batch in batches] == [0, 1, 2]
    for batch in batches:
        assert batch.global_crops.shape == (8, 3, 64, 64)
        assert batch.local_crops.shape == (12, 3, 32, 32)
        assert [tensor.shape for tensor in batch.auxiliary] == [(8, 3, 64, 64)] * 2
        assert batch.masks.shape == (8, 16)
        assert batch.masks.any(dim=1).sum() == 4
        assert batch.masked_loss_scale == 1.0
        assert batch.global_crops.dtype == torch.float32
        assert -2.2 < batch.global_crops.min() < batch.global_crops.max() < 2.7


@BACKENDS
def test_batches_are_the_same_after_a_resume_and_on_two_ranks(made_dataset: Path, backend: Backend) -> None:
    settings = ReaderSettings(shards=made_dataset, views=VIEWS, seed=5, backend=backend)
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


@BACKENDS
def test_views_show_the_planned_frames(timed_dataset: Path, backend: Backend) -> None:
    settings = ReaderSettings(shards=timed_dataset, views=PLAIN, backend=backend)
    with Loader(settings, 6, range(1)) as loader:
        (batch,) = list(loader)
        plan, dataset = batch.plan, loader.dataset
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for clip in range(6):
        row = int(plan.rows[clip])
        for column, views in enumerate((batch.global_crops, *batch.auxiliary)):
            frame = decode(dataset.frame(row, int(plan.frames[clip, column])))
            for crop, view in enumerate((views[clip], views[6 + clip])):
                if column and not batch.masks[6 * crop + clip].any():
                    assert not view.any(), "no auxiliary view for a crop without a mask"
                    continue
                level = float((view * std + mean).mean()) * 255
                assert abs(level - frame.mean()) < 6, "the next frame is 25 levels brighter"


def test_current_crops_are_the_planned_boxes(made_dataset: Path) -> None:
    settings = ReaderSettings(shards=made_dataset, views=PLAIN, sandwich=SandwichSettings(auxiliary=()))
    with Loader(settings, 4, range(1)) as loader:
        (batch,) = list(loader)
        plan, dataset = batch.plan, loader.dataset
    mean, std = (np.array(values) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for clip in range(4):
        frame = decode(dataset.frame(int(plan.rows[clip]), int(plan.frames[clip, 0]))).astype(float)
        top, left, height, width = (int(edge[clip, 0]) for edge in plan.boxes)
        view = 255 * (batch.global_crops[clip].numpy().transpose(1, 2, 0) * std + mean)
        expected = frame[top : top + height, left : left + width].mean(axis=(0, 1))
        np.testing.assert_allclose(view.mean(axis=(0, 1)), expected, atol=3)
    assert batch.auxiliary == ()


def test_auxiliary_views_with_the_boxes_of_the_global_crops(timed_dataset: Path) -> None:
    views = PLAIN.model_copy(update={"auxiliary_crop": "current"})
    same_frame = SandwichSettings(auxiliary=("future",), future_offset=(0, 0.001))
    settings = ReaderSettings(shards=timed_dataset, views=views, all_auxiliary=True, sandwich=same_frame)
    (batch,) = read(settings, 0, 1)
    assert torch.equal(batch.auxiliary[0], batch.global_crops)
    later = settings.model_copy(update={"sandwich": SandwichSettings(auxiliary=("future",))})
    (batch,) = read(later, 0, 1)
    brighter = (batch.auxiliary[0] - batch.global_crops).mean(dim=(1, 2, 3))
    assert (brighter > 20 / 255).all()


@BACKENDS
def test_views_share_one_block_of_memory(made_dataset: Path, backend: Backend) -> None:
    (batch,) = read(ReaderSettings(shards=made_dataset, views=VIEWS, backend=backend), 0, 1)
    address = batch.global_crops.data_ptr()
    for views in (batch.global_crops, batch.local_crops, *batch.auxiliary):
        assert views.data_ptr() == address, "in the order of a batch"
        assert views.is_contiguous()
        address += views.nbytes


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


@BACKENDS
def test_a_damaged_frame_is_named(made_dataset: Path, tmp_path: Path, backend: Backend) -> None:
    copy = shutil.copytree(made_dataset, tmp_path / "copy")
    dataset = ShardDataset(copy)
    damaged(dataset)
    fault = (
        r"frame \d+ of sample clip\d+ in .*copy/shard-\d+\.tar is damaged: .* Run `python -m pipeline\.verify .*copy`"
    )
    with Loader(ReaderSettings(shards=copy, views=VIEWS, backend=backend), 4, range(2)) as loader:
        for _ in range(2):  # the batch is not skipped
            with pytest.raises(UserError, match=fault):
                next(loader)


@BACKENDS
def test_exif_orientation_is_ignored(made_dataset: Path, tmp_path: Path, backend: Backend) -> None:
    """Older shards may hold photos with an EXIF orientation that DALI would apply."""
    batches = []
    for name, segment in (("odd", exif_block((0x0112, 1, 1, 6))), ("plain", b"")):

        def encode(pixels: np.ndarray, _: int, segment: bytes = segment) -> bytes:
            return with_segments(jpeg(pixels, 50), segment)

        copy = with_frames(made_dataset, tmp_path / name, encode)
        batches.append(read(ReaderSettings(shards=copy, views=PLAIN, backend=backend), 0, 2))
    for odd, plain in zip(*batches, strict=True):
        assert torch.equal(odd.global_crops, plain.global_crops)
        assert torch.equal(odd.local_crops, plain.local_crops)


@pytest.mark.parametrize("fault", ["cut", "rewritten", "replaced", "removed"])
def test_a_shard_that_changes_while_it_is_read(fault: str, made_dataset: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(made_dataset, tmp_path / "copy")
    settings = ReaderSettings(shards=copy, views=VIEWS, prefetch=1, read_ahead=1)
    with Loader(settings, 8, range(40)) as loader:
        next(loader)
        next(loader)  # every shard was touched
        for shard in copy.glob("*.tar"):
            content = shard.read_bytes()
            if fault == "cut":  # a memory map would end the process with SIGBUS here
                os.truncate(shard, 512)
            elif fault == "rewritten":
                shard.write_bytes(content)
            elif fault == "replaced":
                (tmp_path / "new").write_bytes(bytes(len(content)))
                (tmp_path / "new").replace(shard)
            else:
                shard.unlink()
        if fault in ("replaced", "removed"):
            assert len(list(loader)) == 38, "the old file is still read"
        else:
            what = "ends within frame" if fault == "cut" else "changed since it was opened"
            with pytest.raises(
                UserError, match=rf"shard .*copy/shard-\d+\.tar {what}.* of sample clip.*pipeline\.verify"
            ):
                list(loader)


def test_close_stops_threads_and_closes_files(made_dataset: Path, tmp_path: Path) -> None:
    def files() -> list[str]:
        return [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]

    copy = shutil.copytree(made_dataset, tmp_path / "copy")
    with Loader(ReaderSettings(shards=copy, views=VIEWS), 4, range(100)) as loader:
        next(loader)
        assert any(name.startswith(str(copy)) for name in files())
        assert {thread.name for thread in threading.enumerate()} >= {"plan_0", "views_0", "views_1"}
    assert not any(name.startswith(str(copy)) for name in files())
    assert not {thread.name for thread in threading.enumerate()} & {"plan_0", "views_0", "views_1"}


def test_a_killed_reader_leaves_nothing_in_shared_memory(made_dataset: Path) -> None:
    program = (
        "import os, signal, sys; from pipeline.reader.loader import Loader; "
        "from pipeline.reader.settings import ReaderSettings\n"
        "loader = Loader(ReaderSettings(shards=sys.argv[1], views={'local_crops': 1}), 4, range(100))\n"
        "next(loader); assert 'nvidia.dali' not in sys.modules; os.kill(os.getpid(), signal.SIGKILL)"
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


@BACKENDS
def test_a_batch_outlives_the_next_ones(made_dataset: Path, backend: Backend) -> None:
    with Loader(ReaderSettings(shards=made_dataset, views=VIEWS, backend=backend), 4, range(6)) as loader:
        first = next(loader)
        kept = first.global_crops.clone()
        list(loader)
    assert torch.equal(first.global_crops, kept)


@pytest.mark.gpu
def test_batches_on_the_gpu_match_the_cpu(made_dataset: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    settings = ReaderSettings(shards=made_dataset, views=VIEWS, backend="dali")
    (ours,) = read(settings, 0, 1)
    with Loader(settings, 4, range(1), device=torch.device("cuda", 0)) as loader:
        (theirs,) = list(loader)
    assert theirs.global_crops.is_cuda
    assert torch.equal(ours.masks, theirs.masks.cpu())
    pairs = [(ours.global_crops, theirs.global_crops), (ours.local_crops, theirs.local_crops)]
    for cpu, gpu in [*pairs, *zip(ours.auxiliary, theirs.auxiliary, strict=True)]:
        # in units of one gray level of 255 the decoders differ by a few
        assert float((cpu - gpu.cpu()).abs().mean()) < 2 / 255 / 0.225


@BACKENDS
@pytest.mark.gpu
def test_views_on_a_busy_gpu_are_those_that_the_host_waits_for(made_dataset: Path, backend: Backend) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    settings = ReaderSettings(shards=made_dataset, views=VIEWS, backend=backend)
    device = torch.device("cuda", 0)
    kept: dict[bool, list[torch.Tensor]] = {}
    matrix = torch.zeros(8192, 8192, device=device)
    for busy in (False, True):
        with Loader(settings, 4, range(8), device=device) as loader:
            kept[busy] = []
            for batch in loader:
                for _ in range(20 * busy):  # the copy is queued behind it, and the batch is gone before it starts
                    torch.mm(matrix, matrix)
                kept[busy].append(batch.global_crops.clone())
                del batch
                if not busy:
                    torch.cuda.synchronize()
    for waited, queued in zip(*kept.values(), strict=True):
        assert torch.equal(queued, waited)
