"""Actors: textured parts that are attached at pivots and move by simple signals in time.

Coordinates are continuous pixels (a pixel's center is at +0.5), x to the right, y down; angles are in radians.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.demo_data.textures import Size

Points = npt.NDArray[np.float64]
"""(n, 2) x, y."""
Matrix = npt.NDArray[np.float64]
"""(3, 3) acting on (x, y, 1) columns."""

_OVERSAMPLING = 4
_SHADOW_REACH = 0.12  # of a part's smaller side
_SHADOW_OPACITY = 1 / 3
SOLID = 170
"""Alpha of a pixel that a part covers by half while its shadow covers all of it."""


@dataclass(frozen=True)
class Signal:
    """base + drift * t + amplitude * sin(2 pi (rate * t + phase)), t in seconds."""

    base: float = 0.0
    drift: float = 0.0
    amplitude: float = 0.0
    rate: float = 0.0
    phase: float = 0.0

    def __call__(self, t: float) -> float:
        """Value at `t` seconds."""
        return float(self.base + self.drift * t + self.amplitude * np.sin(2 * np.pi * (self.rate * t + self.phase)))


def translation(x: float, y: float) -> Matrix:
    """Move by (x, y)."""
    return np.array([[1.0, 0, x], [0, 1.0, y], [0, 0, 1.0]])


def rotation(angle: float) -> Matrix:
    """Turn by `angle`, clockwise on the screen."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])


def scaling(x: float, y: float) -> Matrix:
    """Scale the axes."""
    return np.diag([x, y, 1.0])


def apply(matrix: Matrix, points: Points) -> Points:
    """Map (n, 2) points."""
    moved: Points = points @ matrix[:2, :2].T + matrix[:2, 2]
    return moved


Shape = Callable[[float], Points]
"""Size of an actor in pixels -> an outline, relative to the part's pivot."""


@dataclass(frozen=True)
class PartSpec:
    """A part as a row of a table; lengths are relative to the actor's size, and the part's pivot is the origin."""

    name: str
    outline: Shape
    material: str
    parent: str | None = None
    attached: tuple[float, float] = (0.0, 0.0)
    """The pivot in the parent's coordinates."""
    angle: Signal = field(default_factory=Signal)
    varied: bool = False
    """Amplitude and rate of `angle` vary by a fifth and a tenth."""
    roughness: float = 0.0
    marks: Sequence[tuple[Shape, str]] = ()
    """Outlines and materials of what is painted on the part."""
    category: int = 0
    """Body-part label."""
    joints: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Points by name."""
    layer: int = 0
    """Painting order among the parts; equal ones are painted in table order."""


@dataclass(frozen=True)
class Part:
    """A textured part in pixels; for the other fields see `PartSpec`."""

    name: str
    bitmap: Image.Image
    """The part and its soft shadow, mode RGBa (premultiplied); the part itself is where alpha >= `SOLID`."""
    offset: tuple[int, int]
    """Position of the bitmap's top left corner relative to the pivot."""
    parent: str | None
    attached: tuple[float, float]
    angle: Signal
    category: int
    joints: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Actor:
    """Parts in painting order (back to front) and the motion of the part that has no parent."""

    parts: tuple[Part, ...]
    x: Signal
    y: Signal
    angle: Signal = field(default_factory=Signal)
    scale: Signal = field(default_factory=lambda: Signal(1.0))
    mirror: bool = False
    label: int = 0
    """Object id in the ground truth; 0: part of the background."""
    follows_camera: bool = True
    """x and y are relative to the camera's center, otherwise to the backdrop's top left corner."""

    def poses(self, t: float, root: Matrix) -> dict[str, Matrix]:
        """Matrix from local to stage coordinates of each part; `root` carries the motion as a whole."""
        by_name = {part.name: part for part in self.parts}
        poses: dict[str, Matrix] = {}

        def pose(name: str) -> Matrix:
            if name not in poses:
                part = by_name[name]
                above = root if part.parent is None else pose(part.parent)
                poses[name] = above @ translation(*part.attached) @ rotation(part.angle(t))
            return poses[name]

        for part in self.parts:
            pose(part.name)
        return poses

    def root(self, t: float, camera_center: tuple[float, float]) -> Matrix:
        """The actor's own motion at `t`."""
        x0, y0 = camera_center if self.follows_camera else (0.0, 0.0)
        scale = self.scale(t)
        flip = -1.0 if self.mirror else 1.0
        return translation(x0 + self.x(t), y0 + self.y(t)) @ rotation(self.angle(t)) @ scaling(flip * scale, scale)


def ellipse(cx: float, cy: float, rx: float, ry: float) -> Shape:
    """An axis-aligned ellipse."""
    turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return lambda size: np.stack([cx * size + rx * size * np.cos(turn), cy * size + ry * size * np.sin(turn)], axis=1)


def limb(length: float, width: float, taper: float = 0.75) -> Shape:
    """A rounded bar from the origin downward (toward +y)."""
    half_turn = np.linspace(0, np.pi, 9)

    def outline(size: float) -> Points:
        top, bottom = width * size / 2, width * size * taper / 2
        head = np.stack([top * np.cos(half_turn), -top * np.sin(half_turn)], axis=1)
        foot = np.stack([-bottom * np.cos(half_turn), length * size + bottom * np.sin(half_turn)], axis=1)
        return np.concatenate([head, foot])

    return outline


def polygon(points: str, rounding: int = 0) -> Shape:
    """A polygon from `x,y x,y ...` as in SVG, its corners cut so many times (Chaikin's algorithm)."""
    corners = np.array([point.split(",") for point in points.split()], np.float64)

    def outline(size: float) -> Points:
        result = corners * size
        for _ in range(rounding):
            following = np.roll(result, -1, axis=0)
            result = np.stack([0.75 * result + 0.25 * following, 0.25 * result + 0.75 * following], axis=1)
            result = result.reshape(-1, 2)
        return result

    return outline


def transformed(shape: Shape, matrix: Sequence[Sequence[float]]) -> Shape:
    """A shape whose points, as rows, are multiplied by a (2, 2) matrix."""
    return lambda size: shape(size) @ np.array(matrix, np.float64)


def roughen(rng: np.random.Generator, outline: Points, strength: float) -> Points:
    """Bump an outline radially by a few random waves; `strength` is relative to the distance from its middle."""
    middle = outline.mean(axis=0)
    turn = np.arctan2(*(outline - middle).T[::-1])
    bump = sum(rng.normal(0, strength / np.sqrt(n)) * np.cos(n * turn + rng.uniform(0, 2 * np.pi)) for n in range(2, 9))
    bumped: Points = middle + (outline - middle) * (1 + np.asarray(bump))[:, None]
    return bumped


def rasterize(outline: Points, size: Size, offset: tuple[int, int]) -> Image.Image:
    """Antialiased coverage of a polygon, 0..255."""
    large = Image.new("L", (size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING))
    corners = (outline - np.array(offset)) * _OVERSAMPLING - 0.5
    ImageDraw.Draw(large).polygon([(float(x), float(y)) for x, y in corners], fill=255)
    return large.reduce(_OVERSAMPLING)


def _swatch(rng: np.random.Generator, material: Image.Image, size: Size) -> Image.Image:
    """A random cut-out of a material, mirrored at its edges if it is too small."""
    width, height = material.size
    columns = np.abs((np.arange(size[0]) + rng.integers(0, 2 * width)) % (2 * width) - width + 0.5).astype(np.intp)
    rows = np.abs((np.arange(size[1]) + rng.integers(0, 2 * height)) % (2 * height) - height + 0.5).astype(np.intp)
    return Image.fromarray(np.asarray(material)[np.minimum(rows, height - 1)[:, None], np.minimum(columns, width - 1)])


def cut_part(rng: np.random.Generator, spec: PartSpec, size: float, materials: Mapping[str, Image.Image]) -> Part:
    """Cut a part of an actor of `size` pixels out of its material, paint its marks and shade it as a rounded body."""
    outline = spec.outline(size)
    if spec.roughness:
        outline = roughen(rng, outline, spec.roughness)
    angle = spec.angle
    if spec.varied:
        amplitude, rate = angle.amplitude * rng.uniform(0.8, 1.2), angle.rate * rng.uniform(0.9, 1.1)
        angle = replace(angle, amplitude=amplitude, rate=rate)
    reach = max(2, round(_SHADOW_REACH * float(np.ptp(outline, axis=0).min())))
    low = np.floor(outline.min(axis=0)).astype(int) - reach - 2
    high = np.ceil(outline.max(axis=0)).astype(int) + 3 * reach
    extent, offset = (int(high[0] - low[0]), int(high[1] - low[1])), (int(low[0]), int(low[1]))
    rgb = _swatch(rng, materials[spec.material], extent)
    for mark, material in spec.marks:
        rgb.paste(_swatch(rng, materials[material], extent), mask=rasterize(mark(size), extent, offset))
    coverage = rasterize(outline, extent, offset)
    height = np.asarray(coverage.filter(ImageFilter.GaussianBlur(reach)), np.float32) / 255
    slope = height - np.roll(height, (reach // 2, reach // 2), (0, 1))  # light from the top left
    shade = 0.6 + 0.45 * height + 0.9 * slope
    shadow = _SHADOW_OPACITY * np.roll(height, (reach, reach), (0, 1))
    solid = np.asarray(coverage, np.float32)[..., None] / 255
    color = np.clip(np.asarray(rgb) * shade[..., None], 0, 255) * solid
    alpha = 255 * (solid + (1 - solid) * shadow[..., None])
    premultiplied = np.concatenate([color, alpha], axis=2).astype(np.uint8)
    bitmap = Image.frombytes("RGBa", extent, premultiplied.tobytes())
    (x, y), joints = spec.attached, {name: (x * size, y * size) for name, (x, y) in spec.joints.items()}
    return Part(spec.name, bitmap, offset, spec.parent, (x * size, y * size), angle, spec.category, joints)


def cut_parts(
    rng: np.random.Generator, specs: Iterable[PartSpec], size: float, materials: Mapping[str, Image.Image]
) -> tuple[Part, ...]:
    """Cut parts one after the other (`specs` may draw from `rng` in between), in painting order."""
    cut = [(spec.layer, cut_part(rng, spec, size, materials)) for spec in specs]
    return tuple(part for _, part in sorted(cut, key=lambda pair: pair[0]))
