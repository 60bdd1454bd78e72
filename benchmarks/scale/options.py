"""What the computation assumes, and a user may change."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator

from pipeline.settings import BATCH_LIMIT, COUNT_LIMIT, Command, Settings


class DataSettings(Settings):
    """Size of the data sets."""

    clips: int = Field(240_000, ge=1, le=COUNT_LIMIT)
    """Clips; Kinetics-400 has 239,789 for training (paper, section 4.1)."""
    frames: int = Field(20, ge=1, le=COUNT_LIMIT)
    """Frames of a clip: 10 s at 2 frames a second (paper, section 4.1)."""
    clip_kb: float = Field(600.0, gt=0, le=COUNT_LIMIT)
    """Kilobytes of a clip before it is decoded."""
    images: int = Field(1_300_000, ge=1, le=COUNT_LIMIT)
    """Images; ImageNet-1k has 1,281,167 for training."""


class ClusterSettings(Settings):
    """The machines, taken as alike."""

    nodes: int = Field(8, ge=1, le=COUNT_LIMIT)
    """Machines."""
    gpus: int = Field(64, ge=1, le=COUNT_LIMIT)
    """GPUs of all machines."""
    cores: int = Field(512, ge=1, le=COUNT_LIMIT)
    """CPU cores of all machines."""
    memory_gb: float = Field(1000.0, gt=0, le=COUNT_LIMIT)
    """Memory of a machine in 10^9 bytes, in which the kernel keeps what was read."""
    network_gb: float = Field(12.5, gt=0, le=COUNT_LIMIT)
    """10^9 bytes a second that a machine sends and receives at once; 12.5 are 100 Gbit/s."""
    storage_gb: float = Field(10.0, gt=0, le=COUNT_LIMIT)
    """10^9 bytes a second that the shared storage gives to all machines together."""
    storage_requests: float = Field(100_000.0, gt=0, le=COUNT_LIMIT)
    """Single reads a second that it answers."""

    @model_validator(mode="after")
    def _alike(self) -> "ClusterSettings":
        for name in ("gpus", "cores"):
            if getattr(self, name) % self.nodes:
                raise ValueError(
                    f"{name} = {getattr(self, name)} cannot be shared out evenly over nodes = {self.nodes}: give a "
                    f"multiple of {self.nodes}"
                )
        return self

    @property
    def gpus_a_node(self) -> int:
        """GPUs of one machine."""
        return self.gpus // self.nodes

    @property
    def cores_a_node(self) -> int:
        """Cores of one machine."""
        return self.cores // self.nodes


class PriceSettings(Settings):
    """Prices in a currency of your own; the defaults are round numbers and nobody's offer."""

    core_hour: float = Field(0.05, ge=0, le=COUNT_LIMIT)
    """Of a CPU core for an hour."""
    gpu_hour: float = Field(3.0, ge=0, le=COUNT_LIMIT)
    """Of a GPU, with its share of the machine, for an hour."""
    tb_month: float = Field(25.0, ge=0, le=COUNT_LIMIT)
    """Of 10^12 bytes of storage for a month."""
    months: float = Field(3.0, ge=0, le=COUNT_LIMIT)
    """How long the shards are kept."""


class AssumedSettings(Settings):
    """What stands in for figures that no GPU, or no quiet machine, has given yet; not used where they are measured."""

    gpu_tflops: float = Field(250.0, gt=0, le=COUNT_LIMIT)
    """10^12 floating-point operations a second that a GPU does in training, in bf16."""
    reader_samples: float = Field(40.0, gt=0, le=COUNT_LIMIT)
    """Samples a second for which one CPU core decodes frames and makes views."""


class ScaleCommand(Command):
    """Compute what shards, neighbours, pre-training and evaluation cost on a cluster, and what limits them first.

    Measured figures come from the JSON files of the benchmarks (--results); everything else is an option below, so put
    in your own cluster: --cluster.nodes 2 --cluster.gpus 16 --cluster.cores 192 --prices.gpu_hour 2.10. Writes a
    page in Markdown. Nothing is run.
    """

    program: ClassVar[str] = "python -m benchmarks.scale"

    out: Path = Path("docs/scale.md")
    """The page."""
    results: Path = Path("benchmarks/results")
    """Folder with the JSON files of the benchmarks."""
    clips_a_gpu: int = Field(64, ge=2, le=BATCH_LIMIT)
    """Clips of a GPU where the global batch grows with the number of GPUs."""
    data: DataSettings = DataSettings()
    """Size of the data sets."""
    cluster: ClusterSettings = ClusterSettings()
    """The machines."""
    prices: PriceSettings = PriceSettings()
    """Prices."""
    assumed: AssumedSettings = AssumedSettings()
    """Stand-ins for figures that are not measured."""
