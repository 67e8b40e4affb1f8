"""The 16 joints of MPII: names and order, limbs, mirror pairs, and the groups of Tables 5 to 7."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

ABSENT, OCCLUDED, VISIBLE = 0, 1, 2  # visibility of a joint; ABSENT: not annotated
VISIBILITY_NAMES = {VISIBLE: "visible", OCCLUDED: "occluded", ABSENT: "no label here"}


@dataclass(frozen=True)
class Skeleton:
    """The names of J joints, and what follows from them.

    names: in the order of every (J, 2) array.
    parents: name of each joint's parent, itself for the root.
    groups: column of the tables -> joint names. Joints in no group are not scored.
    """

    names: tuple[str, ...]
    parents: dict[str, str]
    groups: dict[str, tuple[str, ...]]

    def index(self, name: str) -> int:
        """Row of the named joint. ValueError if the skeleton has no such joint."""
        return self.names.index(name)

    @cached_property
    def mirror(self) -> list[int]:
        """(J,) permutation: row i of a mirrored person is row mirror[i] of the original."""
        swap = {"left": "right", "right": "left"}
        sides = [name.partition("_") for name in self.names]
        return [self.index(f"{swap.get(side, side)}{bar}{rest}") for side, bar, rest in sides]

    @property
    def limbs(self) -> list[tuple[int, int]]:
        """(child, parent) rows of every limb, for drawing."""
        return [
            (self.index(child), self.index(parent))
            for child, parent in self.parents.items()
            if child != parent
        ]

    @property
    def scored(self) -> list[int]:
        """Rows that PCKh and PCK score: the joints of all groups, in order."""
        return sorted(self.index(name) for names in self.groups.values() for name in names)


def _pair(part: str) -> tuple[str, str]:
    return f"right_{part}", f"left_{part}"


MPII = Skeleton(
    names=(
        "right_ankle",
        "right_knee",
        "right_hip",
        "left_hip",
        "left_knee",
        "left_ankle",
        "pelvis",
        "thorax",
        "upper_neck",
        "head_top",
        "right_wrist",
        "right_elbow",
        "right_shoulder",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
    ),
    parents={
        "right_ankle": "right_knee",
        "right_knee": "right_hip",
        "right_hip": "pelvis",
        "left_hip": "pelvis",
        "left_knee": "left_hip",
        "left_ankle": "left_knee",
        "pelvis": "pelvis",
        "thorax": "pelvis",
        "upper_neck": "thorax",
        "head_top": "upper_neck",
        "right_wrist": "right_elbow",
        "right_elbow": "right_shoulder",
        "right_shoulder": "thorax",
        "left_shoulder": "thorax",
        "left_elbow": "left_shoulder",
        "left_wrist": "left_elbow",
    },
    groups={
        "head": ("upper_neck", "head_top"),
        **{part: _pair(part) for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")},
    },
)

# The 14 joints of LSP and LSPET, in the order of their files. Their neck is MPII's upper neck
# (the authors' demo).
LSP_ROWS = [*range(6), *range(10, 16), 8, 9]  # legs, arms, upper neck, head top
LSP_NAMES = tuple(MPII.names[row] for row in LSP_ROWS)  # LSP's joint i is MPII's joint LSP_ROWS[i]


# the rows of pelvis and thorax, and of the pair that each lies between
TORSO = {
    MPII.index(middle): [MPII.index(name) for name in MPII.groups[pair]]
    for middle, pair in (("pelvis", "hip"), ("thorax", "shoulder"))
}


def fill_torso(joints: np.ndarray) -> np.ndarray:
    """Return joints (..., 16, 2) with a missing (NaN) pelvis or thorax between hips or shoulders.

    LSP and LSPET label neither.
    """
    joints = np.array(joints, dtype=float)
    for row, ends in TORSO.items():
        missing = np.isnan(joints[..., row, :]).any(-1, keepdims=True)
        middle = joints[..., ends, :].mean(-2)
        joints[..., row, :] = np.where(missing, middle, joints[..., row, :])
    return joints
