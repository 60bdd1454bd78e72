"""Errors after a failure of DALI name dataset, shard and sample, and what to do."""

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.made_shards import make_shards
from pipeline.dataset import ShardDataset
from pipeline.reader.faults import BatchFrame, explain_failure
from pipeline.reader.graph import dali_decoder
from pipeline.reader.loader import Loader
from pipeline.reader.settings import ReaderSettings
from pipeline.sampling.views import ViewSettings
from pipeline.settings import UserError
from tests.media import jpeg, with_segments

SIZE = (96, 80)
DALI_ERROR = RuntimeError(
    "Critical error in pipeline:\nError in CPU operator `nvidia.dali.fn.resize`,\nwhich was used in the pipeline "
    'definition with the following traceback:\n\n  File "graph.py", line 1\n\nencountered:\n\nstd::bad_alloc\n'
    "Current pipeline object is no longer valid."
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 clips of 8 frames in 2 shards."""
    return make_shards(tmp_path_factory.mktemp("made") / "clips", 8, frames=8, size=SIZE, per_shard=4)


def failure(folder: Path, backend: Literal["dali", "torch"]) -> str:
    """The loader's error for a dataset with a bad frame."""
    views = ViewSettings(global_size=32, local_size=16, local_crops=1)
    settings = ReaderSettings(shards=folder, backend=backend, views=views)
    with Loader(settings, 2, range(8)) as loader, pytest.raises(UserError) as error:
        list(loader)
    return str(error.value)


BACKENDS = pytest.mark.parametrize("backend", ["dali", "torch"])


@BACKENDS
def test_a_frame_whose_size_is_not_that_of_the_index_is_named(
    clips: Path, tmp_path: Path, backend: Literal["dali", "torch"]
) -> None:
    copy = Path(shutil.copytree(clips, tmp_path / "copy"))
    table = pq.read_table(copy / "index.parquet")
    width = [SIZE[0] * (10 if row == 5 else 1) for row in range(8)]
    column = pa.array(width, table.schema.field("width").type)
    pq.write_table(table.set_column(table.schema.get_field_index("width"), "width", column), copy / "index.parquet")
    message = failure(copy, backend)
    assert (
        f"of sample clip000005 in {copy}/shard-000001.tar has 96 x 80 pixels, but index.parquet says 960 x 80"
        in message
    )
    assert f"Run `python -m pipeline.verify {copy}`" in message


@pytest.mark.parametrize(("backend", "cause"), [("dali", "nvImageCodec failure"), ("torch", "2 extraneous bytes")])
def test_a_frame_that_only_the_back_end_cannot_decode_is_named(
    clips: Path, tmp_path: Path, backend: Literal["dali", "torch"], cause: str
) -> None:
    copy = Path(shutil.copytree(clips, tmp_path / "copy"))
    dataset = ShardDataset(copy)
    content = (copy / "shard-000001.tar").read_bytes()
    odd = with_segments(jpeg(np.zeros((*SIZE[::-1], 3), np.uint8)), b"\xff\xfe\0\x04hi\0\0")
    for frame in range(8):
        old = dataset.frame(6, frame).tobytes()
        content = content.replace(old, odd.ljust(len(old), b"\0"))
    (copy / "shard-000001.tar").write_bytes(content)
    message = failure(copy, backend)
    names = {"dali": "DALI", "torch": "torch"}
    assert f"of sample clip000006 in {copy}/shard-000001.tar is whole, but {names[backend]} cannot decode it" in message
    assert cause in message
    assert "Remove its input or save it as an ordinary JPEG" in message
    assert "pipeline.verify" not in message


def test_all_samples_are_named_if_each_frame_decodes_alone(clips: Path) -> None:
    dataset = ShardDataset(clips)
    frames = [BatchFrame(dataset, row, frame) for row in range(5) for frame in (0, 7)]
    message = str(explain_failure(DALI_ERROR, "in step 7", frames, dali_decoder(None)))
    shard = f"{clips}/shard-000000.tar"
    assert message == (
        f"DALI failed in step 7, on sample clip000000 in {shard}, sample clip000001 in {shard}, "
        f"sample clip000002 in {shard} and 2 more: std::bad_alloc. "
        "Each of their frames decodes alone, so the data is not damaged; possibly out of memory: use a smaller batch"
    )


def test_the_machine_is_named_if_nothing_decodes(clips: Path) -> None:
    """With a GPU that does not exist."""
    message = str(explain_failure(DALI_ERROR, "in step 7", [BatchFrame(ShardDataset(clips), 0, 0)], dali_decoder(99)))
    assert message.endswith("It cannot decode a test image either: check this machine's memory and GPU")
