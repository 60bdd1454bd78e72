"""Check one sample: its members against its index row and the manifest."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pipeline.dataset import INDEX, MANIFEST, Manifest
from pipeline.jpeg import JpegError, check_jpeg
from pipeline.orientation import has_orderly_header, turning_segments
from pipeline.record import TRIPLET_NAMES, Member, frame_names

Row = dict[str, Any]
TRIPLET_KEY = re.compile(r"(.+)-(\d\d)")
"""Key of a triplet: clip key and number."""
_FIELDS = ("key", "source", "class_name", "label", "width", "height")
_SEGMENT_FIELDS = ("parent", "start_s", "end_s")


@dataclass
class Contents:
    """Contents of a sample's members."""

    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Width and height of each decodable frame, by extension."""
    label: str | None = None
    facts: Row = field(default_factory=dict)
    """Content of `json`."""
    frames: int = 0
    """Frames of the clip, according to `json`; 0 for an image."""
    faults: list[str] = field(default_factory=list)
    """Faults of the members themselves."""


def read_contents(members: list[Member], read: Callable[[Member], bytes], manifest: Manifest) -> Contents:
    """Decode every frame and read the other members."""
    contents = Contents()
    for member in members:
        data = read(member)
        if member.extension == "cls":
            contents.label = data.decode(errors="replace")
        elif member.extension == "json":
            try:
                contents.facts = json.loads(data)
                contents.frames, faults = _check_facts(contents.facts, manifest)
                contents.faults += faults
            except Exception as error:  # damaged JSON may contain anything
                contents.faults.append(f"json is not what the job writes ({type(error).__name__}: {error})")
        else:
            try:
                contents.sizes[member.extension] = check_jpeg(data)
                contents.faults += [f"{member.extension}: {fault}" for fault in _header_faults(data)]
            except JpegError as error:
                contents.faults.append(f"{member.extension}: {error}")
    return contents


def _header_faults(jpeg: bytes) -> Iterator[str]:
    """JPEG headers in which decoders see different pictures, which current versions do not write."""
    if turning_segments(jpeg):
        yield "some readers turn it because of its metadata, though not ours; current versions remove that"
    if not has_orderly_header(jpeg):
        yield "DALI and other decoders fail at stray bytes in its header; current versions re-encode it"


def _check_facts(facts: Row, manifest: Manifest) -> tuple[int, list[str]]:
    """Frames of the clip, and faults in the fields that only clips or images have.

    Raises:
        LookupError, TypeError, ValueError: a field is missing or of the wrong type.
    """
    if missing := [name for name in _FIELDS if name not in facts]:
        raise KeyError(", ".join(missing))
    if manifest.media == "images":
        return 0, [] if isinstance(facts["encoding"], str) else ["json has no text in encoding"]
    faults = []
    times = [float(time) for time in facts["times_s"]]
    if any(time > following for time, following in pairwise(times)):
        faults.append(f"json has decreasing times_s: {_short(times)}")
    if facts["fps"] != (fps := manifest.settings["frames"]["fps"]):
        faults.append(f"json has fps {facts['fps']}; {MANIFEST} says {fps}")
    if manifest.layout == "frames":
        return len(times), faults
    past, current, future = facts["frames"]
    if not 0 <= past <= current <= future < facts["num_frames"] or len(times) != len(TRIPLET_NAMES):
        faults.append(f"json has the frames {facts['frames']} at {times} of a clip of {facts['num_frames']}")
    named = TRIPLET_KEY.fullmatch(facts["key"])
    if named is None or named[1] != facts["clip"]:
        faults.append(f"json has the clip {facts['clip']!r} for the key {facts['key']!r}")
    return int(facts["num_frames"]), faults


def _extensions(row: Row, manifest: Manifest) -> list[str]:
    """Extensions of the members of an index row's sample, in order."""
    if manifest.layout == "triplets":
        return [*TRIPLET_NAMES, "json"]
    return [*(["jpg"] if manifest.media == "images" else frame_names(row["num_frames"])), "cls", "json"]


def index_faults(row: Row, members: list[Member], contents: Contents, manifest: Manifest) -> Iterator[str]:
    """Contradictions of an index row to the tar or the manifest."""
    result, expected = [member.extension for member in members], _extensions(row, manifest)
    if result != expected:
        yield f"{INDEX} expects the members {_short(expected)}; the tar has {_short(result)}"
    offsets, sizes = row["frame_offset"], row["frame_size"]
    if not row["num_frames"] == len(offsets) == len(sizes):
        yield f"{INDEX} has {row['num_frames']} frames, {len(offsets)} offsets and {len(sizes)} sizes"
    frames = [member for member in members if member.extension.endswith("jpg")]
    for member, offset, size in zip(frames, offsets, sizes, strict=False):
        if (member.offset, member.size) != (offset, size):
            in_tar = f"it is at byte {member.offset} with {member.size} bytes"
            yield f"{INDEX} has {member.extension} at byte {offset} with {size} bytes; {in_tar}"
    for extension, (width, height) in contents.sizes.items():
        if (width, height) != (row["width"], row["height"]):
            yield f"{INDEX} says {row['width']} x {row['height']} pixels; {extension} has {width} x {height}"
    label, name = row["label"], row["class_name"]
    if not -1 <= label < len(manifest.classes):
        yield f"{INDEX} has label {label}; {MANIFEST} has {len(manifest.classes)} classes"
    elif name != (known := manifest.classes[label] if label >= 0 else ""):
        yield f"{INDEX} has class_name {name!r}; {MANIFEST} calls label {label} {known!r}"
    if contents.label is not None and contents.label != str(label):
        yield f"{INDEX} has label {label}; cls says {contents.label[:20]!r}"
    for name in _FIELDS:
        if name in contents.facts and contents.facts[name] != row[name]:
            yield f"{INDEX} has {name} {row[name]!r}; json says {contents.facts[name]!r}"
    for name in _SEGMENT_FIELDS if contents.facts else ():
        if contents.facts.get(name) != row[name]:
            yield f"{INDEX} has {name} {row[name]!r}; json says {contents.facts.get(name)!r}"
    if row["parent"] is not None and not row["key"].startswith(f"{row['parent']}_"):
        yield f"{INDEX} has the parent {row['parent']!r} for the key {row['key']!r}"
    if manifest.layout == "frames" and contents.frames and contents.frames != row["num_frames"]:
        yield f"{INDEX} has {row['num_frames']} frames; json has the times of {contents.frames}"
    duration = contents.frames / manifest.settings["frames"]["fps"] if contents.frames else 0.0
    if contents.facts and abs(row["duration_s"] - duration) > 1e-6:
        yield f"{INDEX} has duration_s {row['duration_s']:g}; by its json the sample lasts {duration:g} s"


def _short(items: list[Any]) -> str:
    words = [str(item) for item in items]
    return ", ".join(words if len(words) <= 6 else [*words[:2], "...", *words[-3:]])
