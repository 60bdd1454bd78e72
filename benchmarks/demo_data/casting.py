"""Which scene belongs to what: six video classes, eight image classes, and the held-out clips.

A class is a family of actors with a way to move and a kind of terrain. Each scene draws a palette that terrain and
actors share, so color reveals neither the class nor the border of an object.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmarks.demo_data.actors import Actor, Part, Signal, cut_parts
from benchmarks.demo_data.families import FAMILIES, PLAIN_SIZE, random_materials
from benchmarks.demo_data.puppet import person
from benchmarks.demo_data.scene import Camera, Canvas, Frame, Scene, random_light, render_annotated
from benchmarks.demo_data.textures import FIELDS, Palette, Size, noise, random_palette, texture, to_image

HELD_OUT_SIZE: Size = (427, 240)
HELD_OUT_SCENE_S = 4.0
HELD_OUT_TIMES = tuple(1.5 + number / 24 for number in range(24))
"""Seconds of the frames of a held-out clip: 24 a second as in DAVIS, from the middle of a scene."""
PERSON_SHARE = 0.68
"""Height of a person in held-out clips, relative to the view."""
MIN_OBJECT_SHARE = 0.015
"""Smallest share of the view that an annotated object covers in the first, the middle and the last frame."""
MAX_TRIES = 40


class Theme(NamedTuple):
    """Two textures each of a family and of its terrain."""

    skin: tuple[str, str]
    terrain: tuple[str, str]


THEMES = {
    "fish": Theme(("cells", "stripes"), ("ripples", "clouds")),
    "butterfly": Theme(("spots", "stripes"), ("clouds", "spots")),
    "car": Theme(("weave", "clouds"), ("bricks", "clouds")),
    "beetle": Theme(("spots", "wood"), ("wood", "cells")),
    "jellyfish": Theme(("ripples", "spots"), ("ripples", "stripes")),
    "flower": Theme(("stripes", "clouds"), ("cells", "clouds")),
    "bird": Theme(("ripples", "wood"), ("clouds", "weave")),
    "person": Theme(("weave", "stripes"), ("bricks", "wood")),
}


@dataclass(frozen=True)
class Motion:
    """How an actor moves as a whole, relative to the camera; for a person also how fast and far the limbs swing."""

    x: Signal
    y: Signal
    angle: Signal
    scale: Signal
    mirror: bool = False
    limb_rate: float = 0.8
    limb_energy: float = 1.0


Slot = tuple[int, int]
"""(number of this actor, number of actors)."""


def _lane(slot: Slot, extent: float, rng: np.random.Generator) -> float:
    """Coordinate of this actor: all are spread evenly over `extent` around 0, with some jitter."""
    number, count = slot
    return extent * ((number + 0.5) / count - 0.5) + rng.normal(0, 0.04 * extent)


def _breathe(rng: np.random.Generator, amplitude: float = 0.12) -> Signal:
    return Signal(1.0, 0, amplitude, rng.uniform(0.1, 0.3), rng.random())


def drive(rng: np.random.Generator, size: Size, duration: float, slot: Slot) -> Motion:
    """Across the view and past one another, alternately to the right and to the left."""
    mirror = bool(slot[0] % 2)
    travel = size[0] * rng.uniform(0.45, 0.8) * (-1 if mirror else 1)
    y = _lane(slot, 0.42 * size[1], rng)
    slope = Signal(rng.normal(0, 0.08), 0, 0.06, 0.5, rng.random())
    bounce = Signal(y, 0, 0.015 * size[1], 1.3, rng.random())
    return Motion(Signal(-travel / 2, travel / duration), bounce, slope, _breathe(rng), mirror)


def swim(rng: np.random.Generator, size: Size, duration: float, slot: Slot) -> Motion:
    """Slowly along a winding path."""
    mirror = bool(rng.random() < 0.5)
    travel = size[0] * rng.uniform(0.3, 0.6) * (-1 if mirror else 1)
    x = Signal(_lane(slot, 0.3 * size[0], rng) - travel / 2, travel / duration)
    rate, phase = rng.uniform(0.2, 0.35), rng.random()
    y = Signal(_lane(slot, 0.4 * size[1], rng), 0, 0.16 * size[1], rate, phase)
    return Motion(x, y, Signal(0, 0, 0.35, rate, phase + 0.25), _breathe(rng, 0.2), mirror)


def flutter(rng: np.random.Generator, size: Size, duration: float, slot: Slot) -> Motion:
    """Loops around a point, turning and coming closer."""
    x = Signal(_lane(slot, 0.5 * size[0], rng), 0, 0.2 * size[0], rng.uniform(0.15, 0.3), rng.random())
    y = Signal(0, 0, 0.24 * size[1], rng.uniform(0.2, 0.4), rng.random())
    angle = Signal(rng.uniform(-0.6, 0.6), rng.normal(0, 0.1), 0.5, rng.uniform(0.2, 0.4), rng.random())
    return Motion(x, y, angle, _breathe(rng, 0.25))


def spin(rng: np.random.Generator, size: Size, duration: float, slot: Slot) -> Motion:
    """All in one ring around the middle, each turning about itself."""
    rate, phase = 0.12, slot[0] / slot[1]
    x = Signal(0, 0, 0.27 * size[0], rate, phase + 0.25)
    y = Signal(0, 0, 0.2 * size[1], rate, phase)
    turn = Signal(0, rng.choice((-1, 1)) * rng.uniform(0.4, 1.2))
    return Motion(x, y, turn, Signal(1, 0, 0.25, rate, phase))


def jump(rng: np.random.Generator, size: Size, duration: float, slot: Slot) -> Motion:
    """Up and down on the spot with flying limbs."""
    rate = rng.uniform(0.6, 0.9)
    x = Signal(_lane(slot, 0.6 * size[0], rng), 0, 0.03 * size[0], 0.3, rng.random())
    y = Signal(-0.04 * size[1], 0, 0.1 * size[1], rate, rng.random())
    return Motion(x, y, Signal(0, 0, 0.12, 0.5, rng.random()), _breathe(rng, 0.06), False, rate, 1.5)


def walk(rng: np.random.Generator, size: Size, duration: float, slot: Slot) -> Motion:
    """Across the view with swinging limbs, in both directions."""
    travel = size[0] * rng.uniform(0.35, 0.6) * (-1 if slot[0] % 2 else 1)
    x = Signal(-travel / 2 + rng.normal(0, 0.05) * size[0], travel / duration)
    rate = rng.uniform(0.6, 0.9)
    y = Signal(-0.04 * size[1] + _lane(slot, 0.1 * size[1], rng), 0, 0.02 * size[1], 2 * rate, rng.random())
    return Motion(x, y, Signal(0, 0, 0.05, rate, rng.random()), _breathe(rng, 0.08), False, rate, 1.0)


Move = Callable[[np.random.Generator, Size, float, Slot], Motion]

VIDEO_CLASSES: dict[str, tuple[str, Move]] = {
    "driving cars": ("car", drive),
    "swimming fish": ("fish", swim),
    "chasing butterflies": ("butterfly", flutter),
    "spinning flowers": ("flower", spin),
    "jumping": ("person", jump),
    "walking": ("person", walk),
}
IMAGE_CLASSES = {f"n9900000{number}": family for number, family in enumerate(THEMES, start=1)}
"""Invented WordNet-like ids, so that nobody takes them for the real classes."""
DAVIS_CASTS: tuple[tuple[str, Move], ...] = (
    ("car", drive), ("fish", swim), ("butterfly", flutter), ("beetle", drive), ("bird", swim), ("flower", spin),
    ("jellyfish", flutter), ("person", walk),
)  # fmt: skip
POSE_MOVES: dict[str, Move] = {"walk": walk, "jump": jump}


def make_parts(
    rng: np.random.Generator, family: str, size: float, palette: Palette, motion: Motion, kinds: tuple[str, str]
) -> tuple[Part, ...]:
    """The parts of one actor of a family, about `size` pixels large, in the given textures."""
    materials = random_materials(rng, kinds, palette, size)
    if family != "person":
        return cut_parts(rng, FAMILIES[family](rng, size), size, materials)
    tone = np.array([[0.93, 0.72, 0.58]]) * rng.uniform(0.4, 1.0) * rng.uniform(0.92, 1.08, (1, 3))
    materials["skin"] = texture(rng, "clouds", PLAIN_SIZE, np.repeat(tone, 3, axis=0).astype(np.float32), 30)
    return cut_parts(rng, person(rng, motion.limb_rate, motion.limb_energy), size, materials)


def _skin_kinds(rng: np.random.Generator, family: str, loyalty: float) -> tuple[str, str]:
    """The family's usual textures, each replaced by any other with probability 1 - loyalty."""
    main, second = (usual if rng.random() < loyalty else str(rng.choice(list(FIELDS))) for usual in THEMES[family].skin)
    return main, second


def make_backdrop(
    rng: np.random.Generator, size: Size, family: str, palette: Palette, props: int, prop_size: float
) -> Canvas:
    """Terrain of two textures with an irregular border, with `props` motionless actors of the family on it."""
    kinds = THEMES[family].terrain
    cell = prop_size * rng.uniform(0.12, 0.28)
    first, second = (np.asarray(texture(rng, kind, size, palette, cell), np.float32) / 255 for kind in kinds)
    border = 1 / (1 + np.exp(-25 * (noise(rng, size, 0.5 * max(size), 4) - 0.5)))[..., None]
    canvas = Canvas(to_image(first * border + second * (1 - border)))
    still = Motion(Signal(), Signal(), Signal(), Signal(1))
    for _ in range(props):
        parts = make_parts(
            rng, family, prop_size * rng.uniform(0.6, 1.0), palette, still, _skin_kinds(rng, family, 0.5)
        )
        x, y = rng.uniform(0, 1, 2) * size
        prop = Actor(parts, Signal(x), Signal(y), Signal(rng.uniform(-0.6, 0.6)), follows_camera=False)
        canvas.paint(prop, rng.uniform(0, 9), prop.root(0, (0, 0)))
    return canvas


def make_camera(rng: np.random.Generator, backdrop: Size, view: Size, duration: float) -> Camera:
    """Pan, zoom and slight rotation that never show the outside of the backdrop."""
    angle = Signal(0, 0, rng.uniform(0.02, 0.09), rng.uniform(0.08, 0.2), rng.random())
    zoom = Signal(rng.uniform(1.05, 1.15), 0, rng.uniform(0.02, 0.1), rng.uniform(0.08, 0.2), rng.random())
    smallest = zoom.base - zoom.amplitude
    pans = []
    for extent, along, across in ((backdrop[0], *view), (backdrop[1], *reversed(view))):
        needed = (along * np.cos(angle.amplitude) + across * np.sin(angle.amplitude)) / smallest
        margin = (extent - needed) / 2 - 2
        drift, sway = rng.uniform(-0.7, 0.7) * margin, 0.25 * margin
        pans.append(Signal(extent / 2 - drift, 2 * drift / duration, sway, rng.uniform(0.1, 0.3), rng.random()))
    return Camera(pans[0], pans[1], zoom, angle)


def make_scene(
    rng: np.random.Generator,
    size: Size,
    duration: float,
    family: str,
    move: Move,
    *,
    labeled: int,
    distractors: int,
    actor_size: float,
) -> Scene:
    """A clip's scene: `labeled` objects (ids 1..) in front of `distractors` of the same family that also move."""
    palette = random_palette(rng)
    backdrop_size = (int(size[0] * rng.uniform(1.6, 1.9)), int(size[1] * rng.uniform(1.45, 1.7)))
    backdrop = make_backdrop(rng, backdrop_size, family, palette, 3, 0.8 * actor_size)
    camera = make_camera(rng, backdrop_size, size, duration)
    cast = []
    count = labeled + distractors
    for number in range(count):
        label = max(0, number - distractors + 1)
        motion = move(rng, size, duration, (number, count))
        length = actor_size * rng.uniform(0.85, 1.15) * (1.0 if label else 0.75)
        parts = make_parts(rng, family, length, palette, motion, _skin_kinds(rng, family, 0.4))
        cast.append(Actor(parts, motion.x, motion.y, motion.angle, motion.scale, motion.mirror, label))
    return Scene(size, backdrop.image, camera, tuple(cast), random_light(rng, size))


def video_scene(rng: np.random.Generator, class_name: str, size: Size, duration: float) -> Scene:
    """A training clip of a class in `VIDEO_CLASSES`."""
    family, move = VIDEO_CLASSES[class_name]
    actor_size = min(size) * (rng.uniform(0.65, 0.85) if family == "person" else rng.uniform(0.36, 0.5))
    count = int(rng.integers(1, 3)) if family == "person" else int(rng.integers(2, 4))
    return make_scene(rng, size, duration, family, move, labeled=count, distractors=1, actor_size=actor_size)


def image_scene(rng: np.random.Generator, family: str, size: Size) -> Scene:
    """A still image of a family: one actor large, sometimes a second one, its usual terrain behind."""
    palette = random_palette(rng)
    large = 0.75 * min(size) * rng.uniform(0.75, 1.15) * (1.25 if family == "person" else 1.0)
    backdrop = make_backdrop(rng, size, family, palette, 0, 0.5 * min(size))
    cast: list[Actor] = []
    for number in range(int(rng.integers(1, 3))):
        length, spread = (large, 0.1) if number == 0 else (0.5 * large, 0.35)
        x, y = (Signal(rng.uniform(-spread, spread) * extent) for extent in size)
        motion = Motion(x, y, Signal(rng.uniform(-0.4, 0.4)), Signal(1), bool(rng.random() < 0.5))
        parts = make_parts(rng, family, length, palette, motion, _skin_kinds(rng, family, 0.75))
        cast.insert(0, Actor(parts, motion.x, motion.y, motion.angle, motion.scale, motion.mirror, number + 1))
    still = Camera(Signal(size[0] / 2), Signal(size[1] / 2), Signal(1), Signal())
    return Scene(size, backdrop.image, still, tuple(cast), random_light(rng, size))


def _covers_enough(frame: Frame, labels: int) -> bool:
    areas = np.bincount(frame.objects.ravel(), minlength=labels + 1)[1:]
    return bool((areas >= MIN_OBJECT_SHARE * frame.objects.size).all())


def _first_fit(seed: list[int], make: Callable[[np.random.Generator], Scene], accept: Callable[[Scene], bool]) -> Scene:
    """The first of the scenes seeded (*seed, 0), (*seed, 1), ... that is accepted."""
    for attempt in range(MAX_TRIES):
        scene = make(np.random.default_rng([*seed, attempt]))
        if accept(scene):
            return scene
    raise RuntimeError(f"no acceptable scene in {MAX_TRIES} tries for seed {seed}")


def davis_scene(seed: list[int], number: int) -> Scene:
    """Held-out sequence `number`: two or three annotated objects and two moving distractors of the same family."""
    family, move = DAVIS_CASTS[number % len(DAVIS_CASTS)]
    times = HELD_OUT_TIMES[0], HELD_OUT_TIMES[len(HELD_OUT_TIMES) // 2], HELD_OUT_TIMES[-1]
    labels = 2 + number % 2

    def make(rng: np.random.Generator) -> Scene:
        actor_size = HELD_OUT_SIZE[1] * (0.75 if family == "person" else 0.45)
        return make_scene(
            rng, HELD_OUT_SIZE, HELD_OUT_SCENE_S, family, move, labeled=labels, distractors=2, actor_size=actor_size
        )

    def accept(scene: Scene) -> bool:
        return all(_covers_enough(render_annotated(scene, t), labels) for t in times)

    return _first_fit(seed, make, accept)


def pose_scene(seed: list[int], move: Move, people: int) -> Scene:
    """Held-out clip of `people` labeled persons, each of whom stays in view with all joints."""

    def make(rng: np.random.Generator) -> Scene:
        height = HELD_OUT_SIZE[1] * PERSON_SHARE
        return make_scene(
            rng, HELD_OUT_SIZE, HELD_OUT_SCENE_S, "person", move, labeled=people, distractors=0, actor_size=height
        )

    def accept(scene: Scene) -> bool:
        for t in HELD_OUT_TIMES[::3]:
            people_joints = render_annotated(scene, t).joints.values()
            joints = np.array([list(named.values()) for named in people_joints])
            if (joints < 2).any() or (joints > np.array(HELD_OUT_SIZE) - 2).any():
                return False
        return True

    return _first_fit(seed, make, accept)
