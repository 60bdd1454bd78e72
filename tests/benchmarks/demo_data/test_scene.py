import dataclasses

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from benchmarks.demo_data.actors import SOLID, Actor, Signal
from benchmarks.demo_data.casting import HELD_OUT_TIMES, davis_scene
from benchmarks.demo_data.scene import Scene, render, render_annotated


def repainted(actor: Actor, level: int) -> Actor:
    """The actor in one gray level, without its shadow."""
    parts = []
    for part in actor.parts:
        pixels = np.asarray(part.bitmap).copy()
        pixels[pixels[..., 3] < SOLID] = 0
        pixels[..., :3] = pixels[..., 3:].astype(int) * level // 255
        parts.append(dataclasses.replace(part, bitmap=Image.frombytes("RGBa", part.bitmap.size, pixels.tobytes())))
    return dataclasses.replace(actor, parts=tuple(parts))


def spotlit(scene: Scene, label: int, level: int) -> Scene:
    """One actor in a gray level, the others black, in plain light."""
    cast = tuple(repainted(actor, level if actor.label == label else 0) for actor in scene.cast)
    light = dataclasses.replace(
        scene.light,
        **dict.fromkeys(("red", "green", "blue"), Signal(1.0)),
        illumination=np.ones_like(scene.light.illumination),
        grain=np.zeros_like(scene.light.grain),
    )
    return dataclasses.replace(scene, cast=cast, light=light)


@pytest.mark.parametrize("number", [0, 7])
def test_an_object_mask_is_exactly_where_the_picture_depends_on_the_object(number: int) -> None:
    scene, t = davis_scene([21, number], number), HELD_OUT_TIMES[7]
    frame = render_annotated(scene, t)
    assert (render(scene, t) == frame.image).all()
    for label in frame.joints:
        black = render(spotlit(scene, label, 0), t).astype(int)
        white = render(spotlit(scene, label, 255), t).astype(int)
        depends = np.abs(white - black).max(axis=2) > 127
        mask = frame.objects == label
        differing = depends != mask
        edge = ndimage.binary_dilation(mask, iterations=2) & ~ndimage.binary_erosion(mask, iterations=2)
        assert not (differing & ~edge).any()
        assert differing.sum() < 0.08 * edge.sum()
