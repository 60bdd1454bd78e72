"""The options of `python -m pipeline.shards`."""

from typing import Any, ClassVar

from pydantic import Field, model_validator

from pipeline.settings import COUNT_LIMIT, WORKER_LIMIT, Command, Seed
from pipeline.shards.media import Media
from pipeline.shards.segments import MS_PER_S, Clock, frames_within, milliseconds
from pipeline.shards.shard import Layout
from pipeline.spec import ClipSettings, FrameSettings, ImageSettings, Keys, TripletSettings
from pipeline.storage import Uri

_MOST_PARTS = 250
"""Parts of a frame in which windows may begin; the job decodes a grid of frames for each."""


class ShardsCommand(Command):
    """Decode clips (Kinetics) or images (ImageNet) into WebDataset shards with one index.

    DATA is a folder whose first sub-folders are the classes; or a .tar, possibly of tars, such as
    ILSVRC2012_img_train.tar, or a folder of tars; or a list: a text file with a path, or a path, a tab and a class, on
    each line, or a CSV with columns such as path, class, start and end. DATA and OUT may be URIs such as
    s3://bucket/folder. Inputs that cannot be used are listed in OUT/rejects.parquet and do not stop the job. Interrupt
    it at any time: the same command continues and gives the same bytes. If RAY_ADDRESS is set, the job runs on that Ray
    cluster, otherwise on this machine.
    """

    program: ClassVar[str] = "python -m pipeline.shards"

    data: Uri
    """Folder of class folders or of tars, .tar, or list of paths."""
    out: Uri
    """Folder for the dataset: new, or with the same job, unfinished or finished."""
    media: Media | None = None
    """What to take when DATA holds both clips and images. `frames`: folders of images, CLASS/CLIP/00000.jpg, are clips
    whose frames were already extracted at frames.fps; they are packed as they are."""
    annotations: Uri | None = None
    """List of which clips of the folder DATA to take, with their classes: Kinetics' CSV
    (label,youtube_id,time_start,time_end,split) of files ID_START_END.mp4 or ID.mp4; a CSV or JSON with columns such as
    video_id, label, start, end; or a text file of paths below DATA."""
    keys: Keys = "auto"
    """Names of the samples. stem: the file name without extension. path: the percent-encoded path below DATA, so that
    no two inputs share a key. auto: the stem of names as in Kinetics (ID_000001_000011) and ImageNet
    (n01440764_10026), otherwise the path."""
    name: str = Field("shard", pattern=r"^[A-Za-z0-9_-]+$")
    """Shard files are called NAME-000000.tar, NAME-000001.tar, ..."""
    split: str = "train"
    """Recorded in dataset.json; rows of a list or of the annotations with another split are skipped."""
    layout: Layout = "frames"
    """frames: a sample is a clip with all its frames. triplets: a sample is past.jpg, current.jpg, future.jpg."""
    samples_per_shard: int | None = Field(None, ge=1, le=COUNT_LIMIT)
    """Inputs per shard, the unit of parallel work and of resuming; all clips cut from one file are in one shard.
    Default: 1/32 of the inputs, but between 4 and 256 clips (256 of 10 s are about 100 MB), between 1 and 16 files that
    are cut, or between 32 and 1024 images."""
    seed: Seed = 0
    """Seed of the order in which inputs are spread over shards, and of the triplets."""
    max_reject_fraction: float = Field(0.25, ge=0, le=1)
    """End with an error if a larger share of the inputs was rejected; the dataset is complete without them."""
    retry_rejects: bool = False
    """Retry the rejected inputs of a finished or unfinished job, for instance after repairing files or with a longer
    frames.deadline_s; only shards that gain a sample are rewritten, and nothing else is decoded."""
    append: bool = False
    """Add the inputs that a finished dataset does not have, by their paths, in new shards; those that it has stay as
    they are, also where DATA no longer has them. The settings must be the same."""
    remove: Uri | None = None
    """Text file with the inputs to remove from a finished dataset, such as withdrawn videos: on each line a source or
    key as in index.parquet, or the YouTube ID of Kinetics clips. Only shards that hold one are rewritten; DATA is not
    read, and the inputs are left out of later jobs."""
    workers: int | None = Field(None, ge=0, le=WORKER_LIMIT)
    """Parallel processes; default: all cores of this machine or of the cluster. 0: this process alone, without Ray."""
    frames: FrameSettings = FrameSettings()
    """How frames are taken from clips."""
    clips: ClipSettings = ClipSettings()
    """How files are cut into clips."""
    images: ImageSettings = ImageSettings()
    """How images are taken."""
    triplets: TripletSettings = TripletSettings()
    """How triplets are drawn."""

    @model_validator(mode="after")
    def _one_change_at_a_time(self) -> "ShardsCommand":
        if self.remove is not None and (self.append or self.retry_rejects):
            raise ValueError("remove is a job of its own: run it without append and retry_rejects")
        return self

    @model_validator(mode="after")
    def _triplets_are_of_clips(self) -> "ShardsCommand":
        if self.layout == "triplets" and self.media == "images":
            raise ValueError("layout = triplets needs clips; media is images")
        return self

    @model_validator(mode="after")
    def _clips_can_be_cut(self) -> "ShardsCommand":
        clips, frames = self.clips, self.frames
        if clips.cut_files and self.media in ("images", "frames"):
            raise ValueError(f"clips.length and clips.scenes need video files; media is {self.media}")
        if clips.length is not None:
            clock = Clock.at(frames.fps, MS_PER_S)
            count = frames_within(milliseconds(clips.length), clock)
            if not frames.min_frames <= count <= frames.max_frames:
                raise ValueError(
                    f"clips.length = {clips.length:g} gives {count} frames at frames.fps = {frames.fps:g}; allowed are "
                    f"frames.min_frames = {frames.min_frames} to frames.max_frames = {frames.max_frames}"
                )
            if error := clips.stride_error(frames.fps, 1 if clips.scenes else _MOST_PARTS):
                raise ValueError(error)
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that the bytes of the dataset depend on, without the inputs."""
        irrelevant = {"config", "data", "annotations", "out", "workers", "max_reject_fraction", "retry_rejects"}
        irrelevant |= {"append", "remove"}
        settings = self.model_dump(mode="json", exclude=irrelevant)
        del settings["frames"]["deadline_s"]
        if not self.clips.cut_files:
            del settings["clips"]  # as in jobs of earlier versions
        return settings
