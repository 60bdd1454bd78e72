import numpy as np
import pytest

from benchmarks.demo_data.actors import Actor, Signal, apply
from benchmarks.demo_data.casting import THEMES, Motion, make_parts
from benchmarks.demo_data.families import FAMILIES
from benchmarks.demo_data.textures import random_palette


def build(family: str, size: float) -> Actor:
    rng = np.random.default_rng(11)
    still = Motion(Signal(), Signal(), Signal(), Signal(1))
    parts = make_parts(rng, family, size, random_palette(rng), still, THEMES[family].skin)
    return Actor(parts, Signal(), Signal())


def test_every_family_has_a_theme() -> None:
    assert set(FAMILIES) | {"person"} == set(THEMES)


@pytest.mark.parametrize("family", THEMES)
def test_parts_form_one_tree_with_unique_names_and_move(family: str) -> None:
    actor = build(family, 80)
    names = [part.name for part in actor.parts]
    assert len(set(names)) == len(names)
    assert sum(part.parent is None for part in actor.parts) == 1
    assert all(part.parent in {None, *names} for part in actor.parts)
    early, late = actor.poses(0.1, np.eye(3)), actor.poses(0.4, np.eye(3))
    assert any(not np.allclose(early[name], late[name]) for name in names)


@pytest.mark.parametrize("family", THEMES)
def test_extent_is_about_the_asked_size(family: str) -> None:
    actor = build(family, 80)
    pivots = []
    for name, pose in actor.poses(0.0, np.eye(3)).items():
        part = next(part for part in actor.parts if part.name == name)
        corners = np.array([(0, 0), part.bitmap.size]) + np.array(part.offset)
        pivots.append(apply(pose, corners))
    extent = np.ptp(np.concatenate(pivots), axis=0).max()
    assert 60 < extent < 160
