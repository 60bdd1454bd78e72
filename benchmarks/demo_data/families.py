"""Seven kinds of creature and vehicle: each builder returns parts of about `size` pixels, facing right."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from benchmarks.demo_data.actors import Part, Points, Signal, cut_part, ellipse, limb, roughen, soften
from benchmarks.demo_data.textures import Palette, texture


@dataclass(frozen=True)
class Materials:
    """What an actor is cut from."""

    main: Image.Image
    second: Image.Image
    dark: Image.Image
    light: Image.Image


PATTERN_SIZE = (144, 144)
PLAIN_SIZE = (48, 48)


def random_materials(rng: np.random.Generator, kinds: tuple[str, str], palette: Palette, size: float) -> Materials:
    """Two textures of the given kinds, and the palette's darkest and lightest color with some grain."""
    cell = max(6.0, size * rng.uniform(0.11, 0.17))
    tones = palette[np.argsort(palette.sum(axis=1))]
    return Materials(
        main=texture(rng, kinds[0], PATTERN_SIZE, palette, cell),
        second=texture(rng, kinds[1], PATTERN_SIZE, palette, 0.8 * cell),
        dark=texture(rng, "clouds", PLAIN_SIZE, tones[:1] * 0.6, cell),
        light=texture(rng, "clouds", PLAIN_SIZE, tones[-1:] * 0.5 + 0.5, cell),
    )


Builder = Callable[[np.random.Generator, float, Materials], tuple[Part, ...]]


def _scaled(points: list[tuple[float, float]], size: float) -> Points:
    return np.array(points) * size


def _swing(rng: np.random.Generator, amplitude: float, rate: float, base: float = 0.0, phase: float = 0.0) -> Signal:
    return Signal(base, 0.0, amplitude * rng.uniform(0.8, 1.2), rate * rng.uniform(0.9, 1.1), phase)


def fish(rng: np.random.Generator, size: float, wear: Materials) -> tuple[Part, ...]:
    """Body, beating tail, fins, eye."""
    body = soften(
        _scaled([(0.5, 0), (0.2, -0.24), (-0.2, -0.2), (-0.5, -0.04), (-0.5, 0.04), (-0.2, 0.2), (0.2, 0.24)], size)
    )
    tail = soften(_scaled([(0.05, 0), (-0.3, -0.24), (-0.2, 0), (-0.3, 0.24)], size), 1)
    fin = soften(_scaled([(0.16, 0), (-0.05, -0.2), (-0.22, -0.14), (-0.16, 0.02)], size), 1)
    flipper = soften(_scaled([(0.06, 0), (-0.2, 0.02), (-0.16, 0.16)], size), 1)
    rate, phase = rng.uniform(0.8, 1.6), rng.random()
    eye = [
        (ellipse(0.31 * size, -0.06 * size, r * size, r * size), m) for r, m in ((0.055, wear.light), (0.03, wear.dark))
    ]
    stripe = (
        soften(_scaled([(0.2, -0.3), (0.24, 0), (0.2, 0.3), (0.08, 0.3), (0.12, 0), (0.08, -0.3)], size)),
        wear.second,
    )
    return (
        cut_part(
            rng,
            "tail",
            tail,
            wear.second,
            parent="body",
            attached=(-0.45 * size, 0),
            angle=_swing(rng, 0.45, rate, 0, phase),
        ),
        cut_part(
            rng, "fin", fin, wear.second, parent="body", attached=(0, -0.19 * size), angle=_swing(rng, 0.12, rate)
        ),
        cut_part(
            rng,
            "body",
            roughen(rng, body, 0.02),
            wear.main,
            marks=[stripe, *eye],
            angle=_swing(rng, 0.1, rate, 0, phase + 0.25),
        ),
        cut_part(
            rng,
            "flipper",
            flipper,
            wear.second,
            parent="body",
            attached=(0.08 * size, 0.08 * size),
            angle=_swing(rng, 0.5, rate, 0.3),
        ),
    )


def butterfly(rng: np.random.Generator, size: float, wear: Materials) -> tuple[Part, ...]:
    """Four beating wings and a thin body that points up."""
    upper = roughen(rng, soften(_scaled([(0, 0), (0.1, -0.3), (0.4, -0.42), (0.5, -0.2), (0.3, 0.02)], size)), 0.03)
    lower = roughen(rng, soften(_scaled([(0, 0), (0.3, 0.0), (0.38, 0.2), (0.2, 0.36), (0.05, 0.2)], size)), 0.03)
    body = soften(_scaled([(0, -0.26), (0.045, -0.15), (0.04, 0.25), (-0.04, 0.25), (-0.045, -0.15)], size))
    flip = np.array([-1.0, 1.0])
    rate, phase = rng.uniform(1.2, 2.2), rng.random()
    spot = ellipse(0.3 * size, -0.2 * size, 0.07 * size, 0.07 * size)
    beat = 0.35
    return (
        cut_part(rng, "lower right", lower, wear.second, parent="body", angle=Signal(0, 0, beat, rate, phase)),
        cut_part(rng, "lower left", lower * flip, wear.second, parent="body", angle=Signal(0, 0, -beat, rate, phase)),
        cut_part(
            rng,
            "upper right",
            upper,
            wear.main,
            marks=[(spot, wear.light)],
            parent="body",
            angle=Signal(0, 0, -beat, rate, phase),
        ),
        cut_part(
            rng,
            "upper left",
            upper * flip,
            wear.main,
            marks=[(spot * flip, wear.light)],
            parent="body",
            angle=Signal(0, 0, beat, rate, phase),
        ),
        cut_part(
            rng, "body", body, wear.dark, marks=[(ellipse(0, -0.2 * size, 0.04 * size, 0.05 * size), wear.second)]
        ),
    )


def car(rng: np.random.Generator, size: float, wear: Materials) -> tuple[Part, ...]:
    """Body with windows and two rolling wheels with spokes."""
    body = soften(
        _scaled(
            [
                (-0.5, 0.12),
                (-0.5, -0.08),
                (-0.3, -0.12),
                (-0.2, -0.3),
                (0.14, -0.3),
                (0.27, -0.1),
                (0.5, -0.04),
                (0.5, 0.12),
            ],
            size,
        ),
        1,
    )
    window = soften(_scaled([(-0.22, -0.12), (-0.15, -0.25), (-0.04, -0.25), (-0.04, -0.12)], size), 1)
    windscreen = soften(_scaled([(0.0, -0.12), (0.0, -0.25), (0.11, -0.25), (0.19, -0.12)], size), 1)
    band = _scaled([(-0.6, 0.02), (0.6, 0.02), (0.6, 0.08), (-0.6, 0.08)], size)
    lamp = ellipse(0.46 * size, 0.0, 0.03 * size, 0.03 * size)
    radius, spin = 0.12 * size, Signal(0, rng.uniform(2, 4))
    spokes = [
        (_scaled([(-0.1, -0.018), (0.1, -0.018), (0.1, 0.018), (-0.1, 0.018)], size), wear.light) for _ in range(3)
    ]
    turned = [
        (s @ np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]), m)
        for (s, m), a in zip(spokes, (0.0, 1.05, 2.1), strict=True)
    ]
    wheel = ellipse(0, 0, radius, radius)
    return (
        cut_part(
            rng,
            "body",
            roughen(rng, body, 0.008),
            wear.main,
            marks=[(band, wear.second), (window, wear.light), (windscreen, wear.light), (lamp, wear.light)],
        ),
        cut_part(
            rng,
            "rear wheel",
            wheel,
            wear.dark,
            marks=turned,
            parent="body",
            attached=(-0.28 * size, 0.13 * size),
            angle=spin,
        ),
        cut_part(
            rng,
            "front wheel",
            wheel,
            wear.dark,
            marks=turned,
            parent="body",
            attached=(0.28 * size, 0.13 * size),
            angle=spin,
        ),
    )


def beetle(rng: np.random.Generator, size: float, wear: Materials) -> tuple[Part, ...]:
    """Shell with a seam, head with feelers, six walking legs; faces right, seen from above."""
    rate = rng.uniform(1.0, 1.8)
    legs = []
    for side in (-1, 1):
        for number, x in enumerate((-0.2, 0.0, 0.2)):
            rest = (0.0 if side > 0 else np.pi) - 0.5 * side * (number - 1)
            phase = 0.5 * ((number + (side > 0)) % 2)
            legs.append(
                cut_part(
                    rng,
                    f"leg {side} {number}",
                    limb(0.36 * size, 0.06 * size, 0.4),
                    wear.dark,
                    parent="shell",
                    attached=(x * size, 0.08 * side * size),
                    angle=Signal(rest, 0, 0.3, rate, phase),
                )
            )
    feelers = [
        cut_part(
            rng,
            f"feeler {side}",
            limb(0.2 * size, 0.03 * size, 0.5),
            wear.dark,
            parent="head",
            attached=(0.06 * size, 0.03 * side * size),
            angle=_swing(rng, 0.2, rate, -np.pi / 2 + 0.5 * side),
        )
        for side in (-1, 1)
    ]
    seam = _scaled([(-0.5, -0.012), (0.5, -0.012), (0.5, 0.012), (-0.5, 0.012)], size)
    return (
        *legs,
        *feelers,
        cut_part(
            rng,
            "head",
            ellipse(0, 0, 0.12 * size, 0.12 * size),
            wear.second,
            parent="shell",
            attached=(0.36 * size, 0),
            angle=_swing(rng, 0.15, 0.5),
        ),
        cut_part(
            rng,
            "shell",
            roughen(rng, ellipse(0, 0, 0.36 * size, 0.25 * size), 0.02),
            wear.main,
            marks=[(seam, wear.dark)],
        ),
    )


def jellyfish(rng: np.random.Generator, size: float, wear: Materials) -> tuple[Part, ...]:
    """A dome above six waving two-piece tentacles."""
    dome = soften(
        _scaled(
            [
                (-0.36, 0.06),
                (-0.34, -0.16),
                (-0.16, -0.36),
                (0.16, -0.36),
                (0.34, -0.16),
                (0.36, 0.06),
                (0.18, 0.0),
                (0, 0.07),
                (-0.18, 0.0),
            ],
            size,
        )
    )
    rate, parts = rng.uniform(0.5, 0.9), []
    for number, x in enumerate(np.linspace(-0.26, 0.26, 6)):
        phase = 0.13 * number
        upper, lower = f"tentacle {number}", f"tip {number}"
        parts.append(
            cut_part(
                rng,
                lower,
                limb(0.26 * size, 0.07 * size, 0.3),
                wear.light,
                parent=upper,
                attached=(0, 0.24 * size),
                angle=Signal(0, 0, 0.6, rate, phase - 0.2),
            )
        )
        parts.append(
            cut_part(
                rng,
                upper,
                limb(0.26 * size, 0.09 * size),
                wear.second,
                parent="dome",
                attached=(x * size, 0),
                angle=Signal(-0.5 * x, 0, 0.35, rate, phase),
            )
        )
    return (*parts, cut_part(rng, "dome", roughen(rng, dome, 0.02), wear.main, angle=_swing(rng, 0.08, rate)))


def flower(rng: np.random.Generator, size: float, wear: Materials) -> tuple[Part, ...]:
    """Trembling petals around a disc."""
    count = int(rng.integers(6, 9))
    petal = soften(_scaled([(0, 0), (0.12, 0.18), (0.13, 0.36), (0, 0.5), (-0.13, 0.36), (-0.12, 0.18)], size), 2)
    petals = [
        cut_part(
            rng,
            f"petal {n}",
            roughen(rng, petal, 0.03),
            wear.main if n % 2 else wear.second,
            parent="disc",
            angle=Signal(2 * np.pi * n / count, 0, 0.1, 0.8, 0.3 * n),
        )
        for n in range(count)
    ]
    disc = roughen(rng, ellipse(0, 0, 0.17 * size, 0.17 * size), 0.04)
    return (
        *petals,
        cut_part(rng, "disc", disc, wear.dark, marks=[(ellipse(0, 0, 0.09 * size, 0.09 * size), wear.light)]),
    )


def bird(rng: np.random.Generator, size: float, wear: Materials) -> tuple[Part, ...]:
    """Body, head with beak, tail, and two wings that beat out of step by a little."""
    body = soften(_scaled([(0.3, -0.06), (0.1, -0.16), (-0.3, -0.06), (-0.32, 0.02), (0.0, 0.17), (0.26, 0.1)], size))
    wing = soften(_scaled([(0.12, 0.02), (0.05, -0.2), (-0.12, -0.5), (-0.22, -0.42), (-0.2, -0.05)], size), 1)
    tail = soften(_scaled([(0.04, 0), (-0.3, -0.1), (-0.24, 0), (-0.3, 0.08)], size), 1)
    beak = _scaled([(0.06, -0.05), (0.24, 0.02), (0.06, 0.05)], size)
    eye = [
        (ellipse(0.05 * size, -0.03 * size, r * size, r * size), m) for r, m in ((0.035, wear.light), (0.02, wear.dark))
    ]
    rate, phase = rng.uniform(1.0, 1.8), rng.random()
    return (
        cut_part(
            rng,
            "far wing",
            wing,
            wear.second,
            parent="body",
            attached=(0.08 * size, -0.08 * size),
            angle=Signal(0.3, 0, 0.6, rate, phase),
        ),
        cut_part(
            rng,
            "tail",
            tail,
            wear.second,
            parent="body",
            attached=(-0.28 * size, -0.02 * size),
            angle=_swing(rng, 0.15, rate),
        ),
        cut_part(rng, "beak", beak, wear.dark, parent="head"),
        cut_part(rng, "body", roughen(rng, body, 0.015), wear.main, angle=_swing(rng, 0.06, rate)),
        cut_part(
            rng,
            "head",
            ellipse(0, 0, 0.12 * size, 0.11 * size),
            wear.main,
            marks=eye,
            parent="body",
            attached=(0.28 * size, -0.08 * size),
            angle=_swing(rng, 0.12, rate),
        ),
        cut_part(
            rng,
            "near wing",
            roughen(rng, wing, 0.02),
            wear.second,
            parent="body",
            attached=(0.02 * size, -0.02 * size),
            angle=Signal(-0.1, 0, 0.7, rate, phase + 0.06),
        ),
    )


FAMILIES: dict[str, Builder] = {
    "fish": fish,
    "butterfly": butterfly,
    "car": car,
    "beetle": beetle,
    "jellyfish": jellyfish,
    "flower": flower,
    "bird": bird,
}
