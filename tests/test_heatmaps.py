import numpy as np
import pytest
import torch
from torch import tensor

from hpe_lib import heatmaps
from hpe_lib.skeleton import MPII


def one(function, x, y, width, size=5):
    """The (size, size) map of one joint."""
    return function(tensor([[[x, y]]]), tensor([[True]]), size, tensor([width]))[0, 0]


def blob(*points, sigma=1.5, size=16):
    """(1, J, size, size) Gaussians."""
    points = torch.from_numpy(np.array([points], np.float32))
    return heatmaps.gaussians(
        points, torch.ones(points.shape[:2], dtype=torch.bool), size, tensor([sigma])
    )


def test_disc_golden():
    assert one(heatmaps.discs, 1.0, 2.0, 1.0).int().tolist() == [
        [0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    assert one(heatmaps.discs, 3.5, 2.0, 1.2).int().tolist() == [
        [0, 0, 0, 0, 0],
        [0, 0, 0, 1, 1],
        [0, 0, 0, 1, 1],
        [0, 0, 0, 1, 1],
        [0, 0, 0, 0, 0],
    ]


def test_a_small_disc_never_falls_between_the_cells():
    points = torch.rand(1, 500, 2, generator=torch.Generator().manual_seed(0)) * 16 - 0.5
    maps = heatmaps.discs(points, torch.ones(1, 500, dtype=torch.bool), 16, tensor([0.2]))
    assert (maps.amax((2, 3)) == 1).all() and maps.sum((2, 3)).max() <= 4


def test_gaussian_golden():
    """exp(-d² / 2) about (3, 1): x runs along the last axis."""
    a, b, c, d, e = (float(np.exp(-n / 2)) for n in (1, 2, 4, 5, 8))
    f, g, h = (float(np.exp(-n / 2)) for n in (9, 10, 13))
    expected = [
        [g, d, b, a, b],
        [f, c, a, 1, a],
        [g, d, b, a, b],
        [h, e, d, c, d],
        [np.exp(-9), h, g, f, g],
    ]
    assert np.allclose(one(heatmaps.gaussians, 3.0, 1.0, 1.0), expected, atol=1e-7)


def test_peak_on_the_grid_is_exactly_one():
    assert one(heatmaps.gaussians, 3.0, 1.0, 0.7)[1, 3] == 1.0
    assert one(heatmaps.gaussians, 3.25, 1.0, 0.7).max() < 1.0


def test_radius_and_sigma_are_each_person_s_own():
    points = torch.full((2, 1, 2), 8.0)
    present = torch.ones(2, 1, dtype=torch.bool)
    assert heatmaps.discs(points, present, 17, tensor([1.0, 2.0])).sum((1, 2, 3)).tolist() == [
        5,
        13,
    ]
    assert heatmaps.gaussians(points, present, 17, tensor([1.0, 2.0]))[
        :, 0, 8, 9
    ].tolist() == pytest.approx([np.exp(-1 / 2), np.exp(-1 / 8)])


def test_targets_are_their_definitions_at_every_cell():
    random = torch.Generator().manual_seed(3)
    points = 80 * torch.rand(4, 16, 2, generator=random) - 8
    present = torch.rand(4, 16, generator=random) < 0.8
    extent = 0.5 + 4 * torch.rand(4, generator=random)
    cells = torch.arange(64.0)
    squared = (cells - points[..., 1:])[..., None].double() ** 2 + (cells - points[..., :1])[
        ..., None, :
    ].double() ** 2
    shown = present[..., None, None]
    each = extent.double()[:, None, None, None]
    exact = torch.where(shown, torch.exp(-squared / (2 * each**2)), 0)
    assert (heatmaps.gaussians(points, present, 64, extent) - exact).abs().max() < 1e-6
    exact = torch.where(shown, squared <= each.clamp_min(0.71) ** 2, False)
    assert torch.equal(heatmaps.discs(points, present, 64, extent), exact.float())


@pytest.mark.parametrize("draw", [heatmaps.discs, heatmaps.gaussians])
def test_absent_joints_are_empty_maps_and_nan_does_no_harm(draw):
    nan = float("nan")
    points = tensor([[[2.0, 2.0], [2.0, 2.0], [nan, nan], [nan, nan], [400.0, -90.0]]])
    maps = draw(points, tensor([[True, False, False, True, True]]), 5, tensor([1.0]))
    assert maps.isfinite().all() and maps[0, 0].max() == 1 and maps[0, 1:].abs().sum() == 0


@pytest.mark.parametrize("points", [[(3.0, 9.0)], [(0.0, 15.0)]])
@pytest.mark.parametrize("decoder", heatmaps.DECODERS)
def test_decoders_on_a_symmetric_peak_say_its_cell(decoder, points):
    found, confidence = heatmaps.decode(blob(*points, sigma=0.5), decoder)
    assert confidence.item() == 1
    tolerance = (
        0.2 if decoder == "centroid" else 1e-4
    )  # a Gaussian cut by the border has its centroid inside
    assert np.allclose(found[0], points, atol=tolerance)


def test_decoders_golden():
    """Peak 4 at x = 2, y = 1; 3 on its right, 1 on its left, 2 below, 0 above."""
    maps = torch.zeros(1, 1, 5, 5)
    maps[0, 0, 1, 1:4] = tensor([1.0, 4.0, 3.0])
    maps[0, 0, 2, 2] = 2.0
    found = {name: heatmaps.decode(maps, name)[0][0, 0].tolist() for name in heatmaps.DECODERS}
    assert found["argmax"] == [2, 1] and found["quarter"] == [2.25, 1.25]
    before, at, after = np.log(
        [1, 4, 3]
    )  # x is positive on three cells: logarithms; y is not: values 0, 4, 2
    assert found["parabola"] == pytest.approx(
        [2 + (after - before) / 2 / (2 * at - before - after), 1 + 2 / 12]
    )
    assert found["centroid"] == pytest.approx(
        [(2 * 4 + 3 * 3 + 2 * 2) / 9, (1 * 4 + 1 * 3 + 2 * 2) / 9]
    )
    assert heatmaps.decode(maps)[1].item() == 4


def test_unknown_decoder():
    with pytest.raises(KeyError, match="softmax"):
        heatmaps.decode(torch.zeros(1, 1, 4, 4), "softmax")


@pytest.mark.parametrize("sigma", [0.6, 1.25, 4.0])
def test_parabola_is_exact_for_gaussians_anywhere_on_the_map(sigma):
    """The border included: a joint in the outermost half cell is no special case."""
    random = np.random.default_rng(0)
    points = np.concatenate(
        [
            random.uniform(-0.49, 15.49, (200, 2)),
            random.uniform(-0.49, 0.4, (20, 2)),
            random.uniform(14.6, 15.49, (20, 2)),
        ]
    )
    error = heatmaps.decode(blob(*points, sigma=sigma))[0][0].numpy() - points
    assert np.abs(error).max() < 1e-3 and np.abs(error.mean(0)).max() < 1e-4


def test_quarter_stays_on_a_peak_at_the_border():
    assert heatmaps.decode(blob((0.0, 15.0)), "quarter")[0][0, 0].tolist() == [0, 15]
    assert heatmaps.decode(blob((0.0, 7.3)), "quarter")[0][0, 0].tolist() == [0, 7.25]


def test_centroid_finds_the_middle_of_a_saturated_disc_where_argmax_finds_its_first_cell():
    disc = one(heatmaps.discs, 8.0, 7.0, 4.0, size=17)[None, None]
    assert heatmaps.decode(disc, "centroid")[0][0, 0].tolist() == pytest.approx([8, 7])
    assert heatmaps.decode(disc, "argmax")[0][0, 0].tolist() == [8, 3]


@pytest.mark.parametrize("decoder", heatmaps.DECODERS)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_flat_maps_give_finite_points_on_the_map(decoder, value):
    points, confidence = heatmaps.decode(torch.full((2, 3, 6, 6), value), decoder)
    assert (
        points.shape == (2, 3, 2)
        and ((points >= -0.5) & (points <= 5.5)).all()
        and (confidence == value).all()
    )


@pytest.mark.parametrize("decoder", heatmaps.DECODERS)
def test_wild_maps_never_move_a_peak_by_more_than_half_a_cell(decoder):
    maps = torch.randn(4, 16, 12, 12, generator=torch.Generator().manual_seed(0))
    points, _ = heatmaps.decode(maps, decoder)
    if decoder != "centroid":
        assert (points - heatmaps.decode(maps, "argmax")[0]).abs().max() <= 0.5
    assert points.isfinite().all()


def test_map_px_and_crop_px():
    """The centre of the first map cell of stride 4 lies between the crop's pixels 1 and 2."""
    assert heatmaps.from_map(tensor(0.0), 4) == 1.5 and heatmaps.to_map(tensor(1.5), 4) == 0
    assert heatmaps.to_map(tensor([255.5]), 4) == 63.5


def test_mirror_is_its_own_inverse():
    maps = torch.rand(2, 16, 8, 8)
    assert (heatmaps.mirror(heatmaps.mirror(maps)) == maps).all() and (
        heatmaps.mirror(maps) != maps
    ).any()


@pytest.mark.parametrize("draw", [heatmaps.discs, heatmaps.gaussians])
def test_mirrored_maps_are_the_mirrored_person_s_targets(draw):
    random = np.random.default_rng(1)
    points = torch.from_numpy(random.uniform(0, 15, (3, 16, 2)).astype(np.float32))
    present = torch.from_numpy(random.random((3, 16)) < 0.7)
    mirrored = torch.stack([15 - points[..., 0], points[..., 1]], dim=-1)[:, MPII.mirror]
    width = tensor([1.0, 1.7, 2.2])
    assert torch.allclose(
        heatmaps.mirror(draw(points, present, 16, width)),
        draw(mirrored, present[:, MPII.mirror], 16, width),
        atol=1e-5,
    )
