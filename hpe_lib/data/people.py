"""`People`: annotated people of any data set, with joints, normalisers, frames and images."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from hpe_lib.data.images import ImageFiles, Images, MixedImages
from hpe_lib.geometry import Frame
from hpe_lib.skeleton import ABSENT, TORSO
from hpe_lib.workbook import schemas
from hpe_lib.workbook.artifacts import BadInput

ABSENT_IMAGE = "image absent"  # a reason in People.skipped
# People of published splits. MPII's validation split is that of Tompson et al., CVPR 2015.
SPLIT_SIZES = {
    ("mpii", "train"): 22246,
    ("mpii", "val"): 2958,
    ("lsp", "train"): 1000,
    ("lsp", "val"): 1000,
    ("lsp", "test"): 1000,
    ("leeds", "train"): 8987,  # LSP's 1,000 and 8,000 of LSPET, without copies of who is scored
    ("leeds", "val"): 500,
    ("leeds", "test"): 1000,
}
# Are images of another size than the annotated ones? In sound data no joint lies outside, and the
# median person's middle is at 0.45 to 0.51 of the image's width and height.
LOOKED_AT = 60  # people
FEWEST = 20  # people of whom something can be said
OUTSIDE = 0.05  # of the joints
OFF_CENTRE = 0.15  # of the width or height
Rows = TypeVar("Rows", bound=Sequence)


@dataclass(frozen=True, kw_only=True)
class People:
    """N annotated people, for training and for scoring. Row i of every array is person i's.

    dataset: its name, such as "mpii".
    keys: (N,) who it is: "im00001.jpg" or, where an image holds several, "005808361.jpg 2".
    joints: (N, 16, 2) float64, image px, (x, y), in MPII's order; NaN where not annotated.
    visibility: (N, 16) int8, ABSENT, OCCLUDED or VISIBLE.
    normaliser: (N,) image px, the length that errors are divided by: head size or torso.
        NaN where the annotation does not give it.
    metric: "PCKh@0.5" or "PCK@0.2".
    occlusion_labels: does the data set say which joints are occluded?
    source: which labels these are, "" where there is no choice.
    skipped: reason -> number of people that were left out.
    images: see Images; None if there are only annotations.
    center, side, body: (N, 2), (N,), (N,) image px, the frame of everybody, as in geometry.Frame.
        None if there are only annotations.
    center_from_joints: is the frame placed by the annotation, so that scores use ground truth?
    """

    dataset: str
    keys: np.ndarray
    joints: np.ndarray
    visibility: np.ndarray
    normaliser: np.ndarray
    metric: str
    occlusion_labels: bool
    source: str = ""
    skipped: dict[str, int] = field(default_factory=dict)
    images: Images | None = None
    center: np.ndarray | None = None
    side: np.ndarray | None = None
    body: np.ndarray | None = None
    center_from_joints: bool = False

    def __len__(self) -> int:
        return len(self.joints)

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> "People":
        """The people of these rows: a slice, a boolean mask or an index array."""
        rows = np.arange(len(self))[rows]
        images = None if self.images is None else self.images.select(rows)
        arrays = {name: getattr(self, name)[rows] for name in self._array_names()}
        return replace(self, images=images, **arrays)

    def _array_names(self) -> list[str]:
        """The fields that hold an array of N rows."""
        return [name for name, value in vars(self).items() if isinstance(value, np.ndarray)]

    @property
    def box(self) -> np.ndarray:
        """(N,) image px, the longer side of the annotated joints' box; NaN without any joint.

        A second normaliser (F14): nearly everybody has it.
        """
        low = np.fmin.reduce(self.joints, axis=1)
        high = np.fmax.reduce(self.joints, axis=1)
        return (high - low).max(1)

    def frame(self, row: int, image_size: int) -> Frame:
        """The frame of person `row`, for a crop of image_size px."""
        center = tuple(self.center[row].tolist())
        return Frame(center, float(self.side[row]), image_size, float(self.body[row]))

    def frames(self, image_size: int) -> list[Frame]:
        """The N people's frames."""
        return [self.frame(row, image_size) for row in range(len(self))]

    def crops(self, image_size: int) -> np.ndarray:
        """(N, S, S, 3) uint8 RGB, everybody as the network sees them."""
        frames = enumerate(self.frames(image_size))
        return np.stack([self.images.crop(row, frame) for row, frame in frames])

    def joints_in_crops(self, image_size: int) -> np.ndarray:
        """(N, 16, 2) crop px, everybody's joints in their crops; NaN where there is no label."""
        pairs = zip(self.frames(image_size), self.joints)
        joints = np.stack([frame.to_crop(points) for frame, points in pairs])
        return np.where(self.visibility[..., None] == ABSENT, np.nan, joints)

    def fingerprint(self) -> str:
        """sha256 of who they are, what is annotated and how images are framed.

        Pixels enter only through the images' names.
        """
        who = (self.dataset, self.metric, list(self.keys), self.images.source)
        digest = hashlib.sha256(repr(who).encode())
        for name in ("joints", "visibility", "center", "side", "body", "normaliser"):
            digest.update(np.ascontiguousarray(getattr(self, name)))
        return digest.hexdigest()


def parse_people(people: str) -> tuple[str, slice]:
    """(split, rows) of "8-9", "val" or "val 8-9", as schemas.person_range.

    Raises BadInput on anything else.
    """
    found = schemas.person_range(str(people))
    if found is None:
        raise BadInput("people", repr(people), schemas.PEOPLE)
    return found


def select_range(file: Path, people: str, split: Rows) -> Rows:
    """Those of a split, read from `file`, that `people` asks for, such as "val 8-9".

    Raises BadInput if there are none, or fewer than are asked for.
    """
    rows = parse_people(people)[1]
    least = rows.stop or 1
    if len(split) < least:
        raise BadInput(file, f"{len(split)} people", f"at least the {least} of people {people}")
    return split[rows]


def concatenate(dataset: str, parts: list[People]) -> People:
    """People of several data sets, one after another, who all have the same metric."""
    names = parts[0]._array_names()
    skipped = Counter()
    for part in parts:
        skipped.update(part.skipped)
    return replace(
        parts[0],
        dataset=dataset,
        images=mix_images([part.images for part in parts], f"{dataset} images"),
        occlusion_labels=all(part.occlusion_labels for part in parts),
        center_from_joints=any(part.center_from_joints for part in parts),
        skipped=dict(skipped),
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names},
    )


def mix_images(parts: list[Images], source: str) -> Images:
    """The images of several data sets, one after another."""
    if all(isinstance(part, ImageFiles) for part in parts):
        return ImageFiles([path for part in parts for path in part.paths], source)
    rows = [(number, row) for number, part in enumerate(parts) for row in range(len(part))]
    return MixedImages(parts, rows, f"{source}, {', '.join(part.source for part in parts)}")


def require_images(people: People, only_present: bool) -> People:
    """The people whose image file exists.

    Raises BadInput with a count and the first absent name, unless only_present; then the absent
    are counted in `skipped`, and it is raised only if nobody is left.
    """
    present = np.array([path.is_file() for path in people.images.paths])
    if present.all():
        return people
    count = int((~present).sum())
    if not only_present or not present.any():
        raise BadInput(
            people.images.paths[int(present.argmin())],
            f"{count} of {len(people)} people's images absent, this one first",
            "every annotated image (or only_present=true, --only-present)",
        )
    return replace(people[present], skipped={**people.skipped, ABSENT_IMAGE: count})


def center_on_images(people: People) -> People:
    """Put the frames without a centre on the middle of their image: no hint from the joints."""
    unknown = np.isnan(people.center).any(1)
    center = people.center.copy()
    for row in np.flatnonzero(unknown):
        height, width = people.images[row].shape[:2]
        center[row] = (width - 1) / 2, (height - 1) / 2
    hint = people.center_from_joints and not unknown.all()
    return replace(people, center=center, center_from_joints=hint)


def image_of(key: str) -> str:
    """The image of a person's key; MPII's keys end in the person's number in it."""
    return key.rpartition(" ")[0] or key


def image_notes(people: People) -> list[str]:
    """A note if the images seem to be of another size than those that were annotated.

    LSP, for one, is around in two sizes with the same file names. The images of some people are
    looked at; those that cannot be read are left out.
    """
    places = []
    for row in np.unique(np.linspace(0, len(people) - 1, LOOKED_AT).astype(int)):
        with contextlib.suppress(BadInput):
            height, width = people.images[row].shape[:2]
            known = (people.visibility[row] != ABSENT)[:, None]
            places.append(np.where(known, people.joints[row], np.nan) / (width, height))
    places = [place for place in places if not np.isnan(place).all()]
    if len(places) < FEWEST:
        return []
    points = np.concatenate(places)
    points = points[~np.isnan(points).any(1)]
    outside = ((points < 0) | (points > 1)).any(1).mean()
    x, y = np.median([(np.nanmin(place, 0) + np.nanmax(place, 0)) / 2 for place in places], axis=0)
    if outside <= OUTSIDE and max(abs(x - 0.5), abs(y - 0.5)) <= OFF_CENTRE:
        return []
    return [
        f"are the images of another size than those that were annotated? {outside:.0%} of the "
        f"joints lie outside, people's middle at ({x:.2f}, {y:.2f}) of width and height"
    ]


def replace_midpoints(people: People, invent: bool) -> People:
    """Take the labels of pelvis and thorax away, or invent them: strategies (ii) and (i) of §3.1.

    Invented (F3, F18), the pelvis lies between the hips and the thorax between the shoulders. Each
    is as visible as the less visible of its two, and absent where one of them is. Neither is ever
    scored.
    """
    joints = people.joints.copy()
    visibility = people.visibility.copy()
    for row, pair in TORSO.items():
        joints[:, row] = joints[:, pair].mean(1) if invent else np.nan
        visibility[:, row] = visibility[:, pair].min(1) if invent else ABSENT
    return replace(people, joints=joints, visibility=visibility)
