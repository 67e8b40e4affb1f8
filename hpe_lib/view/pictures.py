"""Pictures of people and maps, made of pixels by `drawing`.

They are quick enough to be redrawn while somebody moves a control: the panels of `widgets` show
them, and a notebook shows the same picture below a panel. Crops are (S, S, 3) uint8, and points
are (x, y) in crop px: (0, 0) is the centre of the crop's first pixel.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from hpe_lib.cascade import Cascade
from hpe_lib.data.augment import PoseDataset, cut
from hpe_lib.data.people import People
from hpe_lib.geometry import rescale
from hpe_lib.paper import BODY
from hpe_lib.prediction import cover, predict_crop
from hpe_lib.skeleton import ABSENT, MPII, OCCLUDED, VISIBILITY_NAMES
from hpe_lib.targets import Targets
from hpe_lib.view import drawing

LAYERS = ("detector's target", "detector", "regressor's target", "regressor", "difference")
SIDE = 300  # px: a crop's side beside others
CROP = 256  # px of the crops that figures show, whatever the networks see


def joint_maps(
    image: np.ndarray,
    rows: dict[str, np.ndarray],
    shown: list[int],
    joints: np.ndarray,
    visibility: np.ndarray,
    title: str = "",
) -> Image.Image:
    """Return one person's maps of some joints on the crop (S, S, 3), with their peaks' values.

    rows: row label -> maps (16, h, w).  shown: the joints, a column each.  joints: (16, 2) crop px.
    title: words below. Each row has its own scale, which ends at its highest value shown: a disc's
    probability and a Gaussian's height are not the same thing. A ring is the joint's labelled
    place, dashed if it is occluded.
    """
    tops = {name: _top(maps[shown]) for name, maps in rows.items()}
    tiles = []
    titles = []
    for name, maps in rows.items():
        top = tops[name]
        for joint in shown:
            tile = drawing.draw_map(image, maps[joint], top)
            tiles.append(drawing.mark_joint(tile, 192, joints[joint], visibility[joint]))
            state = VISIBILITY_NAMES[int(visibility[joint])]
            peak = f"{name}: peak {maps[joint].max():.2f}"
            titles.append(f"{MPII.names[joint]}, {state}\n{peak}")
    ends = ", ".join(f"{name} {top:.2f}" for name, top in tops.items())
    scale = f"yellow, the highest of a row: {ends}"
    caption = f"{title}; {scale}" if title else scale
    return drawing.tile_images(tiles, titles, len(shown), 10, caption)


def network_maps(
    cascade: Cascade,
    person: People,
    image_size: int,
    title: str = "",
    shown: list[int] | None = None,
    patch: float = 0.0,
) -> Image.Image:
    """Return what each network sees of one person, the detector above the regressor (Fig. 2).

    person: People of one.  image_size: px of the crop that the networks get.  shown: joints, a
    column each; None: three visible limb joints, then as many of the least visible (a neck is often
    labelled occluded, and yet nothing hides where it is).  patch: side, in body heights, of a
    square that covers the first joint shown.  title: as for `joint_maps`.
    """
    crop, joints, states = _arrays(PoseDataset(person, CROP)[0])
    seen = person.crops(image_size)[0]
    if shown is None:
        limbs = [j for j in np.argsort(-states, kind="stable") if drawing.side_of(j) != "middle"]
        labelled = [j for j in limbs if states[j] != ABSENT]
        shown = [*labelled[:3], *labelled[3:][-3:]] or limbs[:1]
    if patch:
        crop, seen = (_covered(person, each, joints[shown[0]], patch) for each in (crop, seen))
        states[shown[0]] = OCCLUDED
        words = f"{MPII.names[shown[0]]} under a patch of {patch} body heights"
        title = f"{title}; {words}" if title else words
    maps, _ = predict_crop(cascade, seen)
    return joint_maps(crop, maps, shown, joints, states, title)


def cover_joint(
    cascade: Cascade,
    person: People,
    image_size: int,
    joint: int,
    patch: float,
    decoder: str = "parabola",
) -> Image.Image:
    """Return `cover_picture` of one person with a square patch over one joint.

    person: People of one.  image_size: px of the crop that the networks get.  patch: its side, body
    heights.
    """
    crop, joints, states = _arrays(PoseDataset(person, CROP)[0])
    seen = person.crops(image_size)[0]
    crop, seen = (_covered(person, each, joints[joint], patch) for each in (crop, seen))
    maps, points = predict_crop(cascade, seen, decoder)
    points = {name: rescale(found, CROP / image_size) for name, found in points.items()}
    return cover_picture(crop, maps, points, joint, joints, states)


def _covered(person, crop, point, patch):
    """A crop with a patch (its side in body heights) over a point of a CROP px crop."""
    size = len(crop)
    side = patch * person.frame(0, size).body_in_crop
    place = rescale(point, size / CROP)
    return cover(crop[None], place[None], np.array([side]))[0]


def one_joint(
    cascade: Cascade, person: People, image_size: int, joint: int, decoder: str = "parabola"
) -> Image.Image:
    """Return the way to one joint: the crop, each network's map of it, and the whole pose (Fig. 1).

    Without flip test.

    person: People of one.  image_size: px of the crop that the networks get.  A map's colours end
    at its own peak, whose height, and the network's highest for this person, stand above it. A ring
    is the joint's labelled place, dashed if it is occluded, a cross the network's answer.
    """
    crop, joints, states = _arrays(PoseDataset(person, CROP)[0])
    maps, points = predict_crop(cascade, person.crops(image_size)[0], decoder)
    points = {name: rescale(found, CROP / image_size) for name, found in points.items()}
    marks = (joints[joint], states[joint])
    tiles = {f"the image, {MPII.names[joint]}": drawing.mark_joint(crop, SIDE, *marks)}
    for name, heats in maps.items():
        shown = drawing.draw_map(crop, heats[joint], _top(heats[joint]))
        title = _peak_title(name, heats, joint, states)
        tiles[title] = drawing.mark_joint(shown, SIDE, *marks, points[name][joint])
    *_, found = points.values()
    tiles["the pose"] = drawing.pose_tile(crop, found, states, SIDE)
    return drawing.tile_images([*tiles.values()], [*tiles], 2)


@dataclass(frozen=True)
class PersonMaps:
    """All maps of one person, without flip test.

    crop: (S, S, 3) uint8.  maps: layer (one of LAYERS) -> (16, h, w).  joints: (16, 2) crop px and
    visibility: (16,), as labelled.  predicted: layer -> (16, 2) crop px, as decoded.
    """

    crop: np.ndarray
    maps: dict[str, np.ndarray]
    joints: np.ndarray
    visibility: np.ndarray
    predicted: dict[str, np.ndarray]

    def on(self, crop: np.ndarray) -> "PersonMaps":
        """Return the same maps on a crop of another size, cut by the same frame."""
        zoom = len(crop) / len(self.crop)
        predicted = {layer: rescale(points, zoom) for layer, points in self.predicted.items()}
        return replace(self, crop=crop, joints=rescale(self.joints, zoom), predicted=predicted)

    def top(self, layer: str) -> float:
        """Return the value at which a layer's colours end: 1 for targets, else the largest of the
        labelled joints.
        """
        if layer.endswith("target"):
            return 1.0
        return _top(_labelled(np.abs(self.maps[layer]), self.visibility))


def person_maps(
    cascade: Cascade, targets: Targets, sample: dict, decoder: str = "parabola"
) -> PersonMaps:
    """Return what the networks should see and do see of an item of PoseDataset.

    "difference" is the regressor's map less the detector's, each as a share of its network's
    highest value for this person: what context adds and takes away. It is 0 where a joint has no
    label: no network may have learned it. A cascade without a regressor has the first two layers.
    targets: of the cascade's stride.
    """
    crop, joints, visibility = _arrays(sample)
    maps, predicted = predict_crop(cascade, crop, decoder)
    batch = torch.utils.data.default_collate([sample])
    wanted = {"detector": targets.detector, "regressor": targets.regressor}
    maps |= {f"{name}'s target": wanted[name](batch)[0][0].numpy() for name in [*maps]}
    if "regressor" in maps:
        tops = {name: _top(_labelled(maps[name], visibility)) for name in ("detector", "regressor")}
        seen, told = (maps[name] / top for name, top in tops.items())
        maps["difference"] = (told - seen) * (visibility != ABSENT)[:, None, None]
        predicted["difference"] = predicted["regressor"]
    return PersonMaps(crop, maps, joints, visibility, predicted)


def map_picture(
    person: PersonMaps, layer: str, joint: int, opacity: float = 0.85, side: int = 560
) -> Image.Image:
    """Return one joint's map on the crop, with ring and cross (`drawing.mark_joint`).

    side: px.
    """
    heat = person.maps[layer][joint]
    top = person.top(layer)
    image = drawing.draw_map(person.crop, heat, top, opacity, layer == "difference")
    predicted = person.predicted[layer][joint] if layer in person.predicted else None
    place = person.joints[joint]
    visibility = person.visibility[joint]
    return Image.fromarray(drawing.mark_joint(image, side, place, visibility, predicted))


def map_sheet(person: PersonMaps, layer: str, opacity: float = 0.85) -> Image.Image:
    """Return all joints' maps of a layer on one scale, each titled with its largest value."""
    heats = dict(zip(MPII.names, person.maps[layer]))
    titles = [f"{name}: {heat.flat[np.abs(heat).argmax()]:.2f}" for name, heat in heats.items()]
    tiles = [map_picture(person, layer, joint, opacity, 216) for joint in range(len(titles))]
    return drawing.tile_images([np.asarray(tile) for tile in tiles], titles, 4)


def cover_picture(
    crop: np.ndarray,
    maps: dict[str, np.ndarray],
    predicted: dict[str, np.ndarray],
    joint: int,
    joints: np.ndarray,
    visibility: np.ndarray,
) -> Image.Image:
    """Return a crop beside one joint's map of each network (`predict_crop`).

    A map's colours end at its network's highest value for a labelled joint of this person. Ring and
    cross as in `drawing.mark_joint`; on the crop the cross is the last network's.  joints: (16, 2)
    crop px and visibility: (16,), as labelled.
    """
    *_, last = maps
    shown = f"{MPII.names[joint]}, cross: the {last}'s answer"
    images = {shown: crop} | _joint_on_crop(crop, maps, joint, visibility)
    points = [points[joint] for points in predicted.values()]
    tiles = [
        drawing.mark_joint(image, SIDE, joints[joint], visibility[joint], point)
        for image, point in zip(images.values(), [points[-1], *points])
    ]
    return drawing.tile_images(tiles, [*images], len(tiles))


def box_on_crop(box: list[float], image_size: int) -> tuple[int, ...]:
    """Return a box [x1, y1, x2, y2] on the first tile of `cover_picture` in whole crop px.

    box: px of the picture. What lies beyond the crop is cut off.
    """
    shift = np.array([0, drawing.TITLE_HEIGHT] * 2)
    edges = np.rint((np.asarray(box) - shift) / SIDE * image_size)
    return tuple(np.clip(edges, 0, image_size).astype(int).tolist())


def target_picture(
    people: People,
    row: int,
    image_size: int,
    targets: Targets,
    joint: int | None = None,
    scale: float = 1.0,
    angle: float = 0.0,
    mirrored: bool = False,
) -> Image.Image:
    """Return person `row`, augmented as in training, beside the discs and the Gaussians.

    joint: its maps only; None: the highest value of all joints' maps.  angle: degrees. The titles
    say radius and sigma in px of this crop.
    """
    frame = people.frame(row, image_size).augmented(scale, angle, mirrored)
    sample = cut(people, row, frame)
    batch = torch.utils.data.default_collate([sample])
    body = frame.body_in_crop
    crop, joints, visibility = _arrays(sample)
    rows = slice(None) if joint is None else [joint]
    maps = [draw(batch)[0][0, rows].amax(0) for draw in (targets.detector, targets.regressor)]
    titles = [
        f"body {body:.0f} px of {image_size}",
        f"disc, radius {targets.radius * body / BODY:.1f} px",
        f"Gaussian, sigma {targets.sigma * body / BODY:.1f} px",
    ]
    tiles = [drawing.resize(drawing.draw_map(crop, heat.numpy()), SIDE, SIDE) for heat in maps]
    tiles.insert(0, drawing.pose_tile(crop, joints, visibility, SIDE))
    return drawing.tile_images(tiles, titles, len(tiles))


def epoch_sheet(epochs: list[dict]) -> Image.Image:
    """Return maps of some people (`watched.read`) as they become sharp, epoch by epoch.

    A column is an epoch, nine at most, and a row a person; a pixel shows the highest of the 16
    maps. Each epoch has its own scale, whose end stands in its title.
    """
    if not epochs:
        blank = np.full((1, SIDE, 3), 255, np.uint8)
        return drawing.tile_images([blank], ["no epoch of this stage was watched"], 1)
    columns = min(9, len(epochs))
    side = min(160, 1080 // columns)
    chosen = [epochs[k] for k in np.linspace(0, len(epochs) - 1, columns).round().astype(int)]
    tops = [_top(epoch["maps"]) for epoch in chosen]
    tiles = [
        drawing.resize(drawing.draw_map(crop, epoch["maps"][row].max(0), top), side, side)
        for row, crop in enumerate(chosen[0]["crops"])
        for epoch, top in zip(chosen, tops)
    ]
    titles = [
        f"{epoch['stage']} {epoch['epoch']}, to {top:.2f}" for epoch, top in zip(chosen, tops)
    ]
    titles += [""] * (len(tiles) - columns)
    return drawing.tile_images(tiles, titles, columns, 10)


def photograph(image: np.ndarray, people: list[dict]) -> Image.Image:
    """Return an image (H, W, 3), as large as fits into 600 × 500 px, with people drawn on it.

    people: as `PoseEstimator.predict` returns them.
    """
    zoom = min(600 / image.shape[1], 500 / image.shape[0])
    width, height = (max(1, round(zoom * length)) for length in image.shape[1::-1])
    enlarged = drawing.resize(image, width, height)
    return Image.fromarray(drawing.draw_people(enlarged, people, zoom))


def _joint_on_crop(crop, maps, joint, visibility):
    """One joint's map of each network on the crop: {title with its peak: picture}."""
    pictures = {}
    for name, heats in maps.items():
        top = _top(_labelled(heats, visibility))
        title = _peak_title(name, heats, joint, visibility)
        pictures[title] = drawing.draw_map(crop, heats[joint], top)
    return pictures


def _peak_title(name, heats, joint, visibility):
    """Words above one joint's map: its peak, and the network's highest for a labelled joint."""
    return f"{name}: peak {heats[joint].max():.2f} of {_labelled(heats, visibility).max():.2f}"


def _labelled(maps, visibility):
    """The maps (J, h, w) of a person's labelled joints; all if there are none.

    No network has learned a joint that a whole data set lacks, and what it says there means
    nothing.
    """
    labelled = visibility != ABSENT
    return maps[labelled] if labelled.any() else maps


def _arrays(sample):
    """Crop, joints and their visibility of an item of PoseDataset."""
    return [sample[name].numpy() for name in ("image", "joints", "visibility")]


def _top(maps):
    """The largest value of maps, but 0.05 at least: noise should look faint."""
    return max(0.05, float(np.max(maps)))
