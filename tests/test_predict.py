"""Photographs: `hpe_lib.load(DIR).predict`, `hpe predict`, the overlay and ONNX."""

import importlib.util
import json
import subprocess
import sys
import urllib.error
from pathlib import Path

import cv2
import numpy as np
import pytest
import small_runs
import torch
import torchvision
from PIL import Image
from torch import nn

import hpe_lib
from hpe_lib import cli, export, heatmaps, photographs, stages, trunks
from hpe_lib.cascade import Cascade, Maps
from hpe_lib.data import images
from hpe_lib.geometry import rescale
from hpe_lib.photographs import PoseEstimator
from hpe_lib.skeleton import MPII
from hpe_lib.view import drawing
from hpe_lib.workbook import artifacts, results
from hpe_lib.workbook.artifacts import BadInput

SIZE = 32
STRIDE = 2
NETWORK = {
    "trunk": "slim",
    "map_stride": 4,
    "prior": 0.01,
    "channels": 16,
    "levels": 2,
    "bottlenecks": 1,
    "stem": "patch",
    "image_size": 64,
}


class Stub(nn.Module):
    """A cascade that answers as it is told: answer(images (B, S, S, 3) uint8) -> Maps."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.map_stride = STRIDE
        self.first = "detection"
        self.seen = []
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, images):
        self.seen.append(len(images))
        return self.answer(images)


def brightest(images):
    """All 16 joints are where the crop is bright."""
    bright = nn.functional.avg_pool2d(images.float().mean(-1)[:, None] / 255, STRIDE).expand(
        -1, 16, -1, -1
    )
    return Maps(8 * bright - 4, bright)


def seeing(answer=brightest, **settings):
    return PoseEstimator(
        Stub(answer), SIZE, **{"flip_test": False, "decoder": "centroid", **settings}
    )


def spot(shape, x, y):
    """A dark image with a bright spot at (x, y)."""
    down, across = np.indices(shape)
    return np.repeat(
        (255 * np.exp(-((across - x) ** 2 + (down - y) ** 2) / 18))[..., None], 3, -1
    ).astype(np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder as a training leaves it, of a cascade that has learned nothing."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    network = Cascade(NETWORK)
    for weights in network.parameters():
        nn.init.normal_(weights, std=0.1)
    artifacts.save(
        folder / "cascade",
        network.state_dict(),
        {"network": NETWORK, "settings": {"decoder": "quarter", "flip_test": False, "lr": 1}},
    )
    return folder


@pytest.fixture
def photos(tmp_path):
    """Two photographs, 96 × 64 and 50 × 80 px, and a folder to write to."""
    for name, shape in (("one.jpg", (64, 96)), ("two.png", (80, 50))):
        cv2.imwrite(str(tmp_path / name), spot(shape, 30, 40) // np.array([1, 2, 4], np.uint8))
    return tmp_path


def called(*arguments):
    with pytest.raises(SystemExit) as error:
        cli.main([str(argument) for argument in arguments])
    return error.value.code


def refused(capsys, *arguments):
    """The one line of a call that ends with status 2."""
    assert called(*arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("hpe: ") and told.count("\n") == 1
    return told


# ---- boxes


def test_a_square_is_what_numpy_cuts():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    frame = photographs.box_frame([17, 9, SIZE], image.shape, SIZE)
    assert (frame.crop(image) == image[9 : 9 + SIZE, 17 : 17 + SIZE]).all()
    assert frame.body == SIZE / 1.25


def test_a_tight_box_counts_as_the_upright_person():
    frame = photographs.box_frame([10, 20, 30, 60], (100, 100, 3), SIZE)
    assert frame.center == (19.5, 39.5) and frame.side == 50 and frame.body == 40


def test_without_boxes_the_square_lies_around_the_whole_image():
    (frame,) = photographs.box_frames(None, (60, 80, 3), SIZE)
    assert frame.center == (39.5, 29.5) and frame.side == 80
    (person,) = seeing().predict(np.zeros((60, 80, 3), np.uint8))
    assert person["box"] == [0, -10, 80]


def test_the_box_told_is_a_box_to_give():
    image = spot((60, 80), 20, 30)
    for box in ([3.25, -7.5, 41.5], [10, 20, 31.5, 60]):
        (first,) = seeing().predict(image, [box])
        (again,) = seeing().predict(image, [first["box"]])
        assert again == first and (len(box) == 4 or first["box"] == box)


@pytest.mark.parametrize(
    "box",
    [
        [5, 5, 4, 9],
        [5, 5, 9, 5],
        [80, 2, 30],
        [-40, 2, 30],
        [2, 60, 70, 90],
        [1, 2, 801],
        [0, 0, 1e300],
    ],
)
def test_a_box_that_misses_the_image_is_refused(box):
    with pytest.raises(BadInput, match=r"^boxes of photo.jpg: found the box .*px"):
        photographs.box_frame(box, (60, 80, 3), SIZE, "boxes of photo.jpg")


@pytest.mark.parametrize(
    "box",
    [
        [0.1, 0.2, 0.6, 0.9],  # fractions of the image
        [0, 0, 1],
        [80.0, 50.0, 0.47],  # MPII's centre and scale
        [80, 50, 12.5],
        [20, 10, 0.001],
        [20, 10, 200, 10.5],
        "123",
        ["10", "20", "90"],
        [True, True, 50, 50],
        [1, 2],
        [1, 2, 3, 4, 5],
        [1, 2, -30],
        [1, 2, float("nan")],
        [1, 2, float("inf")],
        [1, float("nan"), 40, 50],
        [1, 2, 10**400],
        [1, 2, 30 + 0j],
        [[1], [2], [30]],
        [[0, 0, 40]],
        [1, 2, None],
        b"abc",
        {1, 2, 40},
        {0: 1, 1: 2, 2: 40},
        7,
        None,
    ],
)
def test_what_is_no_box_in_px_is_refused(box):
    with pytest.raises(BadInput, match=r"^one.jpg: found the box .*16 px or more$"):
        photographs.parse_box(box, "one.jpg")


def test_what_is_no_image_and_what_no_list_of_boxes_is_refused():
    estimator = PoseEstimator(None, 64)
    pixels = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(BadInput, match="image: found a Image, expected a path or"):
        estimator.predict(Image.fromarray(pixels))
    with pytest.raises(BadInput, match="image: found a int, expected a list of boxes"):
        estimator.predict(pixels, boxes=5)


def test_boxes_of_any_kind_of_number():
    for box in ([1, 2, 16], (1.5, 2, 17.5), np.array([1, 2, 20]), np.float32([1, 2, 20, 40])):
        assert photographs.box_frame(box, (60, 80, 3), SIZE).side >= 16


# ---- from Python


def test_joints_come_back_in_image_px_by_name():
    """Known points of two crops of different size, through maps and back.

    96 px of image become 32 of crop.
    """
    points = torch.tensor(np.random.default_rng(1).uniform(6, 26, (2, 16, 2)), dtype=torch.float32)
    maps = heatmaps.gaussians(
        heatmaps.to_map(points, STRIDE),
        torch.ones(2, 16, dtype=bool),
        SIZE // STRIDE,
        torch.full((2,), 1.2),
    )
    estimator = seeing(lambda images: Maps(4 * maps - 2, maps), decoder="parabola")
    boxes = [[10, 20, 96], [50.5, -3, 16]]
    people = estimator.predict(np.zeros((150, 200, 3), np.uint8), boxes)
    for (x, y, side), person, crop, peaks in zip(boxes, people, points, maps.amax((2, 3))):
        assert tuple(person["joints"]) == MPII.names
        for joint, point, peak in zip(
            person["joints"].values(), rescale(crop, side / SIZE).tolist(), peaks
        ):
            assert (joint["x"], joint["y"]) == pytest.approx((x + point[0], y + point[1]), abs=1e-2)
            assert joint["confidence"] == pytest.approx(float(peak), abs=1e-6)
            assert joint["detector_peak"] == pytest.approx(
                float(torch.sigmoid(4 * peak - 2)), abs=1e-6
            )


def test_many_people_go_through_in_batches_and_stay_in_order():
    image = spot((60, 400), 200, 30)
    estimator = seeing()
    boxes = [[190 - step, 10, 40] for step in range(20)]
    people = estimator.predict(image, boxes)
    assert estimator.cascade.seen == [16, 4]
    assert [person["box"] for person in people] == boxes
    assert all(person["joints"]["pelvis"]["x"] == pytest.approx(200, abs=0.5) for person in people)
    assert estimator.predict(image, []) == [] and json.loads(json.dumps(people)) == people


def test_photographs_go_through_in_common_batches_as_they_would_one_by_one(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(20)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), spot((60, 70 + number), 30 + number, 25))
    (tmp_path / "boxes.json").write_text(
        json.dumps({path.name: [[5, 5, 50]] * (number % 3) for number, path in enumerate(paths)})
    )
    for boxes in (None, tmp_path / "boxes.json"):
        estimator = seeing()
        found = list(photographs.predict_photographs(estimator, paths, boxes))
        wanted = photographs.read_boxes(boxes, paths) if boxes else [None] * 20
        assert estimator.cascade.seen == ([16, 3] if boxes else [16, 4])
        assert [path for path, _, _ in found] == paths
        for path, pixels, people in found:
            assert (pixels == photographs.read_image(path)).all()
            assert people == seeing().predict(path, wanted[paths.index(path)])


def test_a_photograph_is_read_once_and_answered_before_the_last_is_read(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.png" for number in range(60)]
    for path in paths:
        cv2.imwrite(str(path), spot((60, 70), 30, 25))
    asked = []
    read = photographs.read_image
    monkeypatch.setattr(photographs, "read_image", lambda path: asked.append(path) or read(path))
    answers = photographs.predict_photographs(seeing(), paths)
    next(answers)
    assert len(asked) <= 48
    assert len(list(answers)) == 59 and asked == paths


def test_photographs_before_a_broken_one_are_answered(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(20)]
    for path in paths:
        cv2.imwrite(str(path), spot((60, 70), 30, 25))
    paths[18].write_bytes(paths[18].read_bytes()[:-20])
    answers = photographs.predict_photographs(seeing(), paths)
    found = []
    with pytest.raises(BadInput, match="18.png"):
        found.extend(path for path, *_ in answers)
    assert found == paths[:18]


def test_large_photographs_go_in_small_groups():
    photos = [("", np.empty((5000, 5000, 3), np.uint8), [], [])] * 9  # 75 MB each, never touched
    assert [len(group) for group in photographs.group_photographs(photos)] == [4, 4, 1]


@pytest.mark.parametrize(
    "orientation, stored",
    [
        (6, lambda upright: np.rot90(upright)),
        (3, lambda u: np.rot90(u, 2)),
        (2, lambda upright: upright[:, ::-1]),
    ],
)
def test_exif_orientation_is_honoured(tmp_path, orientation, stored):
    upright = spot((60, 90), 70, 12)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored(upright))).save(
        tmp_path / "turned.jpg", quality=100, exif=exif
    )
    for person in seeing().predict(tmp_path / "turned.jpg"), seeing().predict(upright):
        head = person[0]["joints"]["head_top"]
        assert (head["x"], head["y"]) == pytest.approx((70, 12), abs=0.3)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 3)),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((0, 9, 3), np.uint8),
        "nowhere.jpg",
    ],
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(BadInput):
        seeing().predict(image)


def test_a_run_is_loaded_with_its_settings(trained, tmp_path):
    found = hpe_lib.load(trained)
    assert (found.image_size, found.decoder, found.flip_test) == (64, "quarter", False)
    artifacts.save(tmp_path, found.cascade.state_dict(), {"network": NETWORK})
    assert (hpe_lib.load(tmp_path).decoder, hpe_lib.load(tmp_path).flip_test) == ("parabola", True)
    image = spot((64, 96), 30, 40)
    (person,) = hpe_lib.load(tmp_path).predict(image)
    assert person == hpe_lib.load(tmp_path).predict(image)[0] != found.predict(image)[0]
    with pytest.raises(BadInput, match="no weights.safetensors"):
        hpe_lib.load(tmp_path / "nowhere")


# ---- the command


def test_overlay_and_json_for_each_image(trained, photos):
    (photos / "boxes.json").write_text(
        json.dumps(
            {
                "one.jpg": [[0, 0, 64], [10, 5, 50, 60]],
                str(photos / "two.png"): [],
                "other.jpg": [[0, 0, 90]],
            }
        )
    )
    images = (photos / "one.jpg", photos / "two.png")
    out = photos / "new" / "out"
    assert (
        called(
            "predict", "--weights", trained, *images, "--boxes", photos / "boxes.json", "--out", out
        )
        == 0
    )
    assert sorted(path.name for path in out.iterdir()) == [
        "one.json",
        "one.png",
        "two.json",
        "two.png",
    ]
    one = json.loads((out / "one.json").read_text())
    expected = hpe_lib.load(trained).predict(images[0], [[0, 0, 64], [10, 5, 50, 60]])
    assert one == {"image": str(images[0]), "people": expected}
    assert json.loads((out / "two.json").read_text())["people"] == []
    original = photographs.read_image(images[0])
    drawn = photographs.read_image(out / "one.png")
    assert drawn.shape == original.shape and (drawn != original).any()
    assert (photographs.read_image(out / "two.png") == photographs.read_image(images[1])).all()


@pytest.mark.parametrize(
    "boxes, found",
    [
        ('{"one.jpg": [[1, 2, 30]]}', "boxes.json: found no list of boxes for two.png"),
        ('{"one.jpg": [[1, 2, 30]], "two.png": {}}', "boxes.json: two.png: found the box {}"),
        ('{"one.jpg": [], "two.png": [], "other": 7}', "boxes.json: other: found the box 7"),
        ('{"one.jpg": [0, 0, 40], "two.png": []}', "boxes.json: one.jpg: found the box 0"),
        ('{"one.jpg": ["123"], "two.png": []}', "boxes.json: one.jpg: found the box '123'"),
        ('{"one.jpg": "123", "two.png": []}', "boxes.json: one.jpg: found the box '123'"),
        ("[[1, 2, 30]]", "boxes.json: found no list of boxes for one.jpg"),
        ('{"one', "boxes.json: found JSONDecodeError"),
        (
            '{"one.jpg": [[1, 2, 30]], "two.png": [[1, 2, NaN]]}',
            "boxes.json: two.png: found the box [1, 2, nan]",
        ),
        (
            '{"one.jpg": [[96, 2, 30]], "two.png": []}',
            "boxes.json: one.jpg: found the box [96, 2, 30]",
        ),
    ],
)
def test_a_boxes_file_that_does_not_serve(trained, photos, capsys, boxes, found):
    (photos / "boxes.json").write_text(boxes)
    told = refused(
        capsys,
        "predict",
        "--weights",
        trained,
        photos / "one.jpg",
        photos / "two.png",
        "--boxes",
        photos / "boxes.json",
        "--out",
        photos / "out",
    )
    assert found in told and not (photos / "out").exists()


def test_an_unreadable_image_is_one_line_and_those_before_it_are_done(trained, photos, capfd):
    one = photos / "one.jpg"
    out = photos / "out"
    cut = one.read_bytes()[:-300]
    (photos / "cut.jpg").write_bytes(cut)
    (photos / "hole.jpg").write_bytes(cut[:-100] + bytes(398) + b"\xff\xd9")
    for name in ("cut.jpg", "hole.jpg", "nowhere.jpg", "boxes.json"):
        told = refused(capfd, "predict", "--weights", trained, one, photos / name, "--out", out)
        assert name in told
        assert sorted(path.name for path in out.iterdir()) == ["one.json", "one.png"]
        assert len(json.loads((out / "one.json").read_text())["people"]) == 1


def test_an_overlay_may_be_as_large_as_a_photograph(trained, photos, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 50)  # of a PNG; a JPEG may have more
    call = ("predict", "--weights", trained, photos / "one.jpg", "--out", photos / "out")
    assert called(*call) == 0 and called(*call) == 0


def test_a_second_call_writes_over_the_first_s_files_and_over_no_others(trained, photos, capsys):
    out = photos / "out"
    call = ("predict", "--weights", trained, photos / "one.jpg", "--out", out)
    assert called(*call) == 0
    first = {path: path.read_bytes() for path in out.iterdir()}
    assert called(*call) == 0 and {path: path.read_bytes() for path in out.iterdir()} == first
    own = out / "one.png"
    told = out / "one.json"
    (photos / "boxes.json").write_text('{"one.jpg": [[0, 0, 40]]}')
    assert called(*call, "--boxes", photos / "boxes.json") == 0
    assert own.read_bytes() != first[own] and told.read_bytes() != first[told]
    assert called(*call) == 0
    edited = photographs.read_image(own)
    edited[0, 0] ^= 255
    mark = Image.open(own).info
    cv2.imwrite(str(photos / "mine.png"), edited)
    for path, content in (
        (told, b'{"my": "labels"}'),
        (told, first[told] + b" "),
        (told, b""),
        (own, (photos / "mine.png").read_bytes()),
        (own, drawing.encode_png(edited, mark)),
        (own, b"no image"),
    ):
        path.write_bytes(content)
        assert f"{path}: found a file that this command did not write" in refused(capsys, *call)
        assert path.read_bytes() == content
        path.write_bytes(first[path])
    own.unlink()
    assert "did not write, or whose one.png is gone" in refused(capsys, *call)
    assert not own.exists()
    told.unlink()
    own.write_bytes(first[own])  # killed between the two
    assert called(*call) == 0 and told.read_bytes() == first[told]


def test_an_image_of_the_boxes_file_may_begin_with_a_dot(tmp_path):
    file = tmp_path / "boxes.json"
    file.write_text('{"./a/b.jpg": [[1, 2, 30]], "./c.jpg": [[9, 9, 99]], "c.jpg": []}')
    found = photographs.read_boxes(file, [Path("./a/b.jpg"), Path("c.jpg")])
    assert found == [[[1, 2, 30]], []], "the name as it is goes first"


def test_the_boxes_of_another_image_of_the_same_name_are_not_taken(tmp_path, monkeypatch):
    file = tmp_path / "boxes.json"
    file.write_text('{"a.jpg": [[10, 10, 80]], "d/a.jpg": [[0, 0, 60]], "b.jpg": [[9, 9, 70]]}')
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    for image in ("d/a.jpg", "d/../d/a.jpg", tmp_path / "d" / "a.jpg"):
        assert photographs.read_boxes(file, [Path(image)]) == [[[0, 0, 60]]]
    assert photographs.read_boxes(file, [Path("elsewhere/b.jpg")]) == [[[9, 9, 70]]]
    with pytest.raises(BadInput, match="no list of boxes for a.jpg"):
        photographs.read_boxes(file, [Path("elsewhere/a.jpg")])


def test_a_file_is_no_folder_for_results(trained, photos, capsys):
    (photos / "out").write_text("mine")
    for line in (
        ("predict", "--weights", photos / "nowhere", photos / "one.jpg", "--out", photos / "out"),
        ("evaluate", "--data", "synthetic", "--weights", trained, "--keep", photos / "out"),
    ):
        assert "out: found a file, expected a folder" in refused(capsys, *line)
    assert (photos / "out").read_text() == "mine"


def test_a_person_s_files_are_found_before_anything_is_done(trained, photos, capsys):
    (photos / "two.json").write_text('{"my": "labels"}')
    (photos / "out").mkdir()
    line = ("predict", "--weights", photos / "nowhere", photos / "one.jpg", photos / "two.png")
    (photos / "out" / "two.json").symlink_to(photos / "two.json")
    assert "two.json: found a file that" in refused(capsys, *line, "--out", photos / "out")
    assert [path.name for path in (photos / "out").iterdir()] == ["two.json"]
    assert (photos / "two.json").read_text() == '{"my": "labels"}'


@pytest.mark.parametrize("part", ["detector", "regressor"])
def test_weights_that_are_finite_but_absurd_predict_and_score_nothing(
    photos, tmp_path, capsys, part
):
    torch.manual_seed(0)
    weights = Cascade(NETWORK).state_dict()
    for name, tensor in weights.items():
        if name.startswith(part) and tensor.is_floating_point():
            tensor.fill_(1e30)
    artifacts.save(tmp_path / "run", weights, {"network": NETWORK})
    given = ("--weights", tmp_path / "run")
    told = refused(capsys, "predict", *given, photos / "one.jpg", "--out", photos / "out")
    assert f"the weights: found {part}'s maps that reach " in told
    assert not (photos / "out").exists()
    told = refused(capsys, "evaluate", *given, "--data", "synthetic")
    assert f"the weights: found {part}'s maps that reach " in told


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_predict_nothing(photos, tmp_path, capsys, value):
    weights = Cascade(NETWORK).state_dict()
    name = list(weights)[3]
    weights[name].view(-1)[-1] = value
    artifacts.save(tmp_path / "run", weights, {"network": NETWORK})
    told = refused(
        capsys,
        *("predict", "--weights", tmp_path / "run", photos / "one.jpg", "--out", photos / "out"),
    )
    assert f"found NaN or infinity in 1 tensors, first {name}" in told
    assert not (photos / "out").exists()


def test_answers_that_are_not_finite_are_refused():
    def overflowing(images):
        maps = brightest(images)
        return Maps(maps.detector, maps.regressor * torch.inf)

    with pytest.raises(BadInput, match="regressor's maps that reach (inf|nan), expected .* finite"):
        seeing(overflowing).predict(np.zeros((60, 80, 3), np.uint8))


def test_no_output_takes_another_files_place(trained, photos, capsys):
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    (photos / "sub").mkdir()
    (photos / "sub" / "one.png").write_bytes(before["two.png"])
    one = photos / "one.jpg"
    two = photos / "two.png"
    other = photos / "sub" / "one.png"
    assert "one.json taken by" in refused(
        capsys, "predict", "--weights", trained, one, other, "--out", photos / "out"
    )
    assert "one.json taken by" in refused(
        capsys, "predict", "--weights", trained, one, one, "--out", photos / "out"
    )
    assert "two.png taken by" in refused(
        capsys, "predict", "--weights", trained, one, two, "--out", photos
    )
    (photos / "one.json").write_text("{}")
    assert "one.json taken by" in refused(
        capsys,
        "predict",
        "--weights",
        trained,
        one,
        "--boxes",
        photos / "one.json",
        "--out",
        photos / "." / "sub" / "..",
    )
    assert {
        path.name: path.read_bytes() for path in photos.iterdir() if path.name in before
    } == before
    assert (photos / "one.json").read_text() == "{}"


# ---- the person detector


@pytest.fixture
def everything_is_a_person():
    """torchvision's detector, untrained, made to call every region a person."""
    torch.manual_seed(0)
    found = torchvision.models.get_model(
        photographs.PERSON_DETECTOR, weights=None, weights_backbone=None
    )
    found.transform.min_size = (64,)
    found.roi_heads.detections_per_img = 4
    nn.init.zeros_(found.roi_heads.box_predictor.cls_score.weight)
    with torch.no_grad():
        found.roi_heads.box_predictor.cls_score.bias[1] = 20
    return found


def test_people_found_by_the_detector(trained, photos, monkeypatch, everything_is_a_person):
    monkeypatch.setattr(
        torchvision.models, "get_model", lambda name, weights: everything_is_a_person
    )
    monkeypatch.setattr(trunks, "check_named_hash", lambda url: None)
    answers = photographs.predict_photographs(
        hpe_lib.load(trained), [photos / "one.jpg"], detect=True
    )
    ((_, _, people),) = answers
    boxes = photographs.detect_people(
        everything_is_a_person, photographs.read_image(photos / "one.jpg")
    )
    assert 0 < len(boxes) <= 4 and all(
        0 <= x < far <= 96 and 0 <= y < below <= 64 for x, y, far, below in boxes
    )
    assert people == hpe_lib.load(trained).predict(photos / "one.jpg", boxes)
    assert (
        photographs.detect_people(
            everything_is_a_person, np.zeros((64, 64, 3), np.uint8), least=1.1
        )
        == []
    )


def test_only_people_who_score_high_and_are_large_enough_count():
    boxes = [[0, 1, 2 + 20 * row, 30] for row in range(4)] + [[0, 0, 9, 9], [0, 0, 0.5, 40]]
    answer = {
        "boxes": torch.tensor(boxes),
        "labels": torch.tensor([1, 1, 2, 1, 1, 1]),
        "scores": torch.tensor([0.9, 0.5, 0.9, 0.7, 0.9, 0.9]),
    }
    found = photographs.detect_people(lambda images: [answer], np.zeros((9, 9, 3), np.uint8))
    assert found == [[0, 1, 2, 30], [0, 1, 62, 30]]


def test_a_detector_that_cannot_be_had_is_one_line(trained, photos, capsys, monkeypatch):
    def unreachable(name, weights):
        raise urllib.error.URLError("no route\nto host")

    monkeypatch.setattr(torchvision.models, "get_model", unreachable)
    line = (
        "predict",
        "--weights",
        trained,
        photos / "one.jpg",
        "--out",
        photos / "out",
        "--people",
        "detect",
    )
    assert "no route" in (told := refused(capsys, *line)) and "--boxes" in told
    (photos / "boxes.json").write_text('{"one.jpg": []}')
    assert "one of the two" in refused(capsys, *line, "--boxes", photos / "boxes.json")
    assert not (photos / "out").exists()


# ---- ONNX


def test_onnx_answers_as_torch_does(trained, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="the extra hpe-lib[onnx] is not installed")
    pytest.importorskip("onnxscript", reason="the extra hpe-lib[onnx] is not installed")
    network = hpe_lib.load(trained).cascade
    export.export_onnx(network, tmp_path / "cascade.onnx")
    session = runtime.InferenceSession(
        tmp_path / "cascade.onnx", providers=["CPUExecutionProvider"]
    )
    for count in (1, 3):
        images = torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8)
        with torch.no_grad():
            expected = network(images)
        found = session.run(["detector", "regressor"], {"images": images.numpy()})
        for one, other in zip(found, (torch.sigmoid(expected.detector), expected.regressor)):
            assert one.shape == (count, 16, 16, 16) and one.std() > 1e-2
            assert np.abs(one - other.numpy()).max() < 1e-4
    told = session.get_modelmeta().custom_metadata_map
    assert told["joints"].split(",") == list(MPII.names) and (
        told["map_stride"],
        told["image_size"],
    ) == ("4", "64")


def test_onnx_names_both_of_a_stacked_hourglass_s_maps(tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="the extra hpe-lib[onnx] is not installed")
    pytest.importorskip("onnxscript", reason="the extra hpe-lib[onnx] is not installed")
    network = {"trunk": "slim", "map_stride": 4, "first": "regression", "image_size": 64}
    network |= {"rival": "stacked_hourglass", "rival_channels": 8}
    export.export_onnx(Cascade(network), tmp_path / "rival.onnx")
    session = runtime.InferenceSession(tmp_path / "rival.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["detector", "regressor"]


def test_onnx_without_its_packages_is_one_line(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"hpe-lib\[onnx\]"):
        export.export_onnx(hpe_lib.load(trained).cascade, tmp_path / "cascade.onnx")
    assert not list(tmp_path.iterdir())


# ---- time


def test_an_image_has_a_thousand_boxes_at_most():
    with pytest.raises(BadInput, match="found 1001 boxes, expected 1000 at most in an image"):
        photographs.box_frames([[0, 0, 50]] * 1001, (100, 100), 64)


@pytest.mark.parametrize("peak, between", [(0.005, True), (0.5, False)])
def test_a_pelvis_that_was_never_learned_lies_between_the_hips(peak, between):
    numbers = np.random.default_rng(0).random((1, 16, 4))
    pelvis = MPII.index("pelvis")
    hips = [MPII.index("left_hip"), MPII.index("right_hip")]
    numbers[0, :, 2] = 0.5
    numbers[0, pelvis, 2] = peak
    given = numbers.copy()
    photographs.place_unlearned(numbers)
    wanted = [*given[0, hips, :2].mean(0), 0, 0] if between else given[0, pelvis]
    assert np.allclose(numbers[0, pelvis], wanted)
    others = np.arange(16) != pelvis
    assert np.array_equal(numbers[0, others], given[0, others])


def test_a_detector_alone_places_what_nobody_has_labelled(tmp_path):
    """Its map of an unlabelled joint is flat, at `prior` or about there, and so no empty one."""
    out = tmp_path / "run"
    small_runs.prepare(out, missing_points="withheld")
    list(stages.train("detector", out, small_runs.DETECTOR | {"prior": 0.5}))
    made = artifacts.manifest(out / "detector")
    assert made["unlabelled"] == ["pelvis", "thorax"]
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    (person,) = hpe_lib.load(out).predict(image)
    joints = person["joints"]
    hips = [joints[f"{side}_hip"]["x"] for side in ("left", "right")]
    assert joints["pelvis"]["x"] == pytest.approx(np.mean(hips))
    assert joints["pelvis"]["confidence"] == 0


def test_importing_and_predicting_is_light(trained, photos):
    """Processor seconds, as tests share the machine, over those of importing torch and torchvision.

    The (small) network is included.
    """
    code = (
        "import sys, time, hpe_lib\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "import torch, torchvision; torch.set_num_threads(1); start = time.process_time()\n"
        "from hpe_lib import cli\n"
        f"try: cli.main(['predict', '--weights', {str(trained)!r}, {str(photos / 'one.jpg')!r}, "
        f"'--out', {str(photos / 'out')!r}])\n"
        "finally: print(time.process_time() - start, *sys.modules)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    seconds, *modules = told.stdout.splitlines()[-1].split()
    assert not {"matplotlib", "pandas", "accelerate"} & set(modules) and "cv2" in modules
    assert float(seconds) < 1.5


@pytest.mark.slow
def test_the_released_weights_score_what_is_printed(test_data):
    """LSP's 1,000 test people, by their photographs: three minutes of one core."""
    command = [sys.executable, "-m", "hpe_lib", "evaluate", "--json", "--data", "lsp"]
    command += ["--split", "test", "--data-root", str(test_data / "lsp")]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    printed = results.metrics_of("leeds-192")["scores"]["cascade"]["total"]
    assert abs(json.loads(told.stdout)["total"] - printed) <= 0.1
