"""The person: an articulated figure facing the camera with the 15 joints of JHMDB and the part labels of VIP."""

import numpy as np
from PIL import Image

from benchmarks.demo_data.actors import Part, Points, Signal, cut_part, ellipse, limb, roughen, soften
from benchmarks.demo_data.families import Materials

JOINT_NAMES = (
    "neck",
    "belly",
    "face",
    "right shoulder",
    "left shoulder",
    "right hip",
    "left hip",
    "right elbow",
    "left elbow",
    "right knee",
    "left knee",
    "right wrist",
    "left wrist",
    "right ankle",
    "left ankle",
)
"""In the order of JHMDB's `joint_positions.mat`."""

HAIR, UPPER_CLOTHES, PANTS, NECK, FACE = 2, 5, 9, 10, 13
ARM = {"left": 14, "right": 15}
LEG = {"left": 16, "right": 17}
SHOE = {"left": 18, "right": 19}
"""Part labels of VIP (and LIP, CIHP): 20 classes, 0 is the background."""

SIDES = {"right": -1, "left": 1}
"""Side of the body and the sign of x on the screen."""


def person(
    rng: np.random.Generator, size: float, wear: Materials, skin: Image.Image, rate: float, energy: float
) -> tuple[Part, ...]:
    """Parts of a figure `size` pixels tall whose limbs swing `rate` times a second; `energy` 1 is a brisk walk."""

    def scaled(points: list[tuple[float, float]]) -> Points:
        return soften(np.array(points) * size, 1)

    legs: list[Part] = []
    arms: list[Part] = []
    for side, sign in SIDES.items():
        step = 0.25 * sign + 0.25  # the two sides move in opposite phase
        arm_rest = -sign * rng.uniform(0.35, 0.8)
        leg_rest = -sign * rng.uniform(0.1, 0.22)
        legs += [
            cut_part(
                rng,
                f"{side} shoe",
                roughen(rng, ellipse(sign * 0.015 * size, 0.02 * size, 0.045 * size, 0.028 * size), 0.02),
                wear.dark,
                parent=f"{side} shin",
                attached=(0, 0.21 * size),
                category=SHOE[side],
            ),
            cut_part(
                rng,
                f"{side} shin",
                limb(0.2 * size, 0.06 * size, 0.7),
                skin,
                parent=f"{side} thigh",
                attached=(0, 0.22 * size),
                angle=Signal(sign * 0.1 * energy, 0, 0.3 * energy, rate, step + 0.15),
                category=LEG[side],
                joints={f"{side} ankle": (0, 0.2 * size)},
            ),
            cut_part(
                rng,
                f"{side} thigh",
                limb(0.22 * size, 0.095 * size, 0.75),
                wear.second,
                parent="torso",
                attached=(0.058 * sign * size, 0.09 * size),
                angle=Signal(leg_rest, 0, 0.35 * energy, rate, step),
                category=PANTS,
                joints={f"{side} hip": (0, 0), f"{side} knee": (0, 0.22 * size)},
            ),
        ]
        arms += [
            cut_part(
                rng,
                f"{side} forearm",
                limb(0.16 * size, 0.05 * size, 0.8),
                skin,
                parent=f"{side} sleeve",
                attached=(0, 0.155 * size),
                angle=Signal(-sign * rng.uniform(0.1, 0.6), 0, 0.55 * energy, rate, step + 0.6),
                category=ARM[side],
                joints={f"{side} wrist": (0, 0.14 * size)},
            ),
            cut_part(
                rng,
                f"{side} sleeve",
                limb(0.155 * size, 0.07 * size, 0.8),
                wear.main,
                parent="torso",
                attached=(0.112 * sign * size, -0.2 * size),
                angle=Signal(arm_rest, 0, 0.5 * energy, rate, step + 0.5),
                category=UPPER_CLOTHES,
                joints={f"{side} shoulder": (0, 0), f"{side} elbow": (0, 0.155 * size)},
            ),
        ]
    torso = scaled(
        [
            (-0.08, -0.24),
            (0.08, -0.24),
            (0.15, -0.2),
            (0.1, 0.02),
            (0.105, 0.07),
            (-0.105, 0.07),
            (-0.1, 0.02),
            (-0.15, -0.2),
        ]
    )
    hips = scaled([(-0.105, -0.06), (0.105, -0.06), (0.115, 0.06), (0.03, 0.1), (-0.03, 0.1), (-0.115, 0.06)])
    eyes = [(ellipse(x * size, -0.085 * size, 0.011 * size, 0.009 * size), wear.dark) for x in (-0.03, 0.03)]
    mouth = (ellipse(0, -0.04 * size, 0.022 * size, 0.006 * size), wear.dark)
    face = ellipse(0, -0.075 * size, 0.062 * size, 0.078 * size)
    nod = Signal(0, 0, 0.12 * energy, rate, rng.random())
    return (
        cut_part(
            rng,
            "hair",
            roughen(rng, ellipse(0, -0.095 * size, 0.08 * size, 0.085 * size), 0.05),
            wear.dark,
            parent="neck",
            attached=(0, -0.03 * size),
            angle=nod,
            category=HAIR,
        ),
        *legs,
        cut_part(rng, "hips", hips, wear.second, parent="torso", attached=(0, 0.07 * size), category=PANTS),
        cut_part(
            rng,
            "torso",
            roughen(rng, torso, 0.012),
            wear.main,
            angle=Signal(0, 0, 0.08 * energy, rate, 0.1),
            category=UPPER_CLOTHES,
            joints={"belly": (0, 0), "neck": (0, -0.23 * size)},
        ),
        cut_part(
            rng,
            "neck",
            limb(0.05 * size, 0.055 * size, 1.0) * np.array([1, -1]),
            skin,
            parent="torso",
            attached=(0, -0.23 * size),
            category=NECK,
        ),
        cut_part(
            rng,
            "face",
            face,
            skin,
            marks=[*eyes, mouth],
            parent="neck",
            attached=(0, -0.03 * size),
            angle=nod,
            category=FACE,
            joints={"face": (0, -0.07 * size)},
        ),
        cut_part(
            rng,
            "fringe",
            scaled(
                [
                    (-0.062, -0.1),
                    (-0.05, -0.16),
                    (0, -0.175),
                    (0.05, -0.16),
                    (0.062, -0.1),
                    (0.02, -0.125),
                    (-0.03, -0.12),
                ]
            ),
            wear.dark,
            parent="neck",
            attached=(0, -0.03 * size),
            angle=nod,
            category=HAIR,
        ),
        *arms,
    )
