"""The options of `python -m pipeline.shards`."""

from typing import Any, ClassVar

from pydantic import Field, model_validator

from pipeline.settings import COUNT_LIMIT, WORKER_LIMIT, Command, Seed
from pipeline.shards.frames import FrameSettings
from pipeline.shards.images import ImageSettings
from pipeline.shards.shard import Layout
from pipeline.shards.sources import Media
from pipeline.shards.triplets import TripletSettings
from pipeline.storage import Place, open_storage

PLACES = ("data", "annotations")
"""Options that say where the inputs are; what these are, not how it is spelled, makes a job the same."""


def location_of(place: str | None) -> str | None:
    """Where a path or address leads, however it is spelled."""
    return place and open_storage(place).location


class ShardsCommand(Command):
    """Decode clips (Kinetics) or images (ImageNet) into WebDataset shards with one index.

    DATA is a folder whose first sub-folders are the classes; or a .tar, also of tars, such as
    ILSVRC2012_img_train.tar; or a text file with a path, or a path, a tab and a class, on each line. DATA and OUT may
    be addresses like s3://bucket/folder. Inputs that cannot be used are listed in OUT/rejects.parquet and stop nothing.
    Interrupt it at any time: the same command continues and gives the same bytes. With RAY_ADDRESS set it joins that
    Ray cluster, else it uses this machine.
    """

    program: ClassVar[str] = "python -m pipeline.shards"

    data: Place
    """Folder of class folders, .tar, or text file of paths."""
    out: Place
    """Folder for the dataset; new, or holding the same job unfinished or finished."""
    media: Media | None = None
    """What to take when DATA holds both clips and images. `frames`: folders of images, CLASS/CLIP/00000.jpg, are clips
    that were cut at frames.fps before; they are packed as they are."""
    annotations: Place | None = None
    """Kinetics annotation CSV (label,youtube_id,time_start,time_end,split): DATA holds ID_START_END.mp4 files, the CSV
    says which of them to take and their classes."""
    name: str = Field("shard", pattern=r"^[A-Za-z0-9_-]+$")
    """Shard files are called NAME-000000.tar, NAME-000001.tar, ..."""
    split: str = "train"
    """Recorded in dataset.json; rows of the annotations with another split are left out."""
    layout: Layout = "frames"
    """frames: a sample is a clip with all its frames. triplets: a sample is past.jpg, current.jpg, future.jpg."""
    samples_per_shard: int | None = Field(None, ge=1, le=COUNT_LIMIT)
    """Inputs a shard, which is the unit of parallel work and of resuming. Default: a 32nd of the inputs, but
    between 4 and 256 clips (256 are about 100 MB) or 32 and 1024 images."""
    seed: Seed = 0
    """Seed of the order in which inputs are spread over shards, and of the triplets."""
    max_reject_fraction: float = Field(0.25, ge=0, le=1)
    """End with an error if a larger share of the inputs was rejected; the dataset is complete without them."""
    retry_rejects: bool = False
    """Try the rejected inputs of a finished or unfinished job again, for instance after mending files or with a longer
    frames.deadline_s; only shards that gain a sample are rewritten, and nothing else is decoded."""
    workers: int | None = Field(None, ge=1, le=WORKER_LIMIT)
    """Processes at once; default all cores, of this machine or of the cluster."""
    frames: FrameSettings = FrameSettings()
    """How frames are taken from clips."""
    images: ImageSettings = ImageSettings()
    """How images are taken."""
    triplets: TripletSettings = TripletSettings()
    """How triplets are drawn."""

    @model_validator(mode="after")
    def _triplets_are_of_clips(self) -> "ShardsCommand":
        if self.layout == "triplets" and self.media == "images":
            raise ValueError("layout = triplets needs clips; media is images")
        return self

    def identity(self) -> dict[str, Any]:
        """All that the bytes of the dataset depend on, beside the inputs."""
        how = {"config", "out", "workers", "max_reject_fraction", "retry_rejects"}
        content = self.model_dump(mode="json", exclude=how)
        del content["frames"]["deadline_s"]
        return content | {name: location_of(content[name]) for name in PLACES}
