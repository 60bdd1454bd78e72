"""The tables of the page."""

import re
from typing import NamedTuple

from pydantic import BaseModel

from benchmarks.markdown import NONE, count, duration, number, size, table
from benchmarks.scale.figures import Figure, Figures
from benchmarks.scale.limits import (
    Point,
    Resource,
    Run,
    all_reduce_bytes,
    capacities,
    demands,
    fastest,
    first_over,
    hours,
    nodes_of,
    points,
)
from benchmarks.scale.options import ClusterSettings, ScaleCommand
from benchmarks.scale.stages import Stage, clip_bytes, image_bytes


class Case(NamedTuple):
    """All that the page is about."""

    command: ScaleCommand
    figures: Figures
    stages: list[Stage]
    runs: list[Run]

    @property
    def core_rate(self) -> float:
        """Samples a second of a core that decodes and makes views."""
        return self.figures.reader_samples.value

    def price(self, core_hours: float, gpu_hours: float) -> float:
        """Money of cores and GPUs."""
        return core_hours * self.command.prices.core_hour + gpu_hours * self.command.prices.gpu_hour

    @property
    def kept_bytes(self) -> float:
        """Bytes of the shards of clips and images."""
        return clip_bytes(self.command.data, self.figures) + image_bytes(self.command.data, self.figures)

    @property
    def storage_price(self) -> float:
        """Money of keeping the shards."""
        return self.kept_bytes / 1e12 * self.command.prices.tb_month * self.command.prices.months

    @property
    def total_price(self) -> float:
        """Money of all stages and of all runs, each on its `fastest` number of GPUs."""
        of_stages = sum(self.price(stage.core_hours, stage.gpu_hours) for stage in self.stages)
        timed = [(run, *fastest(run, self.command.cluster, self.core_rate)) for run in self.runs]
        return of_stages + self.storage_price + sum(self.price(0, r.times * p.gpus * h) for r, p, h in timed)


def _stage_row(case: Case, stage: Stage) -> list[str]:
    return [
        stage.name,
        number(stage.core_hours) if stage.core_hours else NONE,
        number(stage.gpu_hours) if stage.gpu_hours else NONE,
        duration(stage.hours),
        size(stage.read) if stage.read else NONE,
        size(stage.written) if stage.written else NONE,
        f"{size(stage.bandwidth)}/s" if stage.read else NONE,
        number(stage.files) if stage.files else NONE,
        size(stage.memory) if stage.memory else NONE,
        number(case.price(stage.core_hours, stage.gpu_hours)),
    ]


def _run_stage(case: Case, run: Run) -> Stage:
    """A run on the number of GPUs that is fastest at the paper's batch, with the two checkpoints that it keeps."""
    point, taken = fastest(run, case.command.cluster, case.core_rate)
    times = f", one of {run.times}" if run.times > 1 else ""
    name = f"pre-training, {run.title}{times}, {count(point.gpus, 'GPU')}"
    return Stage(name, 0, taken * point.gpus, taken, run.read_bytes, 2 * run.size.checkpoint, 8, run.size.state)


def stage_table(case: Case) -> str:
    """Cost of each stage."""
    rows = [_stage_row(case, stage) for stage in (*case.stages, *(_run_stage(case, run) for run in case.runs))]
    row = [f"keeping the shards for {number(case.command.prices.months)} months", *[NONE] * 8]
    row[5] = size(case.kept_bytes)
    rows.append([*row, number(case.storage_price)])
    header = ("stage", "core-hours", "GPU-hours", "time", "read", "written", "bytes/s", "files", "memory", "money")
    return table(header, rows)


def gpu_counts(cluster: ClusterSettings) -> set[int]:
    """Numbers of GPUs to show: powers of two within a machine, powers of two of machines, and all."""
    doublings = [2**n for n in range(cluster.gpus.bit_length())]
    within = {gpus for gpus in doublings if gpus < cluster.gpus_a_node}
    whole = {nodes * cluster.gpus_a_node for nodes in doublings if nodes < cluster.nodes}
    return within | whole | {cluster.gpus}


def time_table(case: Case, run: Run) -> str:
    """Time of a run by the number of GPUs."""
    cluster = case.command.cluster
    of_paper = {point.gpus: point for point in points(run, cluster, None)}
    rows = []
    for growing in (Point(gpus, case.command.clips_a_gpu) for gpus in sorted(gpu_counts(cluster))):
        row, point = [number(growing.gpus)], of_paper.get(growing.gpus)
        if point is None:
            row += [NONE] * 5
        else:
            network = all_reduce_bytes(nodes_of(point.gpus, cluster), run.size.trained) / (1e9 * cluster.network_gb)
            on_gpu, on_cpu = (hours(run, point, cluster, case.core_rate, cpu) for cpu in (False, True))
            row += [number(point.clips), f"{number(1e3 * point.clips / run.rate)} / {number(1e3 * network)}"]
            row += [duration(on_gpu), duration(on_cpu), number(case.price(0, on_gpu * point.gpus))]
        rows.append(row + [duration(hours(run, growing, cluster, case.core_rate, cpu)) for cpu in (False, True)])
    header = ["GPUs", "clips a GPU", "compute / gradients, ms", "decoding on GPUs", "on cores", "money"]
    return table([*header, "growing, on GPUs", "growing, on cores"], rows)


def _say(case: Case, resource: Resource, value: float) -> str:
    if resource is Resource.CORES:
        return f"{number(value / case.command.cluster.gpus_a_node)} cores a GPU"
    if resource is Resource.REQUESTS:
        return f"{number(value)} reads/s"
    return f"{size(value)}/s" + (" a machine" if resource is Resource.NETWORK else "")


def needs_table(case: Case) -> str:
    """What all GPUs of the cluster need with a growing batch, in absolute numbers."""
    cluster = case.command.cluster
    point = Point(cluster.gpus, case.command.clips_a_gpu)
    needed = [demands(run, point, cluster, case.core_rate) for run in case.runs]
    there = capacities(point, cluster)
    rows = [
        [
            resource.value,
            *(_say(case, resource, need[resource]) for need in needed),
            _say(case, resource, there[resource]),
        ]
        for resource in Resource
    ]
    return table(["", *(run.title for run in case.runs), "there is"], rows)


def limits_table(case: Case) -> str:
    """From how many GPUs each resource is the limit: at the paper's batch / with a growing one."""

    def first(run: Run, resource: Resource, clips_a_gpu: int | None) -> str:
        gpus = first_over(run, resource, case.command.cluster, case.core_rate, clips_a_gpu)
        return NONE if gpus is None else number(gpus)

    rows = [
        [resource.value]
        + [f"{first(run, resource, None)} / {first(run, resource, case.command.clips_a_gpu)}" for run in case.runs]
        for resource in Resource
    ]
    return table(["short from this many GPUs on", *(run.title for run in case.runs)], rows)


def _code(source: str) -> str:
    """File names and options of a source as code."""
    return re.sub(r"--[\w.]+|\w+\.json", r"`\g<0>`", source)


def figures_table(figures: Figures) -> str:
    """All measured figures, and what stands in for missing ones."""
    rows = [(f.what, number(f.value), _code(f.source)) for f in figures if isinstance(f, Figure)]
    rows += [
        (f"listing and planning {number(inputs)} inputs", f"{number(seconds)} s, {number(mb)} MB", "`listing.json`")
        for inputs, seconds, mb in figures.listing
    ]
    return table(["figure", "value", "from"], rows)


def options_table(command: ScaleCommand) -> str:
    """All assumptions, by the options that change them."""
    groups: tuple[tuple[str, BaseModel], ...] = (
        *(("data.", command.data), ("cluster.", command.cluster)),
        *(("prices.", command.prices), ("assumed.", command.assumed)),
    )
    options = [("clips_a_gpu", command.clips_a_gpu, type(command).model_fields["clips_a_gpu"].description)]
    options += [
        (prefix + name, getattr(settings, name), field.description)
        for prefix, settings in groups
        for name, field in type(settings).model_fields.items()
    ]
    rows = [(f"`--{name}`", number(value), " ".join(str(said).split())) for name, value, said in options]
    return table(["option", "value", "meaning"], rows)
