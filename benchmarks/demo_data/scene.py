"""A scene and its rendering at a time t: the picture, and masks, part labels and joints from the same geometry."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.demo_data.actors import SOLID, Actor, Matrix, Signal, apply, rotation, scaling, translation
from benchmarks.demo_data.textures import Field, Size, noise

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; the last two are outside."""


@dataclass(frozen=True)
class Camera:
    """What part of the backdrop fills the view; x, y in backdrop pixels, zoom in view pixels per backdrop pixel."""

    x: Signal
    y: Signal
    zoom: Signal
    angle: Signal

    def center(self, t: float) -> tuple[float, float]:
        """Backdrop point in the middle of the view."""
        return self.x(t), self.y(t)

    def view(self, t: float, size: Size) -> Matrix:
        """Matrix from backdrop to view coordinates."""
        x, y = self.center(t)
        zoom = self.zoom(t)
        return (
            translation(size[0] / 2, size[1] / 2) @ scaling(zoom, zoom) @ rotation(self.angle(t)) @ translation(-x, -y)
        )


@dataclass(frozen=True)
class Light:
    """Brightness and tint that drift, an uneven illumination map larger than the view, and sensor noise."""

    red: Signal
    green: Signal
    blue: Signal
    illumination: Field
    """(height, W) factors, wider than the view."""
    illumination_x: Signal
    """Column of the map where the view begins."""
    grain: npt.NDArray[np.float32]
    """(H, W, 3) gray levels, larger than the view; each frame takes another window of it."""


@dataclass(frozen=True)
class Scene:
    """Everything that can be seen. `cast` is in painting order, back to front."""

    size: Size
    backdrop: Image.Image
    camera: Camera
    cast: tuple[Actor, ...]
    light: Light


@dataclass(frozen=True)
class Frame:
    """A picture with its ground truth."""

    image: npt.NDArray[np.uint8]
    """(height, width, 3) RGB."""
    objects: npt.NDArray[np.uint8]
    """(height, width) label of the topmost actor, 0 for the background and unlabeled actors."""
    parts: npt.NDArray[np.uint8]
    """(height, width) category of the topmost part."""
    joints: dict[int, dict[str, tuple[float, float]]]
    """Of each labeled actor, by object id: named joints in continuous view coordinates, hidden ones included."""


def random_light(rng: np.random.Generator, size: Size, noise_level: float = 3.0) -> Light:
    """Mild lighting drift and noise for a view of `size`; `noise_level` is the standard deviation in gray levels."""

    def gain() -> Signal:
        return Signal(rng.uniform(0.92, 1.04), 0, rng.uniform(0.02, 0.07), rng.uniform(0.1, 0.35), rng.random())

    wide = (size[0] * 3 // 2, size[1])
    illumination = 0.75 + 0.45 * noise(rng, wide, 0.7 * max(size), 2)
    grain = noise_level * rng.standard_normal((size[1] + 32, size[0] + 32, 3), dtype=np.float32)
    reach = wide[0] - size[0]
    sweep = Signal(reach / 2, 0, 0.48 * reach, rng.uniform(0.05, 0.15), rng.random())
    return Light(gain(), gain(), gain(), illumination, sweep, grain)


def _warp(image: Image.Image, matrix: Matrix, box: Box) -> Image.Image:
    """The part of `image`, drawn through `matrix`, that falls into `box` of the target."""
    (a, b, x0), (c, d, y0) = matrix[:2].tolist()
    x0, y0 = box[0] - x0, box[1] - y0
    determinant = a * d - b * c
    a, b, c, d = d / determinant, -b / determinant, -c / determinant, a / determinant
    inverse = (a, b, a * x0 + b * y0, c, d, c * x0 + d * y0)
    return image.transform(
        (box[2] - box[0], box[3] - box[1]), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR
    )


def _target_box(size: Size, matrix: Matrix, target: Size) -> Box | None:
    """The pixels of the target that a bitmap of `size` can touch when drawn through `matrix`; None: none."""
    (a, b, x0), (c, d, y0) = matrix[:2].tolist()
    (width, height), (target_width, target_height) = size, target
    left = max(0, math.floor(x0 + min(0, a * width) + min(0, b * height)))
    right = min(target_width, math.ceil(x0 + max(0, a * width) + max(0, b * height)))
    top = max(0, math.floor(y0 + min(0, c * width) + min(0, d * height)))
    bottom = min(target_height, math.ceil(y0 + max(0, c * width) + max(0, d * height)))
    return (left, top, right, bottom) if left < right and top < bottom else None


@dataclass(frozen=True)
class Canvas:
    """The picture and, for ground truth, its two label maps."""

    image: Image.Image
    objects: Image.Image | None = None
    parts: Image.Image | None = None

    def paint(self, actor: Actor, t: float, root: Matrix) -> dict[str, tuple[float, float]]:
        """Draw an actor with its labels; its joints."""
        poses = actor.poses(t, root)
        joints: dict[str, tuple[float, float]] = {}
        for part in actor.parts:
            pose = poses[part.name]
            for name, point in part.joints.items():
                (x, y), *_ = apply(pose, np.array([point]))
                joints[name] = (float(x), float(y))
            matrix = pose @ translation(*part.offset)
            box = _target_box(part.bitmap.size, matrix, self.image.size)
            if box is None:
                continue
            layer = _warp(part.bitmap, matrix, box)
            self.image.paste(layer, box, layer)
            if self.objects is not None and self.parts is not None:
                solid = Image.fromarray(np.asarray(layer)[..., 3] // SOLID * 255)
                self.objects.paste(actor.label, box, solid)
                self.parts.paste(part.category, box, solid)
        return joints


def _illuminate(image: Image.Image, light: Light, t: float) -> npt.NDArray[np.uint8]:
    width, height = image.size
    left = round(light.illumination_x(t))
    level = light.illumination[:, left : left + width, None]
    gain = np.array([light.red(t), light.green(t), light.blue(t)], np.float32)
    rows, columns = light.grain.shape[0] - height + 1, light.grain.shape[1] - width + 1
    row, column = np.random.default_rng(round(1000 * t)).integers(0, (rows, columns))
    lit = np.asarray(image, np.float32) * level
    lit *= gain
    lit += light.grain[row : row + height, column : column + width]
    return np.clip(lit, 0, 255, out=lit).astype(np.uint8)


def _paint_cast(scene: Scene, t: float, canvas: Canvas, view: Matrix) -> dict[int, dict[str, tuple[float, float]]]:
    camera = scene.camera.center(t)
    joints = {actor.label: canvas.paint(actor, t, view @ actor.root(t, camera)) for actor in scene.cast}
    return {label: named for label, named in joints.items() if label}


def render(scene: Scene, t: float) -> npt.NDArray[np.uint8]:
    """The scene at `t` seconds: (height, width, 3) RGB."""
    view = scene.camera.view(t, scene.size)
    canvas = Canvas(_warp(scene.backdrop, view, (0, 0, *scene.size)))
    _paint_cast(scene, t, canvas, view)
    return _illuminate(canvas.image, scene.light, t)


def render_annotated(scene: Scene, t: float) -> Frame:
    """The same picture with its ground truth."""
    view = scene.camera.view(t, scene.size)
    backdrop = _warp(scene.backdrop, view, (0, 0, *scene.size))
    objects, parts = Image.new("L", scene.size), Image.new("L", scene.size)
    canvas = Canvas(backdrop, objects, parts)
    joints = _paint_cast(scene, t, canvas, view)
    return Frame(_illuminate(canvas.image, scene.light, t), np.asarray(objects), np.asarray(parts), joints)
