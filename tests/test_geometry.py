import cv2
import numpy as np
import pytest

from hpe_lib.geometry import Frame, rescale
from hpe_lib.skeleton import MPII

TURNED = [
    Frame((61.3, 48.8), 90.0, 96, 72.0, angle, mirrored)
    for angle in (0, 25, -140)
    for mirrored in (False, True)
]


def random_frames(count, image_size=256, seed=0):
    random = np.random.default_rng(seed)
    for _ in range(count):
        frame = Frame(tuple(random.uniform(50, 400, 2)), random.uniform(40, 900), image_size, 200.0)
        yield frame.augmented(
            random.uniform(0.7, 1.3), random.uniform(-40, 40), bool(random.random() < 0.5)
        )


def test_the_pixel_rule_keeps_edges_on_edges():
    assert rescale(-0.5, 7) == -0.5 and rescale(63.5, 4) == 255.5 and rescale(0.0, 4) == 1.5
    assert rescale(rescale(3.2, 4), 1 / 4) == pytest.approx(3.2)


def test_a_plain_frame_moves_and_scales_only():
    """Window (40, 30) ± 20 on a crop twice as fine: corners of pixels go to corners of the crop."""
    frame = Frame((40.0, 30.0), 40.0, 80, 30.0)
    corners = frame.to_crop(np.array([[20.0, 10.0], [60.0, 50.0], [40.0, 30.0], [41.0, 30.0]]))
    assert np.allclose(corners, [[-0.5, -0.5], [79.5, 79.5], [39.5, 39.5], [41.5, 39.5]])
    assert frame.body_in_crop == 60


def test_content_turns_counter_clockwise_and_mirror_reverses_x():
    frame = Frame((10.0, 10.0), 21.0, 21, 20.0)
    right = np.array([15.0, 10.0])
    assert np.allclose(
        frame.augmented(angle=90).to_crop(right), [10, 5]
    )  # from the right of the centre to above it
    assert np.allclose(frame.augmented(mirrored=True).to_crop(right), [20 - 15, 10])
    assert np.allclose(frame.augmented(scale=1.2).to_crop(right), [16, 10])


def test_augmented_twice_adds_up():
    frame = Frame((3.0, 4.0), 50.0, 64, 40.0).augmented(1.2, 10, True).augmented(0.5, 20, True)
    assert frame.angle == 30 and not frame.mirrored and frame.side == pytest.approx(50 / 0.6)


def test_image_to_crop_to_image_is_exact():
    random = np.random.default_rng(1)
    for frame in random_frames(50):
        points = random.uniform(0, 500, (16, 2))
        assert np.abs(frame.to_image(frame.to_crop(points)) - points).max() < 1e-9


@pytest.mark.parametrize("frame", TURNED)
def test_the_matrix_is_turn_zoom_and_mirror_about_the_centre(frame):
    turn = np.deg2rad(frame.angle)
    zoom = 96 / 90
    linear = zoom * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    linear[0] *= -1 if frame.mirrored else 1
    assert np.allclose(
        frame.matrix, np.column_stack([linear, 47.5 - linear @ [61.3, 48.8]]), rtol=0, atol=1e-12
    )


def test_small_images_are_warped_to_the_same_numbers():
    image = np.random.default_rng(5).integers(0, 256, (120, 150, 3), dtype=np.uint8)
    for frame in random_frames(20, 64):
        frame = frame if frame.side < 96 else frame.on(frame.side / 90)
        assert np.array_equal(frame.crop(image), cv2.warpAffine(image, frame.matrix, (64, 64)))


@pytest.mark.parametrize("frame", TURNED)
def test_a_frame_on_a_coarser_image_shows_the_same(frame):
    """Joints fall where they did, and so does what is painted there."""
    points = np.random.default_rng(4).uniform(20, 90, (16, 2))
    for step in (1, 2, 1.25):
        moved = frame.on(step)
        assert np.allclose(moved.to_crop(rescale(points, 1 / step)), frame.to_crop(points))
        assert (
            moved.body_in_crop == pytest.approx(frame.body_in_crop)
            and moved.image_size == frame.image_size
        )
    image = painted([(45.0, 40.0), (80.5, 44.25), (58.0, 66.0)], (100, 120))
    half = cv2.resize(image, (60, 50), interpolation=cv2.INTER_AREA)
    assert np.abs(centres(frame.on(2).crop(half)) - centres(frame.crop(image))).max() < 0.1


def test_the_mirrored_crop_is_the_flipped_crop():
    """flip ∘ flip = identity, on the image and on points: x becomes S - 1 - x, not S - x."""
    image = np.random.default_rng(2).integers(0, 256, (120, 150, 3), dtype=np.uint8)
    for frame in TURNED:
        flipped = frame.augmented(mirrored=True)
        difference = frame.crop(image)[:, ::-1].astype(int) - flipped.crop(image)
        assert np.abs(difference).mean() < 2  # the bilinear warp rounds its coordinates to 1/32 px
        points = np.random.default_rng(3).uniform(0, 100, (16, 2))
        assert np.allclose(flipped.to_crop(points), [95, 0] + frame.to_crop(points) * [-1, 1])
        assert flipped.augmented(mirrored=True) == frame


def painted(points, size):
    """An image with a soft dot of sigma 2.5 px at each point, each in a channel of its own."""
    y, x = np.mgrid[: size[0], : size[1]]
    dots = [200 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 2.5**2)) for px, py in points]
    return np.stack(dots, axis=-1).round().astype(np.uint8)


def centres(crop):
    """(3, 2) centre of mass of each channel."""
    weights = crop.astype(float) * (crop > 8)
    y, x = np.mgrid[: crop.shape[0], : crop.shape[1]]
    return np.stack(
        [(weights * axis[..., None]).sum((0, 1)) / weights.sum((0, 1)) for axis in (x, y)], axis=-1
    )


@pytest.mark.parametrize("frame", TURNED + [frame.augmented(scale=0.8) for frame in TURNED])
def test_dots_painted_at_joints_land_where_the_joints_do(frame):
    points = np.array([[45.0, 40.0], [80.5, 44.25], [58.0, 66.0]])
    assert (
        np.abs(centres(frame.crop(painted(points, (100, 120)))) - frame.to_crop(points)).max()
        < 0.06
    )


@pytest.mark.parametrize("shrink", [2, 3, 5])
@pytest.mark.parametrize("mirrored", [False, True])
def test_dots_land_right_also_where_the_image_is_shrunk_first(shrink, mirrored):
    """A photograph far larger than the crop, with a side that `shrink` does not divide."""
    frame = Frame((310.0, 240.0), 64 * 1.5 * shrink + 1, 64, 100.0, 20.0, mirrored)
    points = (
        310
        + (np.array([[100.0, 90.0], [200.0, 97.0], [120.0, 190.0]]) - 150) * frame.side / 500
        - [0, 70]
    )
    image = painted((points + 0.5) / shrink - 0.5, (512 // shrink, 640 // shrink))
    image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_NEAREST)
    image = np.pad(image, ((0, shrink - 1), (0, shrink - 1), (0, 0)))
    assert np.abs(centres(frame.crop(image)) - frame.to_crop(points)).max() < 0.06


def test_shrinking_first_averages_instead_of_skipping_pixels():
    """One white pixel in each 4×4 block is grey 255/16 after a fourfold reduction.

    Without averaging it is 0 or 255.
    """
    image = np.zeros((400, 400, 3), np.uint8)
    image[::4, ::4] = 255
    crop = Frame((199.5, 199.5), 400.0, 64, 300.0).crop(image)
    assert abs(crop[8:-8, 8:-8].mean() - 255 / 16) < 1 and crop[8:-8, 8:-8].max() < 40


def test_outside_the_image_is_black_and_images_smaller_than_the_shrink_do_not_crash():
    crop = Frame((0.0, 0.0), 20.0, 20, 10.0).crop(np.full((30, 30, 3), 200, np.uint8))
    assert (crop[:9, :9] == 0).all() and (crop[11:, 11:] == 200).all()
    assert Frame((0.0, 0.0), 900.0, 16, 10.0).crop(np.full((3, 3, 3), 200, np.uint8)).shape == (
        16,
        16,
        3,
    )


def test_mpii_s_frame_holds_a_body_of_204_8_px():
    """F1: side 1.25 · 200 · scale, body 200 · scale at 256 px, disc radius body / 20."""
    frame = Frame((0.0, 0.0), 1.25 * 200 * 3.7, 256, 200 * 3.7)
    assert frame.body_in_crop == pytest.approx(204.8) == frame.augmented(angle=30).body_in_crop
    assert frame.augmented(scale=1.3).body_in_crop == pytest.approx(1.3 * 204.8)


def test_points_keep_their_rows_in_a_mirrored_frame():
    points = np.arange(32.0).reshape(16, 2)
    mirrored = Frame((8.0, 8.0), 32.0, 32, 20.0, mirrored=True).to_crop(points)
    assert (
        mirrored.shape == (16, 2) and (np.diff(mirrored[:, 0]) < 0).all() and len(MPII.names) == 16
    )
