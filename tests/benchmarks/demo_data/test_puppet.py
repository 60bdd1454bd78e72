import numpy as np

from benchmarks.demo_data import puppet
from benchmarks.demo_data.casting import HELD_OUT_TIMES, POSE_MOVES, pose_scene
from benchmarks.demo_data.scene import render_annotated

ALLOWED = {
    "belly": {puppet.UPPER_CLOTHES},
    "face": {puppet.FACE},
    "neck": {puppet.UPPER_CLOTHES, puppet.NECK, puppet.FACE},
    **{f"{side} knee": {puppet.PANTS, puppet.LEG[side]} for side in puppet.SIDES},
    **{f"{side} ankle": {puppet.LEG[side], puppet.SHOE[side]} for side in puppet.SIDES},
    **{f"{side} wrist": {puppet.ARM[side]} for side in puppet.SIDES},
}


def test_joints_lie_on_the_body_parts_that_bear_them() -> None:
    checked = right = 0
    for name, move in POSE_MOVES.items():
        scene = pose_scene([4, len(name)], move, 1)
        for t in HELD_OUT_TIMES[::4]:
            frame = render_annotated(scene, t)
            assert set(frame.joints) == {1}
            assert set(frame.joints[1]) == set(puppet.JOINT_NAMES)
            for joint, categories in ALLOWED.items():
                x, y = frame.joints[1][joint]
                checked += 1
                right += int(frame.parts[int(y), int(x)]) in categories
    assert right / checked > 0.9  # the rest is hidden behind other limbs


def test_the_figure_faces_the_camera() -> None:
    joints = render_annotated(pose_scene([4, 0], POSE_MOVES["walk"], 1), HELD_OUT_TIMES[0]).joints[1]
    for pair in ("shoulder", "hip"):
        assert joints[f"right {pair}"][0] < joints[f"left {pair}"][0]
    assert joints["face"][1] < joints["neck"][1] < joints["belly"][1] < joints["left ankle"][1]


def test_part_labels_are_those_of_vip() -> None:
    frame = render_annotated(pose_scene([4, 1], POSE_MOVES["walk"], 2), HELD_OUT_TIMES[0])
    present = set(np.unique(frame.parts)) - {0}
    assert present <= {2, 5, 9, 10, 13, 14, 15, 16, 17, 18, 19}
    assert len(present) >= 9
    assert ((frame.parts > 0) == (frame.objects > 0)).all()
