"""Crops and their joints, augmentation, and what the decoder makes of the truth (F13, trap T16)."""

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hpe_lib import heatmaps
from hpe_lib.data.augment import (
    Augmentation,
    PoseDataset,
    jitter_colour,
    joints_in_crop,
    round_to_step,
)
from hpe_lib.data.datasets import load_people
from hpe_lib.data.images import ImageArrays
from hpe_lib.data.people import People
from hpe_lib.geometry import Frame
from hpe_lib.skeleton import ABSENT, MPII, OCCLUDED, VISIBLE
from hpe_lib.targets import Targets
from hpe_lib.workbook import presets
from hpe_lib.workbook.artifacts import BadInput


def test_the_smallest_scale_is_not_above_the_largest():
    with pytest.raises(BadInput, match="scale_low: found 2, expected at most scale_high, 1.3"):
        Augmentation(scale_low=2)


# ---- what the decoder makes of the truth (DESIGN F13, users' trap T16)


def closed_loop(people, image_size, stride, decoder="parabola", times=1):
    """(errors (M, 2) image px, normaliser (M,)) of image -> crop -> Gaussians -> image.

    Of joints inside the crop.
    """
    random = np.random.default_rng(0)
    errors = []
    units = []
    for row in np.repeat(np.arange(len(people)), times):
        frame = Augmentation(40, 0.7, 1.3, True)(people.frame(row, image_size), random)
        joints, visibility = joints_in_crop(frame, people.joints[row], people.visibility[row])
        sigma = torch.tensor([frame.body_in_crop / 40 / stride])
        maps = heatmaps.gaussians(
            heatmaps.to_map(torch.from_numpy(joints)[None], stride),
            torch.from_numpy(visibility != ABSENT)[None],
            image_size // stride,
            sigma.float(),
        )
        points = frame.to_image(
            heatmaps.from_map(heatmaps.decode(maps, decoder)[0], stride)[0].numpy()
        )
        order = MPII.mirror if frame.mirrored else slice(None)
        inside = visibility != ABSENT
        errors.append((points - people.joints[row][order])[inside])
        units.append(np.full(inside.sum(), people.box[row] / 5))
    return np.concatenate(errors), np.concatenate(units)


def check_closed_loop(errors, units):
    """Zero mean and less than a hundredth of a pixel, hence 100 at any threshold.

    Argmax on the same maps is the control.
    """
    assert (
        len(errors) > 1000 and np.abs(errors).max() < 0.01 and np.abs(errors.mean(0)).max() < 0.0005
    )
    distance = np.linalg.norm(errors, axis=1)
    assert (distance <= 0.5 * units).all() and (distance <= 0.1 * units).mean() >= 0.99


@pytest.mark.parametrize("stride", [1, 4])
def test_true_gaussians_decode_to_the_truth_on_real_people(lspet, stride):
    count = 80 if stride == 1 else 200
    check_closed_loop(*closed_loop(lspet[:: len(lspet) // count], 256, stride))


def test_true_gaussians_decode_to_the_truth_on_drawn_people(drawn):
    check_closed_loop(*closed_loop(drawn, 256, 4, times=4))


def test_argmax_s_error_is_that_of_its_grid(drawn):
    """The control of the tests above: half a cell at most, and zero in the mean."""
    errors, _ = closed_loop(drawn, 256, 4, "argmax", times=4)
    zoom = drawn.side[0] / 256
    assert 0.3 * zoom < np.abs(errors).mean() and np.abs(errors).max() < 4 * zoom / 0.7
    assert np.abs(errors.mean(0)).max() < 0.15


# ---- items: image and joints by one matrix


def test_dots_painted_at_joints_move_with_them():
    """In an augmented item, the pixel at each joint has the colour of that joint's dot."""
    random = np.random.default_rng(4)
    joints = np.full((16, 2), np.nan)
    image = np.zeros((400, 400, 3), np.uint8)
    colours = np.array(
        [
            [(row % 3) * 100 + 50, (row // 3 % 3) * 100 + 50, (row // 9) * 100 + 50]
            for row in range(16)
        ]
    )
    for row in range(16):
        joints[row] = 110 + 60 * np.array([row % 4, row // 4]) + random.uniform(-8, 8, 2)
        cv2.circle(
            image,
            [int(v) for v in np.round(joints[row] * 16)],
            12 * 16,
            colours[row].tolist(),
            -1,
            shift=4,
        )
    people = made([image], joints[None])
    seen = 0
    for epoch in range(12):
        item = PoseDataset(people, 200, Augmentation(), seed=1)[0, epoch]
        mirrored = Augmentation()(
            people.frame(0, 200), np.random.default_rng((1, epoch, 0))
        ).mirrored
        for row in np.flatnonzero(item["visibility"]):
            x, y = np.clip(item["joints"][row].round().int().tolist(), 1, 198)
            painted = MPII.mirror[row] if mirrored else row
            assert np.abs(item["image"][y, x].numpy().astype(int) - colours[painted]).max() <= 2
            seen += 1
    assert seen > 100


def made(images, joints, visibility=None, side=300.0):
    """People from arrays: frames about (200, 200)."""
    count = len(joints)
    visibility = (
        np.where(np.isnan(joints[..., 0]), ABSENT, VISIBLE) if visibility is None else visibility
    )
    return People(
        dataset="made",
        keys=np.arange(count).astype(str),
        joints=joints,
        visibility=visibility.astype(np.int8),
        normaliser=np.full(count, 30.0),
        metric="PCKh@0.5",
        occlusion_labels=True,
        images=ImageArrays(np.stack(images), "made"),
        center=np.full((count, 2), 200.0),
        side=np.full(count, side),
        body=np.full(count, 240.0),
    )


def test_joints_outside_the_crop_are_absent_and_get_neither_target_nor_gradient():
    joints = np.full((1, 16, 2), 200.0)
    joints[0, 0] = (20, 200)
    joints[0, 1] = (200, 351)
    joints[0, 2] = np.nan
    people = made(
        [np.zeros((400, 400, 3), np.uint8)],
        joints,
        np.where(np.isnan(joints[..., 0]), ABSENT, VISIBLE),
    )
    item = PoseDataset(people, 64)[0]
    assert (
        item["visibility"].tolist() == [ABSENT] * 3 + [VISIBLE] * 13
        and (item["joints"][:3] == 0).all()
    )
    batch = torch.utils.data.default_collate([item])
    for targets in (Targets(4).detector, Targets(4).regressor):
        maps, counts = targets(batch)
        assert counts[0].tolist() == [False] * 3 + [True] * 13
        assert maps[0, :3].sum() == 0 and (maps[0, 3:].amax((1, 2)) > 0).all()


def test_the_crop_ends_at_the_edges_of_its_outer_pixels():
    frame = Frame((31.5, 31.5), 64.0, 64, 50.0)
    joints = np.full((16, 2), 30.0)
    joints[:4] = (-0.5, 5), (-0.51, 5), (63.49, 5), (5, 63.5)
    _, visibility = joints_in_crop(frame, joints, np.full(16, OCCLUDED))
    assert visibility.tolist() == [OCCLUDED, ABSENT, OCCLUDED, ABSENT] + [OCCLUDED] * 12


def test_head_tops_above_the_image_are_joints():
    """Trap T8: y = -14 is a coordinate, not a mark of absence."""
    joints = np.full((1, 16, 2), 200.0)
    joints[0, 9] = 200, -14
    people = made([np.zeros((400, 400, 3), np.uint8)], joints, side=500.0)
    assert PoseDataset(people, 64)[0]["visibility"][9] == VISIBLE


def test_left_is_right_in_a_mirrored_crop():
    joints = np.random.default_rng(0).uniform(100, 300, (16, 2))
    plain = Frame((200.0, 200.0), 300.0, 64, 200.0)
    visibility = np.full(16, VISIBLE)
    visibility[MPII.index("left_wrist")] = OCCLUDED
    points, seen = joints_in_crop(plain.augmented(mirrored=True), joints, visibility)
    assert seen[MPII.index("right_wrist")] == OCCLUDED and (seen == OCCLUDED).sum() == 1
    expected = plain.to_crop(joints[MPII.index("left_wrist")]) * [-1, 1] + [63, 0]
    assert np.allclose(points[MPII.index("right_wrist")], expected, atol=1e-4)


# ---- augmentation


def items(people, epoch=0, seed=0, workers=0):
    data = PoseDataset(people, 64, Augmentation(), seed)
    rows = [(row, epoch) for row in range(len(people))]
    return list(DataLoader(data, 8, sampler=rows, num_workers=workers))


def same(some, other):
    return all(torch.equal(a[key], b[key]) for a, b in zip(some, other, strict=True) for key in a)


def test_augmentation_is_decided_by_seed_epoch_and_row(drawn):
    first = items(drawn)
    assert same(first, items(drawn)) and same(items(drawn, 3, 5), items(drawn, 3, 5))
    assert not same(first, items(drawn, epoch=1)) and not same(first, items(drawn, seed=1))
    plain = [PoseDataset(drawn, 64)[row]["body"] for row in range(8)]
    scales = (
        first[0]["body"].numpy() / plain
    )  # of eight people, each with a random stream of its own
    assert len(set(scales.round(4).tolist())) == 8


def test_workers_do_not_change_what_is_drawn(drawn):
    """Trap T35: all workers draw the same numbers, or each number of workers draws others."""
    assert same(items(drawn, 1), items(drawn, 1, workers=2))


def test_augmentation_spans_its_ranges():
    frame = Frame((0.0, 0.0), 100.0, 64, 50.0)
    random = np.random.default_rng(0)
    many = [Augmentation(40, 0.7, 1.3, True)(frame, random) for _ in range(2000)]
    angles = [f.angle for f in many]
    scales = [f.body_in_crop / frame.body_in_crop for f in many]
    assert -40 <= min(angles) < -39 and 39 < max(angles) <= 40 and abs(np.mean(angles)) < 2
    assert 0.6999 <= min(scales) < 0.71 and 1.29 < max(scales) <= 1.3001
    assert 0.45 < np.mean([f.mirrored for f in many]) < 0.55
    assert not any(Augmentation(flip=False)(frame, random).mirrored for _ in range(50))


def test_without_augmentation_the_item_is_the_person_s_frame(drawn):
    item = PoseDataset(drawn, 128)[3]
    assert torch.equal(item["image"], torch.from_numpy(drawn.crops(128)[3])) and item["row"] == 3
    there = item["visibility"] != ABSENT
    assert np.allclose(item["joints"][there], drawn.joints[3][there], atol=1e-3)


@pytest.mark.parametrize(
    "value, middle, step, wanted",
    [
        (14.9, 0, 10, 10),
        (-15.1, 0, 10, -20),
        (4.9, 0, 10, 0),
        (0.76, 1, 0.1, 0.8),
        (1.24, 1, 0.1, 1.2),
        (1.3, 1, 0.25, 1.25),
        (17.3, 0, 0, 17.3),
        (-0.3, 1, 0, -0.3),
    ],
)
def test_values_in_steps(value, middle, step, wanted):
    assert round_to_step(value, middle, step) == pytest.approx(wanted)


@pytest.mark.parametrize(
    "steps, said",
    [
        (
            {"rotation_step": 15},
            "rotation_step: found 15, expected a step that rounds nothing beyond rotation 40",
        ),
        ({"scale_step": 0.4}, "scale_step: found 0.4, .* beyond scale_low 0.7 and scale_high 1.3"),
        ({"scale_step": 0.1, "scale_high": 1.26}, "and scale_high 1.26, from 1"),
    ],
)
def test_steps_that_leave_the_range_are_refused(steps, said):
    with pytest.raises(BadInput, match=said):
        Augmentation(**steps)
    with pytest.raises(BadInput, match=said):
        wide = {"rotation": 40, "scale_low": 0.7, "scale_high": 1.3} | steps
        presets.resolve("synthetic", [f"03.{name}={value}" for name, value in wide.items()])
    Augmentation(rotation_step=13, scale_step=0.25)


def test_augmentation_in_predefined_steps():
    """§3.1: every angle and size that the steps allow is drawn, and no other.

    The draws are the same as without steps.
    """
    frame = Frame((50, 50), 100, 64, 80)
    steps, any_ = (Augmentation(40, 0.7, 1.3, True, *given) for given in ((10, 0.1), ()))
    stepped, free = (
        [one(frame, np.random.default_rng(seed)) for seed in range(400)] for one in (steps, any_)
    )
    assert {round(one.angle, 6) for one in stepped} == {10 * n for n in range(-4, 5)}
    assert {round(one.side, 6) for one in stepped} == {round(1000 / n, 6) for n in range(7, 14)}
    assert len({one.angle for one in free}) == 400 == len({one.side for one in free})
    assert max(abs(one.angle - other.angle) for one, other in zip(stepped, free)) <= 5
    assert [one.mirrored for one in stepped] == [one.mirrored for one in free]


def test_colours_are_decided_by_seed_epoch_and_row():
    people = load_people("synthetic", people="1-2", image_size=32)
    augmentation = Augmentation(rotation=0, scale_low=1, scale_high=1, flip=False, colour=0.4)
    items = PoseDataset(people, 32, augmentation, seed=1), PoseDataset(people, 32, augmentation, 2)
    one, again, other_epoch = (items[0][0, epoch]["image"] for epoch in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other_epoch)
    assert not torch.equal(one, items[1][0, 1]["image"])


def test_each_channel_has_a_factor_of_its_own():
    grey = np.full((2, 2, 3), 100, np.uint8)
    found = [jitter_colour(grey, 0.4, np.random.default_rng(seed))[0, 0] for seed in range(50)]
    assert all(len(set(pixel.tolist())) > 1 for pixel in found)
    assert 60 <= np.min(found) < 65 and 135 < np.max(found) <= 140
