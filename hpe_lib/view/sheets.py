"""Sheets of people for the notebooks: many tiles in one picture, made by `drawing`.

Crops are (S, S, 3) uint8, and points are (x, y) in crop px: (0, 0) is the centre of the crop's
first pixel.
"""

from dataclasses import replace

import numpy as np
from PIL import Image, ImageColor

from hpe_lib import probes
from hpe_lib.data.augment import joints_in_crop
from hpe_lib.data.people import People
from hpe_lib.geometry import Frame, rescale
from hpe_lib.skeleton import MPII, OCCLUDED, VISIBLE
from hpe_lib.view import drawing
from hpe_lib.view.drawing import BLACK, PURPLE, SKY, YELLOW
from hpe_lib.view.pictures import CROP, SIDE


def contact_sheet(
    crops: np.ndarray,
    joints: np.ndarray,
    visibility: np.ndarray,
    titles: list | None = None,
    columns: int = 6,
    occlusion_labels: bool = True,
    truth: np.ndarray | None = None,
    maps: np.ndarray | None = None,
) -> Image.Image:
    """Return people: crops (N, S, S, 3), joints (N, 16, 2) crop px, visibility (N, 16).

    occlusion_labels: whether the data set says which joints are occluded.  truth: (N, 16, 2) crop
    px, drawn as black limbs.  maps: (N, 16, h, w); a pixel shows the highest, and joints are drawn
    small and without limbs.
    """
    crops, joints, visibility = (np.asarray(part) for part in (crops, joints, visibility))
    columns = min(columns, len(crops))
    tiles = []
    side = 1080 // columns
    for row, crop in enumerate(crops):
        image = crop if maps is None else drawing.draw_map(crop, np.asarray(maps[row]).max(0))
        answer = None if truth is None else truth[row]
        tiles.append(
            drawing.pose_tile(image, joints[row], visibility[row], side, maps is None, answer)
        )
    note = "Hollow, thin: occluded." if maps is None else "Hollow: occluded."
    if not occlusion_labels:
        note = "This data set does not say which joints are occluded."
    titles = [str(title) for title in titles or [""] * len(tiles)]
    return drawing.tile_images(tiles, titles, columns, caption=drawing.LEGEND + note)


def frame_sheet(people: People, row: int, frames: dict[str, Frame]) -> Image.Image:
    """Return person `row` in the image with each frame's window, then the crop of each frame."""
    image = people.images[row]
    around = people.frame(row, SIDE).augmented(scale=0.7)
    tiles = [people.images.crop(row, around)]
    titles = [f"image of {image.shape[1]} by {image.shape[0]} px"]
    for (name, frame), colour in zip(frames.items(), (YELLOW, SKY, PURPLE)):
        square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
        window = around.to_crop(frame.to_image(frame.image_size * square - 0.5))
        drawing.draw_polygon(tiles[0], window, BLACK, 4)
        drawing.draw_polygon(tiles[0], window, colour, 2)
        sharp = replace(frame, image_size=SIDE)
        pose = joints_in_crop(sharp, people.joints[row], people.visibility[row])
        tiles.append(drawing.pose_tile(people.images.crop(row, sharp), *pose, SIDE))
        drawing.draw_polygon(tiles[-1], SIDE * square - 0.5, colour, 6)
        titles.append(f"{name}: body {frame.body_in_crop:.0f} px of {frame.image_size}")
    return drawing.tile_images(tiles, titles, len(tiles))


def pose_cloud(joints: np.ndarray, mean: np.ndarray, image_size: int) -> Image.Image:
    """Return joints (N, 16, 2) crop px as a cloud for each joint, with the mean pose (16, 2).

    The ellipse around a joint's mean is one standard deviation of its cloud in each direction.
    """
    image = np.full((image_size, image_size, 3), 255.0)
    side = 500
    states = np.full(len(mean), VISIBLE)
    for joint, places in enumerate(np.moveaxis(joints, 1, 0)):
        x, y = places[np.isfinite(places).all(1)].T
        count, *_ = np.histogram2d(y, x, image_size, [(-0.5, image_size - 0.5)] * 2)
        colour = ImageColor.getrgb(drawing.SIDE_COLOURS[drawing.side_of(joint)])
        image = colour + (image - colour) * np.maximum(0.85 ** count[..., None], 0.5)
    tile = drawing.resize(image.astype(np.uint8), side, side)
    for joint, places in enumerate(np.moveaxis(joints, 1, 0)):
        there = places[np.isfinite(places).all(1)]
        if len(there) > 2:
            outline = rescale(_deviation_ellipse(there), side / image_size)
            drawing.draw_polygon(tile, outline, drawing.SIDE_COLOURS[drawing.side_of(joint)], 1)
    return Image.fromarray(drawing.pose_tile(tile, rescale(mean, side / image_size), states, side))


def _deviation_ellipse(points):
    """Corners (40, 2) of the ellipse one standard deviation around the mean of points (N, 2)."""
    lengths, axes = np.linalg.eigh(np.cov(points.T))
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.column_stack([np.cos(angles), np.sin(angles)])
    return points.mean(0) + circle * np.sqrt(lengths.clip(0)) @ axes.T


def best_and_worst(predicted: np.ndarray, people: People) -> Image.Image:
    """Return the four people found best, then four failures: predictions on the truth in black.

    predicted: (N, 16, 2) image px.
    """
    count = 4
    order, error = probes.ranked(predicted, people)
    ends = np.concatenate([order[:count], order[count:][-count:]])
    titles = [f"found best, error {error[row]:.2f}" for row in order[:count]]
    titles += [f"failure, error {error[row]:.2f}" for row in ends[count:]]
    chosen = people[ends]
    found = replace(chosen, joints=predicted[ends]).joints_in_crops(CROP)
    truth = chosen.joints_in_crops(CROP)
    labels = people.occlusion_labels
    crops = chosen.crops(CROP)
    return contact_sheet(crops, found, chosen.visibility, titles, count, labels, truth)


def channel_sheet(channels: np.ndarray, visibility: np.ndarray) -> Image.Image:
    """Return the regressor's input (19, S, S): 16 maps on one scale from 0, then R, G, B.

    visibility: (16,), to name the joints that are occluded.
    """
    names = [*MPII.names, "red", "green", "blue"]
    top = channels[: len(MPII.names)].max()
    tiles = []
    titles = []
    for name, channel in zip(names, channels):
        low, high = (0, top) if name in MPII.names else (channel.min(), channel.max())
        grey = np.clip(255 * (channel - low) / max(high - low, 1e-9), 0, 255).astype(np.uint8)
        tiles.append(drawing.resize(np.dstack([grey] * 3), 144, 144))
        hidden = len(titles) < len(visibility) and visibility[len(titles)] == OCCLUDED
        state = ", occluded" if hidden else ""
        titles.append(f"{name}{state}\n{channel.min():.2f} to {channel.max():.2f}")
    return drawing.tile_images(tiles, titles, 7, 10)
