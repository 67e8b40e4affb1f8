"""What is measured on a cascade, or on perfect maps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import ImageColor

from benchmarks import argument
from hpe_lib import cascade, evaluation, heatmaps, prediction, probes
from hpe_lib.data.augment import PoseDataset
from hpe_lib.skeleton import ABSENT, MPII, OCCLUDED, TORSO, VISIBLE
from hpe_lib.targets import Targets
from hpe_lib.view import diagram, drawing, figures, pictures, sheets

NETWORK = {"trunk": "slim", "map_stride": 4, "prior": 0.01, "channels": 16, "levels": 2}
NETWORK |= {"bottlenecks": 1, "stem": "patch", "regressor": "hourglass"}
DRAWN = {"radius": 10.0, "sigma": 5.0, "occluded": "empty"}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return cascade.Cascade(NETWORK).eval()


def test_perfect_maps_lose_only_what_the_decoder_loses(drawn):
    errors = probes.decoding_errors(drawn[:8], [(128, 4)], DRAWN)
    assert set(errors.decoder) == set(heatmaps.DECODERS) and set(errors.stride) == {4}
    by_name = errors.groupby("decoder")
    assert by_name.px.median()["parabola"] < 0.05 and by_name.px.median()["argmax"] > 1
    assert by_name.x.apply(lambda x: x.abs().max())["argmax"] == pytest.approx(2, abs=0.2)
    assert np.allclose(errors.px, np.hypot(errors.x, errors.y), atol=1e-4)
    assert not np.isnan(errors.share).any() and len(errors) % len(heatmaps.DECODERS) == 0


def test_peaks_are_those_of_every_person(model, drawn):
    found = probes.disc_peaks(model, drawn, 128, 10.0)
    batch = torch.utils.data.default_collate([PoseDataset(drawn, 128)[row] for row in range(24)])
    with torch.no_grad():
        maps = model(batch["image"])
    for name, part in (("detector", maps.detector.sigmoid()), ("regressor", maps.regressor)):
        for kind, values in probes.peaks_in_discs(part, batch, 4, 10.0).items():
            assert np.allclose(found[name][kind], values, atol=1e-5, equal_nan=True)


def test_peaks_are_taken_where_the_joint_is_and_where_it_is_not():
    maps = torch.full((2, 16, 32, 32), 0.05)
    joints = torch.tensor([[30.0, 30.0], [90.0, 90.0]])[:, None].repeat(1, 16, 1)
    visibility = torch.full((2, 16), VISIBLE)
    visibility[:, 3] = OCCLUDED
    visibility[0, 4] = ABSENT
    maps[0, :, 7, 7] = 0.9
    maps[1, :, 22, 22] = 0.9
    maps[:, 3] = 0.4
    batch = {"joints": joints, "visibility": visibility, "body": torch.tensor([100.0, 100.0])}
    found = probes.peaks_in_discs(maps, batch, 4, radius=10.0)
    found = {kind: values[values.isfinite()] for kind, values in found.items()}
    assert {kind: len(values) for kind, values in found.items()} == {
        "visible": 29,
        "occluded": 2,
        "background": 30,
    }
    assert np.allclose(found["visible"], 0.9) and np.allclose(found["occluded"], 0.4)
    assert np.allclose(np.sort(found["background"]), [0.05] * 28 + [0.4] * 2)
    maps[0, :2, 7, 8] = torch.tensor([0.95, 0.0])
    maps[0, :2, 7, 9] = 1.0
    found = probes.peaks_in_discs(maps, batch, 4, radius=10.0)
    within, beyond = torch.tensor([0.95, 0.9])
    assert found["visible"][0, :2].tolist() == [within, beyond], "5 px, which is 1.25 cells"
    near = {**batch, "joints": joints.clone().fill_(30.0)}
    found = probes.peaks_in_discs(maps, near, 4, radius=10.0)
    assert found["background"].isnan().all(), "nobody else's joint is far enough"


class Repeats(torch.nn.Module):
    """A regressor that says what it is given."""

    def forward(self, stack):
        return torch.nn.functional.avg_pool2d(stack[:, :16], 4)


def test_true_maps_are_given_to_the_regressor(drawn):
    """Of visible parts, of all, of all others: a regressor that repeats them finds just these."""
    made = cascade.Cascade(NETWORK)
    made.regressor = Repeats()
    joints = argument.given_maps(made, drawn, 128, DRAWN, decoder="centroid")
    found = argument.scored_beside(joints, drawn)
    seen = found["true, of visible parts"]
    everything = found["true, of all parts"]
    assert everything["visible"] > 97 and everything["occluded"] > 97
    assert seen["visible"] == everything["visible"] and seen["occluded"] < 40
    assert found["true, of all other parts"]["total"] < 30
    images = torch.randn(2, 3, 128, 128)
    logits = torch.randn(2, 16, 32, 32)
    without = argument.regress_from_others(made, logits, images)
    assert torch.allclose(without, logits.amin().sigmoid(), atol=1e-6), "no map of its own is read"
    answer = prediction.predict(made, drawn, 128, flip_test=False, decoder="centroid")
    assert found["its detector's"] == evaluation.score(answer.joints, drawn)
    lead = everything["difference"]["total"]
    assert lead["difference"] == pytest.approx(
        everything["total"] - found["its detector's"]["total"]
    )
    assert lead["ci95"][0] <= lead["difference"] <= lead["ci95"][1]


def test_a_mean_over_people_weighs_each_joint_alike():
    """Two joints of one person count twice as much as one of another; NaN is no joint."""
    values = np.array([[0.2, 0.4], [0.9, np.nan]])
    found = argument.mean_over_people(values)
    assert found["mean"] == pytest.approx(0.5)
    assert found["ci95"] == pytest.approx([0.3, 0.9]), "one person drawn twice, and the other"


def test_decoders_score_as_predict_does(model, drawn):
    found = probes.decoders(model, drawn, 128)
    assert len(found) == 2 * len(heatmaps.DECODERS)
    for flip, word in ((True, "with"), (False, "without")):
        answer = prediction.predict(model, drawn, 128, flip_test=flip, decoder="quarter")
        wanted = evaluation.score(answer.joints, drawn)
        assert found[f"quarter, {word} flip test"] == wanted


def test_examples_go_from_the_best_to_the_worst(drawn):
    hidden = (drawn.visibility == OCCLUDED).sum(1)
    off = np.random.default_rng(0).permutation(24).astype(float)
    rows = list(probes.examples(drawn.joints + off[:, None, None], drawn).values())
    assert off[rows[0]] <= off[rows[1]] <= off[rows[2]] and (abs(hidden[rows] - 4) <= 1).all()
    near = abs(hidden - 4) <= 1
    sizes = np.where(near, off / drawn.normaliser, np.nan)
    assert rows[0] == np.nanargmin(sizes) and rows[2] == np.nanargmax(sizes)


def test_the_person_shown_has_a_hidden_joint_that_is_found(drawn):
    wrist = MPII.index("left_wrist")
    hidden = np.flatnonzero(drawn.visibility[:, wrist] == OCCLUDED)
    *lost, bare, seen, astray, unsure, sure = hidden
    predicted = drawn.joints.copy()
    predicted[lost, wrist] += 1000
    predicted[astray, MPII.index("right_knee")] += 1000
    confidence = np.full((24, 16), 0.5)
    confidence[:, wrist] = 0.2
    confidence[[seen, astray], wrist] = 0.9
    confidence[sure, wrist] = 0.3
    detected = predicted.copy()
    detected[[bare, astray, unsure, sure], wrist] += 1000
    confidence[bare, wrist] = 0.9
    visibility = drawn.visibility.copy()
    visibility[bare, np.arange(16) != wrist] = ABSENT  # nothing wrong, but nothing else right
    drawn = replace(drawn, visibility=visibility)

    def shown(detected, people=drawn):
        answer = prediction.Predictions(predicted, confidence, detected, detected, confidence)
        return probes.person_with_hidden_joint(answer, people, wrist)

    assert shown(detected) == sure, "found by the cascade alone, all other joints right, surest"
    assert shown(predicted) == seen, "where the detector finds all, the surest of the hidden ones"
    unknown = replace(drawn, joints=np.full_like(drawn.joints, np.nan))
    assert 0 <= shown(predicted, unknown) < 24
    seen_by_all = np.where(drawn.visibility == OCCLUDED, VISIBLE, drawn.visibility)
    none_hidden = replace(drawn, visibility=seen_by_all)
    assert 0 <= shown(predicted, none_hidden) < 24


def test_a_clear_example_stands_upright_with_some_joints_hidden(drawn):
    hidden = (drawn.visibility == OCCLUDED).sum(1)
    row = probes.clear_person(drawn)
    assert abs(hidden[row] - 4) <= 1
    pelvis, head = (MPII.index(name) for name in ("pelvis", "head_top"))
    heights = (drawn.joints[:, pelvis, 1] - drawn.joints[:, head, 1]) / drawn.body
    assert heights[row] == np.nanmax(heights[abs(hidden - 4) <= 1])
    nobody = drawn[(hidden < 3) | (hidden > 5)]
    assert 0 <= probes.clear_person(nobody) < len(nobody)


def test_a_clear_example_of_people_whose_pelvis_is_not_labelled(drawn):
    joints = drawn.joints.copy()
    for row, ends in TORSO.items():
        joints[:, row] = joints[:, ends].mean(1)
    filled = replace(drawn, joints=joints)
    joints = joints.copy()
    joints[:, list(TORSO)] = np.nan
    leeds = replace(drawn, joints=joints)
    assert probes.clear_person(leeds) == probes.clear_person(filled)
    assert probes.clear_person(leeds[:1]) == 0


def test_the_way_to_a_joint_is_image_detector_regressor_pose(model, drawn):
    one = drawn[[5]]
    sheet = np.asarray(pictures.one_joint(model, one, 128, MPII.index("left_wrist")))
    side = pictures.SIDE
    gap = drawing.TILE_GAP
    head = drawing.TITLE_HEIGHT
    assert sheet.shape[1] == 2 * side + gap
    image, detector, regressor, pose = (
        sheet[head + y * (side + gap + head) :, x * (side + gap) :][:side, :side].astype(int)
        for y, x in np.ndindex(2, 2)
    )
    assert (image != detector).any() and (detector != regressor).any() and (pose != image).any()
    mark = np.array(ImageColor.getrgb(drawing.SKY))
    rings = [(tile == mark).all(-1).sum() for tile in (image, detector, regressor, pose)]
    assert min(rings[:3]) > 0 == rings[3], "a ring where the joint is, and none on the pose"


def test_the_diagram_shows_the_sizes_of_the_network_s_own_maps(model):
    figure = diagram.cascade_diagram(model, torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    texts = [text.get_text() for text in figure.axes[0].texts]
    for text in ("image\n3×64²", "B1\n24×16²", "stack\n19×64²", "bottom\n16×4²", "D7\n16×16²"):
        assert text in texts
    weights = sum(weight.numel() for weight in model.detector.parameters())
    assert f"detector: {weights:,} parameters" in texts
    arcs = [text for text in figure.axes[0].texts if text.get_text() == ""]
    assert len(arcs) == 1 + NETWORK["levels"] and figure._repr_png_()[:4] == b"\x89PNG"
    vgg = {"trunk": "slim_vgg", "map_stride": 4, "regressor": "convolutions", "channels": 8}
    other = cascade.Cascade(vgg | {"kernels": [3, 3, 3, 3], "std": 0.0})
    assert diagram.cascade_diagram(other, torch.zeros(1, 72, 72, 3))._repr_png_()


def test_a_source_is_what_runs():
    source = figures.Source(evaluation.share, evaluation.within_threshold)
    assert source.startswith("def share(") and "\n\ndef within_threshold(" in source
    assert source._repr_markdown_().startswith("```python\ndef share(")


def test_a_person_without_a_labelled_limb_is_shown_all_the_same(model, drawn):
    person = replace(drawn[[3]], visibility=np.full((1, 16), ABSENT))
    assert pictures.network_maps(model, person, 128).width == 192


def test_a_person_s_networks_are_shown_on_a_sharp_crop(model, drawn):
    person = drawn[[3]]
    gap = drawing.TILE_GAP
    sheet = pictures.network_maps(model, person, 128)
    assert sheet.width == 6 * 192 + 5 * gap
    wrist = MPII.index("left_wrist")
    shown = [wrist, MPII.index("left_elbow")]
    plain, covered = (
        np.asarray(pictures.network_maps(model, person, 128, "a title", shown, patch=patch))
        for patch in (0.0, 0.3)
    )
    assert plain.shape == covered.shape and (plain != covered).any()
    sharp = drawing.resize(person.crops(pictures.CROP)[0], 192, 192)
    tile = plain[2 * drawing.TITLE_HEIGHT :][:192, :192].astype(int)
    grey = sharp.mean(-1)
    assert np.corrcoef(tile.mean(-1).ravel(), grey.ravel())[0, 1] > 0.9


def test_the_best_come_first_and_the_worst_are_called_failures(drawn, monkeypatch):
    seen = {}
    monkeypatch.setattr(sheets, "contact_sheet", lambda *given: seen.update(enumerate(given)))
    off = np.arange(24.0)[::-1]
    sheets.best_and_worst(drawn.joints + off[:, None, None], drawn)
    crops, _, _, titles, columns, _, truth = seen.values()
    assert [title.split(",")[0] for title in titles] == ["found best"] * 4 + ["failure"] * 4
    assert columns == 4 and crops.shape == (8, 256, 256, 3)
    assert np.allclose(truth[0], drawn.frame(23, 256).to_crop(drawn.joints[23]), equal_nan=True)


def test_joints_that_no_network_has_learned_set_no_scale(model, drawn, monkeypatch):
    """Leeds labels neither pelvis nor thorax, and the detector says anything there."""
    people = drawn[:1]
    visibility = people.visibility.copy()
    visibility[:, list(TORSO)] = ABSENT
    leeds = replace(people, visibility=visibility)
    sample = PoseDataset(leeds, 128)[0]
    known = sample["visibility"].numpy() != ABSENT
    before = pictures.person_maps(model, Targets(4), sample)
    tops = {name: maps[known].max() for name, maps in before.maps.items()}
    made = pictures.predict_crop

    def loud(*given):
        maps, points = made(*given)
        for heats in maps.values():
            heats[list(TORSO)] = 7.0
        return maps, points

    monkeypatch.setattr(pictures, "predict_crop", loud)
    found = pictures.person_maps(model, Targets(4), sample)
    assert found.top("detector") == pytest.approx(max(0.05, tops["detector"]))
    assert np.allclose(found.maps["difference"], before.maps["difference"])
    assert not found.maps["difference"][list(TORSO)].any()
    titles = []
    monkeypatch.setattr(drawing, "tile_images", lambda tiles, names, *_: titles.extend(names))
    pictures.cover_joint(model, leeds, 128, MPII.index("left_wrist"), 0.2)
    pictures.one_joint(model, leeds, 128, MPII.index("left_wrist"))
    peaks = [title for title in titles if "peak" in title]
    assert len(peaks) == 4 and not any("of 7.00" in title for title in peaks)


def test_right_answers_are_counted_by_the_detector_s_peak(model, drawn):
    people = drawn[:12]
    found = prediction.predict(model, people, 128, flip_test=False)
    peaks = np.random.default_rng(0).uniform(0, 1, found.detector_peak.shape)
    joints = np.where((peaks >= 0.7)[..., None], people.joints, people.joints + 999)
    found = replace(found, detector_peak=peaks, joints=joints, detector_joints=people.joints)
    rows = argument.by_peak(found, people)
    counted = evaluation.annotated_mask(people)
    assert sum(row["joints"] for row in rows.values()) == counted.sum()
    hidden = counted & (people.visibility == OCCLUDED)
    sure = rows["occluded, 0.7 to 1"]
    assert sure["joints"] == (hidden & (peaks >= 0.7)).sum()
    assert (sure["detector"], sure["cascade"], sure["difference"]["difference"]) == (100, 100, 0)
    unsure = rows["visible, 0.1 to 0.3"]
    assert (unsure["detector"], unsure["cascade"]) == (100, 0)
    assert unsure["difference"]["difference"] == -100


def test_maps_go_with_a_crop_of_another_size(model, drawn):
    small = pictures.person_maps(model, Targets(4), PoseDataset(drawn, 128)[0])
    large = small.on(drawn[:1].crops(256)[0])
    assert large.crop.shape == (256, 256, 3) and large.maps is small.maps
    seen = small.visibility > 0
    assert np.allclose(large.joints[seen], 2 * small.joints[seen] + 0.5)
    assert np.allclose(large.predicted["detector"], 2 * small.predicted["detector"] + 0.5)
