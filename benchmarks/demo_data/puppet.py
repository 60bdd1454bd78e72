"""The person: an articulated figure facing the camera with the 15 joints of JHMDB and the part labels of VIP."""

from collections.abc import Iterator

import numpy as np

from benchmarks.demo_data.actors import PartSpec, Signal, ellipse, limb, polygon, transformed

_PAIRS = ("shoulder", "hip", "elbow", "knee", "wrist", "ankle")
JOINT_NAMES = ("neck", "belly", "face", *(f"{side} {joint}" for joint in _PAIRS for side in ("right", "left")))
"""In the order of JHMDB's `joint_positions.mat`."""

HAIR, UPPER_CLOTHES, PANTS, NECK, FACE = 2, 5, 9, 10, 13
ARM = {"left": 14, "right": 15}
LEG = {"left": 16, "right": 17}
SHOE = {"left": 18, "right": 19}
"""Part labels of VIP (and LIP, CIHP): 20 classes, 0 is the background."""

SIDES = {"right": -1, "left": 1}
"""Side of the body and the sign of x on the screen."""


def person(rng: np.random.Generator, rate: float, energy: float) -> Iterator[PartSpec]:
    """Parts of a figure whose limbs swing `rate` times a second; `energy` 1 is a brisk walk."""

    def swing(amplitude: float, phase: float, base: float = 0.0) -> Signal:
        return Signal(base, 0, amplitude * energy, rate, phase)

    for side, sign in SIDES.items():
        step = 0.25 * sign + 0.25  # the two sides move in opposite phase
        arm_rest = -sign * rng.uniform(0.35, 0.8)
        leg_rest = -sign * rng.uniform(0.1, 0.22)
        shoe, shin, thigh, sleeve = (f"{side} {part}" for part in ("shoe", "shin", "thigh", "sleeve"))
        sole = ellipse(sign * 0.015, 0.02, 0.045, 0.028)
        yield PartSpec(shoe, sole, "dark", shin, (0, 0.21), roughness=0.02, category=SHOE[side], layer=-1)
        yield PartSpec(
            *(shin, limb(0.2, 0.06, 0.7), "skin", thigh, (0, 0.22), swing(0.3, step + 0.15, sign * 0.1 * energy)),
            category=LEG[side],
            joints={f"{side} ankle": (0, 0.2)},
            layer=-1,
        )
        yield PartSpec(
            *(thigh, limb(0.22, 0.095, 0.75), "second", "torso", (0.058 * sign, 0.09), swing(0.35, step, leg_rest)),
            category=PANTS,
            joints={f"{side} hip": (0, 0), f"{side} knee": (0, 0.22)},
            layer=-1,
        )
        bend = swing(0.55, step + 0.6, -sign * rng.uniform(0.1, 0.6))
        yield PartSpec(
            *(f"{side} forearm", limb(0.16, 0.05, 0.8), "skin", sleeve, (0, 0.155), bend),
            category=ARM[side],
            joints={f"{side} wrist": (0, 0.14)},
            layer=1,
        )
        yield PartSpec(
            *(sleeve, limb(0.155, 0.07, 0.8), "main", "torso", (0.112 * sign, -0.2), swing(0.5, step + 0.5, arm_rest)),
            category=UPPER_CLOTHES,
            joints={f"{side} shoulder": (0, 0), f"{side} elbow": (0, 0.155)},
            layer=1,
        )
    head = ("neck", (0, -0.03), swing(0.12, rng.random()))
    back = ellipse(0, -0.095, 0.08, 0.085)
    yield PartSpec("hair", back, "dark", *head, roughness=0.05, category=HAIR, layer=-2)
    hips = polygon("-0.105,-0.06 0.105,-0.06 0.115,0.06 0.03,0.1 -0.03,0.1 -0.115,0.06", 1)
    yield PartSpec("hips", hips, "second", "torso", (0, 0.07), category=PANTS)
    torso = "-0.08,-0.24 0.08,-0.24 0.15,-0.2 0.1,0.02 0.105,0.07 -0.105,0.07 -0.1,0.02 -0.15,-0.2"
    yield PartSpec(
        *("torso", polygon(torso, 1), "main"),
        angle=swing(0.08, 0.1),
        roughness=0.012,
        category=UPPER_CLOTHES,
        joints={"belly": (0, 0), "neck": (0, -0.23)},
    )
    neck = transformed(limb(0.05, 0.055, 1.0), ((1, 0), (0, -1)))
    yield PartSpec("neck", neck, "skin", "torso", (0, -0.23), category=NECK)
    marks = [(ellipse(x, -0.085, 0.011, 0.009), "dark") for x in (-0.03, 0.03)]
    marks.append((ellipse(0, -0.04, 0.022, 0.006), "dark"))
    face = ellipse(0, -0.075, 0.062, 0.078)
    yield PartSpec("face", face, "skin", *head, marks=marks, category=FACE, joints={"face": (0, -0.07)})
    fringe = polygon("-0.062,-0.1 -0.05,-0.16 0,-0.175 0.05,-0.16 0.062,-0.1 0.02,-0.125 -0.03,-0.12", 1)
    yield PartSpec("fringe", fringe, "dark", *head, category=HAIR)
