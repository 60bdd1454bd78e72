import numpy as np
import pytest
from PIL import Image

from benchmarks.demo_data.actors import (
    SOLID,
    Actor,
    PartSpec,
    Signal,
    apply,
    cut_part,
    cut_parts,
    ellipse,
    limb,
    polygon,
    rasterize,
    rotation,
    scaling,
    translation,
)
from benchmarks.demo_data.casting import THEMES, Motion, make_parts
from benchmarks.demo_data.textures import FIELDS, random_palette, texture

MATERIALS = {"wool": Image.new("RGB", (16, 16), (200, 150, 100))}


def generator() -> np.random.Generator:
    return np.random.default_rng(3)


def test_signal_follows_its_formula() -> None:
    assert Signal(2, 3, 5, 0.5, 0.25)(1.0) == pytest.approx(2 + 3 + 5 * np.sin(2 * np.pi * 0.75))


def test_matrices_turn_clockwise_on_the_screen_and_compose() -> None:
    moved = apply(translation(10, 0) @ rotation(np.pi / 2) @ scaling(2, 2), np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(moved, [[10, 2]], atol=1e-12)


def test_rasterized_area_is_the_polygon_area() -> None:
    coverage = np.asarray(rasterize(polygon("2,3 22,3 22,13 2,13")(1.5), (40, 30), (0, 0)), np.float64) / 255
    assert coverage.sum() == pytest.approx(30 * 15, rel=0.03)
    assert coverage[10, 15] == 1
    assert coverage[0, 0] == 0


def test_part_is_solid_where_its_outline_is_and_shaded() -> None:
    part = cut_part(generator(), PartSpec("body", ellipse(0, 0, 1, 0.6), "wool"), 20, MATERIALS)
    pixels = np.asarray(part.bitmap)
    solid = pixels[..., 3] >= SOLID
    assert solid.sum() == pytest.approx(np.pi * 20 * 12, rel=0.03)
    assert pixels[solid][:, 0].std() > 5  # rounded by light
    assert not pixels[~solid][:, :3].max() > 200 * SOLID / 255  # the shadow is dark
    assert solid[-part.offset[1], -part.offset[0]]


def test_children_follow_their_parents_whatever_the_painting_order() -> None:
    right = Signal(np.pi / 2)
    arm = PartSpec("arm", limb(1, 0.4), "wool", "body", (0.5, 0), right, joints={"hand": (0, 1)}, layer=-1)
    body = PartSpec("body", ellipse(0, 0, 0.5, 0.5), "wool", angle=Signal(np.pi))
    parts = cut_parts(generator(), [body, arm], 10, MATERIALS)
    assert [part.name for part in parts] == ["arm", "body"]
    actor = Actor(parts, Signal(100), Signal(50), scale=Signal(2))
    poses = actor.poses(0.0, actor.root(0.0, (0, 0)))
    shoulder, hand = apply(poses["arm"], np.array([[0.0, 0.0], parts[0].joints["hand"]]))
    np.testing.assert_allclose(shoulder, [90, 50], atol=1e-9)  # the body is upside down, twice as large
    np.testing.assert_allclose(hand, [110, 50], atol=1e-9)


def test_mirroring_flips_left_and_right_only() -> None:
    actor = Actor((), Signal(0), Signal(0), mirror=True, follows_camera=False)
    np.testing.assert_allclose(apply(actor.root(0, (9, 9)), np.array([[3.0, 4.0]])), [[-3, 4]])


@pytest.mark.parametrize("family", THEMES)
def test_parts_form_one_tree_of_about_the_given_size_and_move(family: str) -> None:
    rng = np.random.default_rng(11)
    still = Motion(Signal(), Signal(), Signal(), Signal(1))
    parts = make_parts(rng, family, 80, random_palette(rng), still, THEMES[family].skin)
    actor, names = Actor(parts, Signal(), Signal()), [part.name for part in parts]
    assert len(set(names)) == len(names)
    assert sum(part.parent is None for part in parts) == 1
    assert all(part.parent in {None, *names} for part in parts)
    early, late = actor.poses(0.1, np.eye(3)), actor.poses(0.4, np.eye(3))
    assert any(not np.allclose(early[name], late[name]) for name in names)
    corners = [apply(early[p.name], np.array([(0, 0), p.bitmap.size]) + np.array(p.offset)) for p in parts]
    assert 60 < np.ptp(np.concatenate(corners), axis=0).max() < 160


@pytest.mark.parametrize("kind", FIELDS)
def test_texture_has_structure_at_the_scale_of_its_cell(kind: str) -> None:
    field = FIELDS[kind](generator(), (97, 61), 14.0)
    assert 0 <= field.min() < field.max() <= 1
    pixels = np.asarray(texture(generator(), kind, (97, 61), random_palette(generator()), 14.0), np.float32)
    assert pixels.shape == (61, 97, 3)
    assert max(np.abs(pixels[:, 7:] - pixels[:, :-7]).mean(), np.abs(pixels[7:] - pixels[:-7]).mean()) > 8
