import numpy as np
import pytest
from PIL import Image

from benchmarks.demo_data.actors import (
    SOLID,
    Actor,
    Signal,
    apply,
    cut_part,
    ellipse,
    limb,
    rasterize,
    rotation,
    roughen,
    scaling,
    soften,
    translation,
)


def generator() -> np.random.Generator:
    return np.random.default_rng(3)


def test_signal_follows_its_formula() -> None:
    assert Signal(2, 3, 5, 0.5, 0.25)(1.0) == pytest.approx(2 + 3 + 5 * np.sin(2 * np.pi * 0.75))


def test_matrices_turn_clockwise_on_the_screen_and_compose() -> None:
    moved = apply(translation(10, 0) @ rotation(np.pi / 2) @ scaling(2, 2), np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(moved, [[10, 2]], atol=1e-12)


def test_rasterized_area_is_the_polygon_area_to_an_eighth_of_a_pixel_along_its_outline() -> None:
    coverage = np.asarray(rasterize(ellipse(20, 15, 12.3, 8.1, 200), (40, 30), (0, 0)), np.float64) / 255
    assert coverage.sum() == pytest.approx(np.pi * 12.3 * 8.1, abs=65 / 8)
    assert coverage[15, 20] == 1
    assert coverage[0, 0] == 0


def test_outline_helpers_keep_the_shape_roughly() -> None:
    square = np.array([[-10.0, -10], [10, -10], [10, 10], [-10, 10]])
    soft = soften(square)
    assert len(soft) == 16
    assert np.abs(soft).max() <= 10
    rough = roughen(generator(), ellipse(0, 0, 10, 10), 0.03)
    radii = np.hypot(*rough.T)
    assert 0.1 < np.ptp(radii) < 5


def test_part_is_solid_where_its_outline_is_and_shaded() -> None:
    outline = ellipse(0, 0, 20, 12, 100)
    part = cut_part(generator(), "body", outline, Image.new("RGB", (16, 16), (200, 150, 100)))
    pixels = np.asarray(part.bitmap)
    solid = pixels[..., 3] >= SOLID
    assert solid.sum() == pytest.approx(np.pi * 20 * 12, rel=0.03)
    assert pixels[solid][:, 0].std() > 5  # rounded by light
    assert not pixels[~solid][:, :3].max() > 200 * SOLID / 255  # the shadow is dark
    row, column = -part.offset[1], -part.offset[0]
    assert solid[row, column]


def test_children_hang_on_their_parents_whatever_the_painting_order() -> None:
    material = Image.new("RGB", (8, 8))
    arm = cut_part(
        generator(), "arm", limb(10, 4), material, parent="body", attached=(5, 0), angle=Signal(np.pi / 2),
        joints={"hand": (0, 10)},
    )  # fmt: skip
    body = cut_part(generator(), "body", ellipse(0, 0, 5, 5), material, angle=Signal(np.pi))
    actor = Actor((arm, body), Signal(100), Signal(50), scale=Signal(2))
    poses = actor.poses(0.0, actor.root(0.0, (0, 0)))
    shoulder, hand = apply(poses["arm"], np.array([[0.0, 0.0], arm.joints["hand"]]))
    np.testing.assert_allclose(shoulder, [90, 50], atol=1e-9)  # the body is upside down, twice as large
    np.testing.assert_allclose(hand, [110, 50], atol=1e-9)


def test_mirroring_flips_left_and_right_only() -> None:
    part = cut_part(generator(), "body", ellipse(0, 0, 5, 5), Image.new("RGB", (8, 8)))
    actor = Actor((part,), Signal(0), Signal(0), mirror=True, follows_camera=False)
    np.testing.assert_allclose(apply(actor.root(0, (9, 9)), np.array([[3.0, 4.0]])), [[-3, 4]])
