"""Tables of the parts of seven kinds of creature and vehicle, about one size large and facing right."""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
from PIL import Image

from benchmarks.demo_data.actors import PartSpec, Signal, ellipse, limb, polygon, roughen, transformed
from benchmarks.demo_data.textures import Palette, texture

PATTERN_SIZE = (144, 144)
PLAIN_SIZE = (48, 48)
LEFT_RIGHT = ((-1, 0), (0, 1))


def random_materials(
    rng: np.random.Generator, kinds: tuple[str, str], palette: Palette, size: float
) -> dict[str, Image.Image]:
    """Two textures of the given kinds, and the palette's darkest and lightest color with some grain."""
    cell = max(6.0, size * rng.uniform(0.11, 0.17))
    tones = palette[np.argsort(palette.sum(axis=1))]
    return {
        "main": texture(rng, kinds[0], PATTERN_SIZE, palette, cell),
        "second": texture(rng, kinds[1], PATTERN_SIZE, palette, 0.8 * cell),
        "dark": texture(rng, "clouds", PLAIN_SIZE, tones[:1] * 0.6, cell),
        "light": texture(rng, "clouds", PLAIN_SIZE, tones[-1:] * 0.5 + 0.5, cell),
    }


Family = Callable[[np.random.Generator, float], Iterator[PartSpec]]
"""(random numbers, size in pixels) -> parts."""


def _swing(amplitude: float, rate: float, phase: float = 0.0, base: float = 0.0) -> Signal:
    return Signal(base, 0.0, amplitude, rate, phase)


def fish(rng: np.random.Generator, size: float) -> Iterator[PartSpec]:
    """Body, beating tail, fins, eye."""
    body = polygon("0.5,0 0.2,-0.24 -0.2,-0.2 -0.5,-0.04 -0.5,0.04 -0.2,0.2 0.2,0.24", 2)
    tail = polygon("0.05,0 -0.3,-0.24 -0.2,0 -0.3,0.24", 1)
    fin = polygon("0.16,0 -0.05,-0.2 -0.22,-0.14 -0.16,0.02", 1)
    flipper = polygon("0.06,0 -0.2,0.02 -0.16,0.16", 1)
    stripe = polygon("0.2,-0.3 0.24,0 0.2,0.3 0.08,0.3 0.12,0 0.08,-0.3", 2)
    eye = [(ellipse(0.31, -0.06, r, r), tone) for r, tone in ((0.055, "light"), (0.03, "dark"))]
    rate, phase = rng.uniform(0.8, 1.6), rng.random()
    yield PartSpec("tail", tail, "second", "body", (-0.45, 0), _swing(0.45, rate, phase), varied=True)
    yield PartSpec("fin", fin, "second", "body", (0, -0.19), _swing(0.12, rate), varied=True)
    marks, sway = [(stripe, "second"), *eye], _swing(0.1, rate, phase + 0.25)
    yield PartSpec("body", body, "main", angle=sway, varied=True, roughness=0.02, marks=marks)
    yield PartSpec("flipper", flipper, "second", "body", (0.08, 0.08), _swing(0.5, rate, base=0.3), varied=True)


def butterfly(rng: np.random.Generator, size: float) -> Iterator[PartSpec]:
    """Four beating wings and a thin body that points up."""
    body = polygon("0,-0.26 0.045,-0.15 0.04,0.25 -0.04,0.25 -0.045,-0.15", 2)
    upper_points = roughen(rng, polygon("0,0 0.1,-0.3 0.4,-0.42 0.5,-0.2 0.3,0.02", 2)(size), 0.03)
    lower_points = roughen(rng, polygon("0,0 0.3,0.0 0.38,0.2 0.2,0.36 0.05,0.2", 2)(size), 0.03)
    spot = ellipse(0.3, -0.2, 0.07, 0.07)
    rate, phase = rng.uniform(1.2, 2.2), rng.random()
    for name, outline, material, marks, beat in (
        ("lower", lambda _: lower_points, "second", [], 0.35),
        ("upper", lambda _: upper_points, "main", [(spot, "light")], -0.35),
    ):
        yield PartSpec(f"{name} right", outline, material, "body", angle=_swing(beat, rate, phase), marks=marks)
        flipped, marks = transformed(outline, LEFT_RIGHT), [(transformed(s, LEFT_RIGHT), m) for s, m in marks]
        yield PartSpec(f"{name} left", flipped, material, "body", angle=_swing(-beat, rate, phase), marks=marks)
    yield PartSpec("body", body, "dark", marks=[(ellipse(0, -0.2, 0.04, 0.05), "second")])


def car(rng: np.random.Generator, size: float) -> Iterator[PartSpec]:
    """Body with windows and two rolling wheels with spokes."""
    body = polygon("-0.5,0.12 -0.5,-0.08 -0.3,-0.12 -0.2,-0.3 0.14,-0.3 0.27,-0.1 0.5,-0.04 0.5,0.12", 1)
    spoke = polygon("-0.1,-0.018 0.1,-0.018 0.1,0.018 -0.1,0.018")
    marks = [
        (polygon("-0.6,0.02 0.6,0.02 0.6,0.08 -0.6,0.08"), "second"),
        (polygon("-0.22,-0.12 -0.15,-0.25 -0.04,-0.25 -0.04,-0.12", 1), "light"),
        (polygon("0.0,-0.12 0.0,-0.25 0.11,-0.25 0.19,-0.12", 1), "light"),
        (ellipse(0.46, 0.0, 0.03, 0.03), "light"),
    ]
    spokes = [
        (transformed(spoke, [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]), "light") for a in (0.0, 1.05, 2.1)
    ]
    spin = Signal(0, rng.uniform(2, 4))
    yield PartSpec("body", body, "main", roughness=0.008, marks=marks)
    for name, x in (("rear wheel", -0.28), ("front wheel", 0.28)):
        yield PartSpec(name, ellipse(0, 0, 0.12, 0.12), "dark", "body", (x, 0.13), spin, marks=spokes)


def beetle(rng: np.random.Generator, size: float) -> Iterator[PartSpec]:
    """Shell with a seam, head with feelers, six walking legs; faces right, seen from above."""
    rate = rng.uniform(1.0, 1.8)
    for side, (number, x) in product((-1, 1), enumerate((-0.2, 0.0, 0.2))):
        rest = (0.0 if side > 0 else np.pi) - 0.5 * side * (number - 1)
        step = _swing(0.3, rate, 0.5 * ((number + (side > 0)) % 2), rest)
        yield PartSpec(f"leg {side} {number}", limb(0.36, 0.06, 0.4), "dark", "shell", (x, 0.08 * side), step)
    for side in (-1, 1):
        swing = _swing(0.2, rate, base=-np.pi / 2 + 0.5 * side)
        yield PartSpec(f"feeler {side}", limb(0.2, 0.03, 0.5), "dark", "head", (0.06, 0.03 * side), swing, varied=True)
    yield PartSpec("head", ellipse(0, 0, 0.12, 0.12), "second", "shell", (0.36, 0), _swing(0.15, 0.5), varied=True)
    seam = polygon("-0.5,-0.012 0.5,-0.012 0.5,0.012 -0.5,0.012")
    yield PartSpec("shell", ellipse(0, 0, 0.36, 0.25), "main", roughness=0.02, marks=[(seam, "dark")])


def jellyfish(rng: np.random.Generator, size: float) -> Iterator[PartSpec]:
    """A dome above six waving two-piece tentacles."""
    rate = rng.uniform(0.5, 0.9)
    for number, x in enumerate(np.linspace(-0.26, 0.26, 6)):
        phase, upper = 0.13 * number, f"tentacle {number}"
        waves = _swing(0.6, rate, phase - 0.2), _swing(0.35, rate, phase, -0.5 * x)
        yield PartSpec(f"tip {number}", limb(0.26, 0.07, 0.3), "light", upper, (0, 0.24), waves[0])
        yield PartSpec(upper, limb(0.26, 0.09), "second", "dome", (x, 0), waves[1])
    dome = "-0.36,0.06 -0.34,-0.16 -0.16,-0.36 0.16,-0.36 0.34,-0.16 0.36,0.06 0.18,0.0 0,0.07 -0.18,0.0"
    yield PartSpec("dome", polygon(dome, 2), "main", angle=_swing(0.08, rate), varied=True, roughness=0.02)


def flower(rng: np.random.Generator, size: float) -> Iterator[PartSpec]:
    """Trembling petals around a disc."""
    count = int(rng.integers(6, 9))
    petal = polygon("0,0 0.12,0.18 0.13,0.36 0,0.5 -0.13,0.36 -0.12,0.18", 2)
    for n in range(count):
        tremble = _swing(0.1, 0.8, 0.3 * n, 2 * np.pi * n / count)
        yield PartSpec(f"petal {n}", petal, "main" if n % 2 else "second", "disc", angle=tremble, roughness=0.03)
    marks = [(ellipse(0, 0, 0.09, 0.09), "light")]
    yield PartSpec("disc", ellipse(0, 0, 0.17, 0.17), "dark", roughness=0.04, marks=marks)


def bird(rng: np.random.Generator, size: float) -> Iterator[PartSpec]:
    """Body, head with beak, tail, and two wings that beat out of step by a little."""
    body = polygon("0.3,-0.06 0.1,-0.16 -0.3,-0.06 -0.32,0.02 0.0,0.17 0.26,0.1", 2)
    wing = polygon("0.12,0.02 0.05,-0.2 -0.12,-0.5 -0.22,-0.42 -0.2,-0.05", 1)
    tail = polygon("0.04,0 -0.3,-0.1 -0.24,0 -0.3,0.08", 1)
    eye = [(ellipse(0.05, -0.03, r, r), tone) for r, tone in ((0.035, "light"), (0.02, "dark"))]
    rate, phase = rng.uniform(1.0, 1.8), rng.random()
    beats = _swing(0.6, rate, phase, 0.3), _swing(0.7, rate, phase + 0.06, -0.1)
    yield PartSpec("far wing", wing, "second", "body", (0.08, -0.08), beats[0])
    yield PartSpec("tail", tail, "second", "body", (-0.28, -0.02), _swing(0.15, rate), varied=True)
    yield PartSpec("beak", polygon("0.06,-0.05 0.24,0.02 0.06,0.05"), "dark", "head")
    yield PartSpec("body", body, "main", angle=_swing(0.06, rate), varied=True, roughness=0.015)
    nod = _swing(0.12, rate)
    yield PartSpec("head", ellipse(0, 0, 0.12, 0.11), "main", "body", (0.28, -0.08), nod, varied=True, marks=eye)
    yield PartSpec("near wing", wing, "second", "body", (0.02, -0.02), beats[1], roughness=0.02)


FAMILIES: dict[str, Family] = {
    family.__name__: family for family in (fish, butterfly, car, beetle, jellyfish, flower, bird)
}
