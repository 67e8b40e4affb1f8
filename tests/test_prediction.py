import threading
import time

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from hpe_lib import heatmaps, prediction
from hpe_lib.cascade import Maps
from hpe_lib.data.augment import PoseDataset, limit_opencv_threads
from hpe_lib.data.datasets import load_people
from hpe_lib.skeleton import ABSENT, MPII

STRIDE = 2


class Stub(nn.Module):
    """A cascade that answers what it is told to: answer(images (B, S, S, 3) uint8) -> Maps."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.map_stride = STRIDE
        self.first = "detection"
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, images):
        return self.answer(images)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return load_people("synthetic", "", "1-5", 64, cache=tmp_path_factory.mktemp("cache"))


def truth_maps(people, image_size):
    """(Gaussians (N, 16, h, w), present (N, 16)) of everybody's true joints."""
    items = [PoseDataset(people, image_size)[row] for row in range(len(people))]
    joints = torch.stack([item["joints"] for item in items])
    present = torch.stack([item["visibility"] for item in items]) != ABSENT
    points = heatmaps.to_map(joints, STRIDE)
    return heatmaps.gaussians(
        points, present, image_size // STRIDE, torch.full((len(people),), 1.2)
    ), present


def asymmetric(images):
    """A network that sees: colour means of blocks, another mixture for each joint."""
    grey = images.permute(0, 3, 1, 2).float() / 255
    blocks = nn.functional.avg_pool2d(grey, STRIDE)
    mixture = torch.linspace(-1, 1, 48).view(16, 3, 1, 1)
    return Maps(
        nn.functional.conv2d(blocks, mixture),
        nn.functional.conv2d(blocks.square(), mixture.flip(0)),
    )


def symmetric(images):
    """The same, made to commute with mirroring."""
    plain = asymmetric(images)
    flipped = asymmetric(images.flip(2))
    return Maps(
        *((one + heatmaps.mirror(other)) / 2 for one, other in zip(plain, flipped, strict=True))
    )


def crops(count=3):
    return torch.randint(
        0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_the_next_batch_is_made_while_one_is_used():
    """In order, one ahead and no further, in another thread; and what fails there fails here."""
    made = []
    threads = set()

    def source():
        for number in range(4):
            threads.add(threading.get_ident())
            made.append(number)
            yield number

    for number in prediction.prefetch(source()):
        deadline = time.monotonic() + 5
        while len(made) < min(number + 2, 4) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert made == list(range(min(number + 2, 4)))
    assert threading.get_ident() not in threads and list(prediction.prefetch([])) == []
    with pytest.raises(ZeroDivisionError):
        list(prediction.prefetch(1 / number for number in (2, 1, 0)))


def test_a_batch_that_does_not_fit_is_halved(people):
    seen = []

    def answer(images):
        seen.append(len(images))
        if len(images) > most:
            raise torch.OutOfMemoryError
        return symmetric(images)

    most = 64
    whole = prediction.predict(Stub(answer), people, 64, flip_test=False)
    most = 2
    halved = prediction.predict(Stub(answer), people, 64, flip_test=False)
    assert seen == [5, 5, 3, 2, 1, 2]
    for one, other in zip(vars(whole).values(), vars(halved).values()):
        assert np.allclose(one, other)
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        prediction.predict(Stub(answer), people, 64)


def test_workers_cut_the_same_crops_with_one_thread_each(people):
    alone, helped = (
        prediction.predict(Stub(symmetric), people, 64, workers=workers) for workers in (0, 2)
    )
    assert all(
        (one == other).all() for one, other in zip(*(vars(p).values() for p in (alone, helped)))
    )

    class Threads(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, row):
            return cv2.getNumThreads()

    loader = torch.utils.data.DataLoader(
        Threads(), num_workers=1, worker_init_fn=limit_opencv_threads
    )
    assert [int(count) for count in loader] == [1]


def test_flip_test_changes_nothing_for_a_symmetric_network():
    plain, flipped = (
        prediction.forward(Stub(symmetric), crops(), flip_test=test) for test in (False, True)
    )
    for one, other in zip(plain, flipped, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert not torch.allclose(
        *(prediction.forward(Stub(asymmetric), crops(), test).detector for test in (False, True))
    )


def test_flip_test_is_the_mean_with_the_mirrored_maps_of_the_mirrored_crop():
    images = crops()
    expected = (
        asymmetric(images).regressor + heatmaps.mirror(asymmetric(images.flip(2)).regressor)
    ) / 2
    assert torch.allclose(
        prediction.forward(Stub(asymmetric), images).regressor, expected, atol=1e-6
    )


def test_flip_test_makes_any_network_answer_mirrored_crops_alike():
    images = crops()
    plain, flipped = (
        prediction.forward(Stub(asymmetric), some) for some in (images, images.flip(2))
    )
    for one, other in zip(plain, flipped, strict=True):
        assert torch.allclose(heatmaps.mirror(one), other, atol=1e-6)


def test_flip_test_without_a_regressor():
    found = prediction.forward(
        Stub(lambda images: Maps(asymmetric(images).detector, None)), crops()
    )
    assert found.regressor is None and found.detector.shape == (3, 16, 16, 16)


@pytest.mark.parametrize("image_size", [64, 96])
def test_true_maps_become_true_joints_in_image_px(people, image_size):
    """Through batches, decoder, map px, crop px and image px.

    image_size 96 magnifies, so no two of these coincide.
    """
    maps, present = truth_maps(people, image_size)
    start = iter(range(0, 5, 2))

    def answer(images):
        part = maps[(row := next(start)) : row + len(images)]
        return Maps(torch.zeros_like(part), part)

    found = prediction.predict(Stub(answer), people, image_size, batch_size=2, flip_test=False)
    inside = present.numpy()
    assert found.joints.shape == (5, 16, 2) and inside.sum() > 60
    assert np.abs(found.joints - people.joints)[inside].max() < 0.01
    assert found.confidence[inside].min() > 0.7 and (found.detector_peak == 0.5).all()


def test_without_a_regressor_the_detector_answers(people):
    maps, present = truth_maps(people, 64)
    logits = 12 * maps - 6
    found = prediction.predict(Stub(lambda images: Maps(logits, None)), people, 64, flip_test=False)
    inside = present.numpy()
    assert (found.joints == found.detector_joints).all() and np.abs(found.joints - people.joints)[
        inside
    ].max() < 1
    assert np.allclose(found.detector_peak, torch.sigmoid(logits.amax((2, 3))))
    assert (found.confidence == found.detector_peak).all()


def test_detector_is_read_from_logits_and_from_its_discs(people):
    """Saturated: probabilities tie at 1.0 over the disc, logits do not (F13)."""
    maps, present = truth_maps(people, 64)
    logits = 400 * maps - 100
    assert (torch.sigmoid(logits) == 1).sum((2, 3))[present].float().mean() > 3
    found = prediction.predict(Stub(lambda images: Maps(logits, maps)), people, 64, flip_test=False)
    inside = present.numpy()
    assert np.abs(found.detector_joints - people.joints)[inside].mean() < 0.3
    assert np.abs(found.detector_centroids - people.joints)[inside].mean() < 0.6


def test_decoder_is_passed_on(people):
    maps, present = truth_maps(people, 64)
    stub = Stub(lambda images: Maps(maps, maps))
    found = {
        name: prediction.predict(stub, people, 64, flip_test=False, decoder=name).joints
        for name in ("argmax", "parabola")
    }
    error = {
        name: np.abs(joints - people.joints)[present.numpy()].mean()
        for name, joints in found.items()
    }
    assert error["parabola"] < 0.01 < 0.3 < error["argmax"]


def test_predicting_leaves_eval_mode_and_does_not_mix_people(people):
    stub = Stub(symmetric).train()
    everybody = prediction.predict(stub, people, 64)
    alone = prediction.predict(stub, people[3:4], 64)
    assert not stub.training and np.allclose(everybody.joints[3], alone.joints[0], atol=1e-3)
    assert len(MPII.names) == 16


def test_maps_for_pictures(people):
    maps, _ = prediction.predict_crop(Stub(symmetric), people.crops(64)[0])
    probability = maps["detector"]
    regressed = maps["regressor"]
    assert probability.shape == regressed.shape == (16, 32, 32)
    assert 0 < probability.min() < probability.max() < 1


def test_logits_are_read_as_the_logarithms_they_are():
    """A parabola through 2, 5, 4 has its vertex a quarter cell on.

    One through their logarithms has it elsewhere.
    """
    logits = torch.full((1, 16, 8, 8), -9.0)
    logits[:, :, 3, 2:5] = torch.tensor([2.0, 5.0, 4.0])
    joints, _, _, centroids, _ = prediction.decode(Maps(logits, None), 1, "parabola")
    assert not np.array_equal(joints, centroids)
    of_mass, _, _, centroids, _ = prediction.decode(Maps(logits, None), 1, "centroid")
    assert np.array_equal(of_mass, centroids), "of the confidences: logits have no centre of mass"
    _, _, from_logits, *_ = prediction.decode(Maps(logits, None), 1, "centroid")
    assert np.array_equal(from_logits, joints), "still the peak of the logits"
    assert joints[0, 0, 0] == pytest.approx(3.25, abs=1e-4)


# ---- a patch on a crop


def patch(point, side, size=8):
    """Columns and rows that `cover` changes of a black crop with one white pixel row below."""
    crops = np.zeros((1, size + 1, size, 3), np.uint8)
    crops[0, -1] = 255
    changed = (prediction.cover(crops, np.array([point], float), np.array([side])) != crops).any(
        -1
    )[0]
    rows, columns = np.nonzero(changed[:size])
    assert changed.sum() == len(set(rows)) * len(set(columns)) + changed[size:].sum()  # a rectangle
    return sorted(set(columns.tolist())), sorted(set(rows.tolist()))


@pytest.mark.parametrize(
    "point, side, columns, rows",
    [
        ((3, 4), 1, [3], [4]),
        ((3, 4), 3, [2, 3, 4], [3, 4, 5]),
        ((1, 6), 3, [0, 1, 2], [5, 6, 7]),  # x is the column
        ((3.5, 4.5), 2, [3, 4], [4, 5]),
        ((3.4, 4.4), 3, [2, 3, 4], [3, 4, 5]),  # (0, 0) is the first pixel's centre
        ((0, 0), 3, [0, 1], [0, 1]),
        ((7, 3), 3, [6, 7], [2, 3, 4]),
        ((-0.5, 3), 2, [0], [2, 3]),
        ((-4, 3), 3, [], []),
        ((3, -9), 3, [], []),
        ((20, 3), 3, [], []),
        ((3, 4), 0, [], []),
    ],
)
def test_a_patch_covers_exactly_its_square(point, side, columns, rows):
    found = patch(point, side)
    if point[1] == 3 and side == 2:  # between two rows either is right
        assert found[0] == columns and len(found[1]) == 2
    else:
        assert found == (columns, rows)


def test_a_patch_has_its_own_crop_s_mean_colour_and_leaves_the_crop_as_it_was():
    given = crops(3).numpy()
    before = given.copy()
    covered = prediction.cover(
        given, np.array([[3.0, 4.0], [30.0, 1.0], [10.0, 20.0]]), np.array([3.0, 5.0, 99.0])
    )
    assert (given == before).all() and covered.dtype == np.uint8 and covered.shape == given.shape
    for plain, one in zip(given, covered):
        changed = (one != plain).any(-1)
        assert np.abs(one[changed] - plain.mean((0, 1))).max() <= 1
    assert [int((one != plain).any(-1).sum()) for one, plain in zip(covered[:2], given)] == [
        9,
        4 * 4,
    ]
    assert (covered[2] == covered[2, 0, 0]).all()
