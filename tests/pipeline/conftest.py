"""Datasets that several tests of the pipeline read; property tests have no deadline, as the machine may be busy."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


@pytest.fixture(scope="session")
def triplet_dataset(clip_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layout `triplets` of `clip_tree` (2 triplets of each of 6 clips, in 3 shards)."""
    from pipeline.shards.__main__ import main
    from pipeline.spec import TripletSettings
    from tests.pipeline.shards.jobs import shards_command

    out = tmp_path_factory.mktemp("shards") / "triplets"
    drawn = TripletSettings(per_clip=2)
    main(shards_command(clip_tree, out, layout="triplets", triplets=drawn, samples_per_shard=3))
    return out
