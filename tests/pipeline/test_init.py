import subprocess
import sys

import pytest

import pipeline
from pipeline.cache import ShardCache
from pipeline.clips import ClipDataset
from pipeline.dataset import ShardDataset
from pipeline.reader.batch import Batch
from pipeline.reader.loader import Loader
from pipeline.reader.settings import ReaderSettings
from pipeline.sampling.frames import Every, Sandwich, Uniform
from pipeline.sampling.order import OrderSettings
from pipeline.shard_stream import streaming


def test_public_names_are_those_of_their_modules() -> None:
    public = {name: getattr(pipeline, name) for name in pipeline.__all__}
    classes = (Batch, ClipDataset, Every, Loader, OrderSettings, ReaderSettings, Sandwich, ShardCache, ShardDataset)
    assert public == {value.__name__: value for value in (*classes, Uniform, streaming)}
    with pytest.raises(AttributeError, match="module 'pipeline' has no attribute 'Reader'"):
        pipeline.Reader  # type: ignore[attr-defined]  # noqa: B018


def test_a_name_loads_only_what_it_needs() -> None:
    program = (
        "import sys, pipeline\n"
        "large = {'nvidia', 'numpy', 'pyarrow', 'pydantic', 'ray', 'torch'}\n"
        "print(sorted(large & set(sys.modules)))\n"
        "from pipeline import ClipDataset, ReaderSettings, ShardDataset\n"
        "print(sorted(large & set(sys.modules)))"
    )
    lines = subprocess.check_output([sys.executable, "-c", program], text=True).splitlines()
    assert lines == ["[]", "['numpy', 'pyarrow', 'pydantic']"]
