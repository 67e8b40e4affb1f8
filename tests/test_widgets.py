"""The panels without a browser.

Controls are moved and messages sent as a browser would; pictures are compared as pixels.
"""

import io
import time
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
import torch
from PIL import Image

from hpe_lib import cascade, evaluation, photographs, prediction, probes
from hpe_lib.data.augment import PoseDataset
from hpe_lib.data.datasets import load_people
from hpe_lib.skeleton import ABSENT, MPII, OCCLUDED, VISIBILITY_NAMES, VISIBLE
from hpe_lib.targets import Targets
from hpe_lib.view import drawing, pictures, widgets
from hpe_lib.workbook import artifacts
from hpe_lib.workbook.artifacts import BadInput

SIZE = 128
NETWORK = {
    "trunk": "slim",
    "map_stride": 4,
    "prior": 0.01,
    "regressor": "hourglass",
    "channels": 16,
    "levels": 2,
    "bottlenecks": 1,
    "stem": "patch",
    "image_size": SIZE,
}
TARGETS = Targets(4)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return load_people(
        "synthetic", people="1-12", image_size=SIZE, cache=tmp_path_factory.mktemp("cache")
    )


@pytest.fixture(scope="module")
def model():
    """A cascade whose maps depend on the image: random weights, also where training begins at 0."""
    torch.manual_seed(0)
    made = cascade.Cascade(NETWORK)
    for weight in made.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.3)
    return made.set_memory_format().eval()


@pytest.fixture(scope="module")
def answer(model, people):
    return prediction.predict(model, people, SIZE)


@pytest.fixture
def inspector(model, people, answer):
    return widgets.Inspector(model, people, SIZE, answer, TARGETS)


@pytest.fixture
def cover(model, people):
    return widgets.Cover(model, people, SIZE)


def picture(panel):
    return np.asarray(Image.open(io.BytesIO(panel.screen.png)))


def send(panel, **message):
    """What the browser sends, through the very handler of its messages."""
    panel.screen._handle_custom_msg(message, [])


def changed(panel, move):
    """Did the picture change by the move?"""
    before = picture(panel)
    move()
    after = picture(panel)
    return before.shape != after.shape or (before != after).any()


def put(control, value):
    return lambda: setattr(control, "value", value)


class TestInspector:
    def test_every_control_changes_the_picture(self, inspector, people):
        for layer in pictures.LAYERS[::-1]:
            if layer != inspector.layer.value:
                assert changed(inspector, put(inspector.layer, layer)), layer
        inspector.layer.value = "regressor"
        assert changed(inspector, put(inspector.opacity, 0.3))
        assert changed(inspector, put(inspector.place, 4))
        assert changed(inspector, put(inspector.joint, 0))
        assert changed(inspector, put(inspector.joint, widgets.ALL))
        inspector.joint.value = MPII.index("left_wrist")
        assert (
            changed(inspector, put(inspector.order, "largest error")) or inspector.place.value != 4
        )

    def test_people_come_in_the_order_that_was_asked_for(self, inspector, people, answer):
        joint = MPII.index("left_wrist")
        error = evaluation.errors(answer.joints, people)[0][:, joint]
        inspector.order.value = "largest error"
        assert str(people.keys[np.argmax(error)]) in inspector.line.value
        inspector.order.value = "smallest error"
        assert str(people.keys[np.argmin(error)]) in inspector.line.value

    def test_a_selection_holds_only_what_it_says(self, inspector, people):
        inspector.keep.value = "occluded"
        hidden = int((people.visibility[:, MPII.index("left_wrist")] == OCCLUDED).sum())
        assert 0 < hidden < len(people) and inspector.place.max == hidden
        assert "occluded" in inspector.line.value

    def test_an_empty_selection_is_said(self, model, people, answer):
        visible = people.visibility.copy()
        visible[:] = VISIBLE
        seen = replace(people, visibility=visible)
        panel = widgets.Inspector(model, seen, SIZE, answer, TARGETS)
        panel.keep.value = "occluded"
        assert "found nobody, expected people with left_wrist occluded" in panel.line.value
        panel.keep.value = "visible"
        assert "1 of 12" in panel.line.value

    def test_keys_go_through_people_and_joints(self, inspector):
        send(inspector, key="ArrowRight")
        assert inspector.place.value == 2
        send(inspector, key="ArrowLeft")
        send(inspector, key="ArrowLeft")
        assert inspector.place.value == 1
        before = inspector.joint.index
        send(inspector, key="ArrowUp")
        assert inspector.joint.index == before - 1
        for _ in range(3):
            send(inspector, key="ArrowDown")
        assert inspector.joint.index == (before + 2) % 17
        assert inspector.screen.answered == 7

    def test_the_line_tells_state_peak_and_error(self, inspector, model, people):
        joint = MPII.index("left_wrist")
        layers = pictures.person_maps(model, TARGETS, PoseDataset(people, SIZE)[0])
        distance = np.linalg.norm(layers.predicted["regressor"][joint] - layers.joints[joint])
        share = distance / (people.normaliser[0] * SIZE / people.side[0])
        peak = layers.maps["regressor"][joint].max()
        assert f"regressor: peak {peak:.2f}, {share:.2f} head sizes off" in inspector.line.value
        assert VISIBILITY_NAMES[people.visibility[0, joint]] in inspector.line.value

    @pytest.mark.parametrize("length", [0.0, -1.0, np.inf, np.nan])
    def test_without_a_head_size_errors_are_in_px(self, model, people, answer, length):
        unknown = replace(people, normaliser=np.full(len(people), length))
        panel = widgets.Inspector(model, unknown, SIZE, answer, TARGETS)
        assert "image px off" in panel.line.value and "inf" not in panel.line.value

    def test_where_occlusion_is_unknown_nothing_is_called_visible(self, model, people, answer):
        panel = widgets.Inspector(
            model, replace(people, occlusion_labels=False), SIZE, answer, TARGETS
        )
        assert panel.keep.options == ("everyone", "right", "wrong")
        assert (
            "left_wrist, annotated" in panel.line.value
            and "left_wrist, visible" not in panel.line.value
        )

    @pytest.mark.parametrize("order", widgets.ORDER)
    def test_another_joint_is_the_same_person_s(self, inspector, order):
        inspector.order.value = order
        inspector.place.value = 3
        person = inspector.line.value.split(" · ")[0].split(", ")[1]
        for joint in (0, widgets.ALL, MPII.index("left_elbow"), MPII.index("left_wrist")):
            inspector.joint.value = joint
            assert f", {person} · " in inspector.line.value
        assert inspector.place.value == 3

    def test_a_person_who_is_not_in_the_selection_is_left(self, inspector, people):
        wrist, knee = MPII.index("left_wrist"), MPII.index("left_knee")
        hidden = people.visibility == OCCLUDED
        inspector.keep.value = "occluded"
        rows = np.flatnonzero(hidden[:, wrist])
        inspector.place.value = 1 + int(np.flatnonzero(~hidden[rows, knee])[0])
        inspector.joint.value = knee
        assert inspector.place.value == 1
        assert str(people.keys[np.flatnonzero(hidden[:, knee])[0]]) in inspector.line.value

    def test_a_detector_alone_has_two_layers(self, people, answer):
        alone = cascade.Cascade(
            {name: NETWORK[name] for name in ("trunk", "map_stride", "prior", "image_size")}
        ).eval()
        panel = widgets.Inspector(alone, people, SIZE, answer, TARGETS)
        assert panel.layer.options == pictures.LAYERS[:2] and panel.layer.value == "detector"

    def test_a_model_of_another_size_is_said(self, people, model, answer):
        other = cascade.Cascade(NETWORK | {"image_size": 64}).eval()
        for panel in (
            widgets.Inspector(other, people, SIZE, answer, TARGETS),
            widgets.Cover(other, people, SIZE),
        ):
            assert (
                "the cascade: found one trained on crops of 64 px, expected one of 128 px"
                in panel.line.value
            )

    def test_steps_are_quick_from_cached_maps(self, inspector):
        def p95(moves):
            took = []
            for k in range(40):
                start = time.process_time()
                moves[k % 2]()
                took.append(time.process_time() - start)
            return np.percentile(took[2:], 95)

        one = p95([put(inspector.joint, 3), put(inspector.joint, 5)])
        inspector.joint.value = widgets.ALL
        sheet = p95([put(inspector.layer, "detector"), put(inspector.layer, "regressor")])
        print(f"p95 of a step's CPU time: one map {1000 * one:.0f} ms, sheet {1000 * sheet:.0f} ms")
        assert one < 0.06 and sheet < 0.25


class TestCover:
    def test_a_dragged_box_covers_these_pixels(self, cover, model, people):
        crop = PoseDataset(people, SIZE)[0]["image"].numpy()
        zoom = pictures.SIDE / SIZE
        title = drawing.TITLE_HEIGHT
        send(
            cover,
            box=[10 * zoom, 20 * zoom + title, 40 * zoom, 60 * zoom + title],
            done=True,
        )
        assert cover.box == (10, 20, 40, 60)
        patch = prediction.cover_box(crop, cover.box)
        assert (patch[20:60, 10:40] == patch[20, 10]).all() and (patch[:20] == crop[:20]).all()
        maps, _ = prediction.predict_crop(model, patch)
        peak = maps["regressor"][MPII.index("left_wrist")].max()
        assert f"→ {peak:.2f}" in cover.line.value

    def test_moving_the_patch_moves_the_maps_and_a_click_removes_it(self, cover):
        before = picture(cover)
        assert changed(cover, lambda: send(cover, box=[40, 60, 160, 200], done=False))
        left = pictures.SIDE + drawing.TILE_GAP
        assert (picture(cover) != before)[drawing.TITLE_HEIGHT :, left:].any()
        send(cover, box=[50, 70, 50, 70], done=True)
        assert (picture(cover) == before).all()

    def test_a_box_beyond_the_crop_ends_at_its_edge(self, cover):
        send(cover, box=[-50, -50, 5000, 5000], done=True)
        assert cover.box == (0, 0, SIZE, SIZE)

    def test_another_person_is_not_covered(self, cover):
        send(cover, box=[40, 60, 160, 200], done=True)
        send(cover, key="ArrowRight")
        assert cover.box is None and cover.place.value == 2

    def test_the_patch_goes_with_its_person_however_one_leaves(self, cover):
        send(cover, box=[40, 60, 160, 200], done=True)
        cover.place.value = 3
        assert cover.box is None
        plain = picture(cover)
        send(cover, box=[40, 60, 160, 200], done=True)
        assert (picture(cover) != plain).any()

    def test_nobody_is_said(self, model, people):
        for panel in (
            widgets.Cover(model, people[:0], SIZE),
            widgets.TargetExplorer(people[:0], SIZE, TARGETS),
        ):
            send(panel, key="ArrowRight")
            assert panel.line.value == "these people: found nobody, expected somebody to show"

    @pytest.mark.usefixtures("one_thread")  # several would wait for each other, and that counts
    def test_a_move_takes_less_than_half_a_second(self, cover):
        took = []
        for k in range(10):
            start = time.process_time()
            send(cover, box=[40 + k, 60, 160, 200], done=False)
            took.append(time.process_time() - start)
        print(f"a move's CPU time: median {1000 * np.median(took):.0f} ms")
        assert np.median(took) < 0.5


class TestTargetExplorer:
    def test_every_slider_draws_anew(self, people):
        panel = widgets.TargetExplorer(people, SIZE, TARGETS)
        moves = {
            "radius": 20.0,
            "sigma": 12.0,
            "angle": 30,
            "scale": 1.3,
            "mirrored": True,
            "place": 4,
            "joint": widgets.ALL,
        }
        for name, value in moves.items():
            assert changed(panel, put(getattr(panel, name), value)), name

    def test_a_mirrored_joint_is_told_as_it_is_in_the_crop(self, people):
        left, right = (MPII.index(f"{side}_wrist") for side in ("left", "right"))
        one = replace(people[:1], visibility=np.full((1, 16), VISIBLE, np.int8))
        one.visibility[0, left] = OCCLUDED
        panel = widgets.TargetExplorer(one, SIZE, TARGETS)
        panel.joint.value = left
        assert "left_wrist, occluded" in panel.draw()[1]
        panel.mirrored.value = True
        assert "left_wrist, visible" in panel.draw()[1]
        panel.joint.value = right
        assert "right_wrist, occluded" in panel.draw()[1]

    def test_the_pixels_are_those_of_the_targets(self, people):
        """A disc in the picture has the target's area, and half a cell of smooth edge at most."""
        joint = int(np.flatnonzero(people.visibility[0] == VISIBLE)[0])
        side = pictures.SIDE
        gap = drawing.TILE_GAP
        shown = np.asarray(pictures.target_picture(people, 0, SIZE, TARGETS, joint))
        shown = shown[drawing.TITLE_HEIGHT :, side + gap : 2 * side + gap]
        batch = torch.utils.data.default_collate([PoseDataset(people, SIZE)[0]])
        cells = TARGETS.detector(batch)[0][0, joint].sum().item()
        coloured = (np.ptp(shown.astype(int), axis=-1) > 40).sum()
        assert cells <= coloured / (4 * side / SIZE) ** 2 < (np.sqrt(cells) + 1) ** 2


def test_the_inspector_decodes_as_it_is_told(model, people, answer, monkeypatch):
    told = []
    maps = pictures.person_maps
    monkeypatch.setattr(
        pictures, "person_maps", lambda *given: told.append(given[3:]) or maps(*given)
    )
    widgets.Inspector(model, people, SIZE, answer, TARGETS, "argmax").draw()
    assert told == [("argmax",)]


class TestPhotograph:
    @pytest.fixture
    def panel(self, model, people, tmp_path):
        image = np.kron(people.images[0], np.ones((6, 6, 1), np.uint8))
        artifacts.write_bytes(tmp_path / "one.png", drawing.encode_png(image))
        return widgets.Photograph(photographs.PoseEstimator(model, SIZE), str(tmp_path / "one.png"))

    def test_it_says_what_predict_says(self, panel):
        whole = panel.estimator.predict(panel.path.value)
        assert panel.people == whole
        shown = picture(panel)
        zoom = 768 / shown.shape[1]
        assert max(shown.shape[0] / 500, shown.shape[1] / 600) == pytest.approx(1, abs=0.01)
        send(panel, box=[50, 60, 250, 400], done=False)
        assert panel.people == whole
        send(panel, box=[50, 60, 250, 400], done=True)
        box = [edge * zoom for edge in (50, 60, 250, 400)]
        assert panel.people == panel.estimator.predict(panel.path.value, [box])
        panel.look_at(None)
        assert panel.people == whole

    def test_only_joints_that_were_learned_are_counted(self, panel, model, monkeypatch):
        partly = photographs.PoseEstimator(model, SIZE, unlabelled=("pelvis", "thorax"))
        shown = widgets.Photograph(partly, panel.path.value)
        for joint in shown.people[0]["joints"].values():
            joint["confidence"] = 1.0
        people = shown.people
        monkeypatch.setattr(photographs.PoseEstimator, "predict", lambda *_: people)
        shown.look_at(None)
        assert shown.line.value.startswith("14 of 14 joints with a confidence of 0.3 or more")

    def test_the_pose_is_drawn_where_it_was_found(self, panel):
        """The white frame lies where the box lies in the image, enlarged or shrunk."""
        image = np.zeros((1000, 800, 3), np.uint8)
        joints = {
            name: {"x": 0.0, "y": 0.0, "confidence": 0.0, "detector_peak": 0.0}
            for name in MPII.names
        }
        for photo, box in ((image, [200, 300, 400]), (image[:100, :80], [20, 30, 40])):
            shown = np.asarray(pictures.photograph(photo, [{"box": box, "joints": joints}]))
            rows, columns = np.nonzero(shown.any(-1))
            zoom = shown.shape[0] / photo.shape[0]
            assert shown.shape[:2] == (500, 400)
            assert (
                abs(columns.min() - box[0] * zoom) <= 3
                and abs(columns.max() - (box[0] + box[2]) * zoom) <= 3
            )
            assert (
                abs(rows.min() - box[1] * zoom) <= 3
                and abs(rows.max() - (box[1] + box[2]) * zoom) <= 3
            )

    def test_what_cannot_be_read_is_said(self, panel, tmp_path):
        (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
        for path, found in (
            (tmp_path / "broken.jpg", "no image that can be read"),
            (tmp_path / "absent.jpg", "no such file"),
            ("", "found none, expected an upload"),
        ):
            panel.path.value = str(path)
            assert found in panel.line.value and panel.people == []
            assert picture(panel).shape == (60, 560, 3)
        send(panel, box=[50, 60, 250, 400], done=True)  # a drag over nothing

    def test_a_click_with_a_shaking_hand_is_a_click(self, panel):
        shown = picture(panel)
        send(panel, box=[100, 100, 104, 103], done=True)
        assert panel.box is None and len(panel.people) == 1
        assert picture(panel).shape == shown.shape

    def test_a_box_that_does_not_serve_leaves_the_photograph_in_sight(self, panel):
        shown = picture(panel)
        panel.look_at([5000, 5000, 5100, 5100])
        assert "found the box [5000" in panel.line.value and panel.people == []
        assert picture(panel).shape == shown.shape

    def test_one_goes_back_to_a_path_after_an_upload(self, panel, tmp_path):
        whole = panel.people
        path = panel.path.value
        grey = drawing.encode_png(np.full((90, 120, 3), 128, np.uint8))
        entry = {"name": "mine.png", "type": "image/png", "size": len(grey)}
        entry |= {"content": memoryview(grey), "last_modified": datetime.now()}
        for _ in range(2):
            panel.upload.value = (entry,)
            assert panel.image.shape == (90, 120, 3) and panel.path.value == ""
            panel.path.value = path
            assert panel.people == whole and panel.upload.value == ()

    def test_paths_and_pixels_no_system_takes_are_said(self, panel, tmp_path):
        import struct
        import zlib

        header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
        chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
        huge = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
        (tmp_path / "huge.png").write_bytes(huge)
        for path in (
            "~nosuchuser/x.png",
            "a\0b.png",
            "a" * 300 + ".png",
            str(tmp_path),
            str(tmp_path / "huge.png"),
        ):
            panel.path.value = path
            assert "expected" in panel.line.value and panel.people == [], path

    def test_an_upload_is_read_and_named(self, panel, tmp_path):
        data = (tmp_path / "one.png").read_bytes()
        entry = {
            "name": "mine.png",
            "type": "image/png",
            "size": len(data),
            "content": memoryview(data),
            "last_modified": datetime.now(),
        }
        before = panel.people
        panel.path.value = ""
        panel.upload.value = (entry,)
        assert panel.people == before
        panel.upload.value = (entry | {"content": memoryview(data[:100])},)
        assert "mine.png: found 100 bytes" in panel.line.value
        panel.upload.value = ()
        assert "found none, expected an upload" in panel.line.value

    def test_an_image_without_people_is_said(self, tmp_path, people):
        torch.manual_seed(0)
        quiet = photographs.PoseEstimator(
            cascade.Cascade(NETWORK).set_memory_format().eval(), SIZE
        )  # its maps are empty
        artifacts.write_bytes(
            tmp_path / "grey.png", drawing.encode_png(np.full((90, 120, 3), 128, np.uint8))
        )
        panel = widgets.Photograph(quiet, str(tmp_path / "grey.png"))
        assert panel.line.value.startswith("nobody found here")

    def test_a_broken_image_among_people_is_said(self, model, people, answer):
        class Broken:
            source = "broken"

            def crop(self, row, frame):
                raise BadInput(
                    "im0001.jpg", "3 bytes that are no readable image", "a JPEG or PNG image"
                )

        panel = widgets.Cover(model, replace(people, images=Broken()), SIZE)
        assert (
            panel.line.value
            == "im0001.jpg: found 3 bytes that are no readable image, expected a JPEG or PNG image"
        )


def test_no_panel_keeps_what_it_drew(inspector, cover):
    import psutil

    def moves(count):
        for k in range(count):
            inspector.joint.index = k % 17
            send(cover, box=[40 + k % 50, 60, 160, 200], done=False)

    moves(34)  # every joint twice: from then on it grows by a hundredth of a MiB
    before = psutil.Process().memory_info().rss
    moves(102)
    assert psutil.Process().memory_info().rss - before < 3 * 2**20


def test_selected_leaves_unknown_errors_last(people):
    predicted = people.joints.copy()
    predicted[:, :, 0] += (
        np.arange(12)[:, None] * people.normaliser[:, None] / 10.2
    )  # the fifth: 0.49, not just 0.5
    joint = MPII.index("left_knee")
    visibility = people.visibility.copy()
    visibility[:, joint] = VISIBLE
    visibility[7, joint] = ABSENT
    changed = replace(people, visibility=visibility)
    rows = probes.select_rows(predicted, changed, joint, order="largest error")
    assert rows[-1] == 7 and rows[:11].tolist() == [11, 10, 9, 8, 6, 5, 4, 3, 2, 1, 0]
    assert probes.select_rows(predicted, changed, joint, "wrong").tolist() == [6, 8, 9, 10, 11]
    assert probes.select_rows(predicted, changed, joint, "visible").tolist() == [
        k for k in range(12) if k != 7
    ]
    with pytest.raises(KeyError, match="somebody"):
        probes.select_rows(predicted, changed, joint, "somebody")
