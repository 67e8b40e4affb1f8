"""What is drawn on pixels: people, marks, maps, and the sheets that put them side by side."""

from dataclasses import replace

import numpy as np
import pytest
import small_runs
import torch
from PIL import ImageColor

from hpe_lib import cascade, heatmaps, stages, watched
from hpe_lib.data.datasets import People, open_data
from hpe_lib.data.images import ImageArrays
from hpe_lib.skeleton import ABSENT, MPII, OCCLUDED, VISIBLE, fill_torso
from hpe_lib.view import drawing, pictures, sheets
from hpe_lib.workbook import artifacts

RANDOM = np.random.default_rng(0)
CROP = np.zeros((16, 16, 3), np.uint8)
GREY = np.full((300, 300, 3), 128, np.uint8)


def person(confidence, **other):
    """Someone whose joints stand 20 px apart, with this confidence or that given by name."""
    return {
        "box": [0, 0, 110],
        "joints": {
            name: {
                "x": 20.0 + 20 * (row % 4),
                "y": 20.0 + 20 * (row // 4),
                "confidence": other.get(name, confidence),
            }
            for row, name in enumerate(MPII.names)
        },
    }


def extent(mask):
    """(left, top, right, bottom) of what is True."""
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max(), rows.max()


class TestPeople:
    def test_joints_are_filled_where_sure_and_hollow_where_not(self):
        image = np.full((110, 110, 3), 90, np.uint8)
        drawn = drawing.draw_people(image, [person(0.9, left_wrist=0.1, head_top=0.0)])
        at = {
            name: tuple(drawn[int(joint["y"]), int(joint["x"])])
            for name, joint in person(1)["joints"].items()
        }
        assert at["left_wrist"] == (255, 255, 255) and (image == 90).all()
        assert at["right_wrist"] == (213, 94, 0)
        assert at["left_elbow"] == (0, 114, 178) and at["thorax"] == (0, 158, 115)
        unknown = drawing.draw_people(image, [person(0.9, head_top=float("nan"))])
        left_out = drawing.draw_people(image, [person(0.9, head_top=0.0)])
        assert (unknown == left_out).all()
        assert (unknown != drawing.draw_people(image, [person(0.9, head_top=0.2)])).any()

    def test_sides_have_colours_and_shapes_of_their_own(self):
        assert [drawing.side_of(MPII.index(name)) for name in ("right_hip", "left_hip")] == [
            "right",
            "left",
        ]
        assert drawing.side_of(MPII.index("upper_neck")) == "middle"
        shapes = {side: drawing.marker_corners(side) for side in drawing.SIDE_COLOURS}
        assert [len(shapes[side]) for side in ("right", "left", "middle")] == [12, 4, 4]
        square = np.abs(shapes["left"])
        diamond = np.abs(shapes["middle"])
        assert np.allclose(square, np.sqrt(0.5)) and np.allclose(diamond.sum(1), 1)
        assert len(set(drawing.SIDE_COLOURS.values())) == 3

    def test_lines_grow_with_the_image(self):
        def count(size):
            big = person(0.9) | {"box": [0, 0, size]}
            drawn = drawing.draw_people(np.zeros((size, size, 3), np.uint8), [big])
            return (drawn != 0).any(-1).sum()

        assert count(1100) > 3 * count(110)

    def test_torso_without_pelvis_and_thorax(self):
        """A network trained on LSP never learns these two: its torso is drawn all the same."""
        image = np.zeros((110, 110, 3), np.uint8)
        learned = drawing.draw_people(image, [person(0.9, pelvis=0.0, thorax=0.0)])
        hips = np.array([70, 20])
        shoulders = np.array([30, 80])  # between (60, 20) and (80, 20), …
        x, y = (hips + shoulders) // 2
        assert tuple(learned[y, x]) == (0, 158, 115)
        missing = np.full((16, 2), np.nan)
        assert np.isnan(fill_torso(missing)).all()

    def test_what_is_absent_is_not_drawn(self):
        joints = RANDOM.uniform(2, 13, (16, 2))
        visibility = np.full(16, ABSENT)
        sheet = sheets.contact_sheet(GREY[None], joints[None], visibility[None], columns=1)
        tile = np.asarray(sheet)[drawing.TITLE_HEIGHT : drawing.TITLE_HEIGHT + 1080]
        assert (tile == 128).all()

    def test_limbs_of_occluded_joints_are_thin_and_their_marks_hollow(self):
        joints = np.full((1, 16, 2), np.nan)
        counts = []
        joints[0, MPII.index("left_elbow")] = 20, 20
        joints[0, MPII.index("left_wrist")] = 80, 20
        for wrist in (VISIBLE, OCCLUDED):
            states = np.full((1, 16), VISIBLE)
            states[0, MPII.index("left_wrist")] = wrist
            sheet = sheets.contact_sheet(GREY[None, :100, :100], joints, states, columns=1)
            shown = np.asarray(sheet)[drawing.TITLE_HEIGHT :].astype(int)
            blue = shown[..., 2] - shown[..., 0] > 60
            center = np.round((np.array([80, 20]) + 0.5) * 10.8 - 0.5).astype(int)
            counts.append((blue[:, 540].sum(), blue[center[1], center[0]]))
        assert counts[0][0] > counts[1][0] > 0
        assert counts[0][1] and not counts[1][1]

    def test_the_truth_is_black_below_the_prediction(self):
        joints = RANDOM.uniform(20, 280, (1, 16, 2))
        arguments = (GREY[None], joints, np.full((1, 16), VISIBLE))
        plain, both = (
            (np.asarray(sheets.contact_sheet(*arguments, columns=1, truth=truth)) == 0).all(-1)
            for truth in (None, joints + 5)
        )
        assert both[drawing.TITLE_HEIGHT : -40].sum() > plain[drawing.TITLE_HEIGHT : -40].sum()


class TestMaps:
    def test_a_hot_cell_is_drawn_over_the_pixels_it_covers(self):
        heat = np.zeros((4, 4))
        heat[1, 2] = 1  # row 1, column 2
        shown = drawing.draw_map(CROP, heat).astype(int)
        left, top, right, bottom = extent(np.ptp(shown, axis=-1) > 40)
        assert (left + right, top + bottom) == (19, 11) and right - left < 8
        point, _ = heatmaps.decode(torch.from_numpy(heat).float()[None, None], "argmax")
        assert heatmaps.from_map(point, 4).flatten().tolist() == [9.5, 5.5]  # the middle of these

    def test_maps_are_enlarged_smoothly(self):
        heat = np.zeros((4, 4))
        heat[1, 2] = 1
        shown = drawing.draw_map(np.zeros((256, 256, 3), np.uint8), heat, opacity=1.0)
        assert np.abs(np.diff(shown[96].astype(int), axis=0)).max() < 30  # no step between cells

    def test_the_crop_is_grey_where_the_map_is_empty_and_yellow_at_the_top(self):
        image = RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        heat = np.zeros((8, 8))
        heat[:4, 4:] = 0.5
        shown = drawing.draw_map(image, heat, top=0.5, opacity=1.0)
        grey = np.rint(90 + 0.6 * image.mean(-1))
        assert np.abs(shown[4:] - grey[4:, :, None]).max() <= 1
        assert (np.ptp(shown[4:], axis=-1) == 0).all()
        assert (shown[:4, 4:] == drawing.HEAT[-1]).all() and drawing.HEAT[-1][2] < 200
        signed = drawing.draw_map(image, -heat, top=0.5, opacity=1.0, signed=True)
        assert (signed[0, 7] == ImageColor.getrgb(drawing.LESS)).all()
        signed = drawing.draw_map(image, heat, top=0.5, opacity=1.0, signed=True)
        assert (signed[0, 7] == ImageColor.getrgb(drawing.MORE)).all()

    def test_marks_sit_on_the_joint(self):
        """Ring and cross are where the pixel-centre rule puts the joint in the enlarged crop."""
        plain = np.full((64, 64, 3), 100, np.uint8)
        for point in (np.array((20.0, 40.0)), np.array((33.25, 10.5))):
            ring = drawing.mark_joint(plain, 256, point, VISIBLE)
            cross = drawing.mark_joint(plain, 256, point, ABSENT, point)
            for picture in (ring, cross):
                left, top, right, bottom = extent((picture != 100).any(-1))
                middle = np.array([left + right, top + bottom]) / 2
                assert np.abs(middle - ((point + 0.5) * 4 - 0.5)).max() <= 0.75
        point = np.array((20.0, 40.0))
        dashed, solid = (
            (drawing.mark_joint(plain, 256, point, state) != 100).any(-1).sum()
            for state in (OCCLUDED, VISIBLE)
        )
        assert 0.3 < dashed / solid < 0.9


def test_limbs_to_a_midpoint_that_nobody_labels_are_as_thick_as_its_pair_is_visible():
    """LSP labels neither pelvis nor thorax."""
    joints = np.random.default_rng(0).uniform(20, 108, (16, 2))
    without = joints.copy()
    hips = [MPII.index(f"{side}_hip") for side in ("left", "right")]
    shoulders = [MPII.index(f"{side}_shoulder") for side in ("left", "right")]
    for middle, pair in (("pelvis", hips), ("thorax", shoulders)):
        joints[MPII.index(middle)] = joints[pair].mean(0)
        without[MPII.index(middle)] = np.nan
    drawn = []
    for points, hidden in ((joints, []), (without, []), (without, hips)):
        solid = np.isfinite(points).all(1)
        solid[hidden] = False
        image = np.zeros((128, 128, 3), np.uint8)
        drawing.draw_limbs(image, points, solid, 6)
        drawn.append(image)
    labelled, filled, hidden = drawn
    assert (labelled == filled).all() and (hidden > 0).sum() < (filled > 0).sum()


def test_joint_maps_share_the_scale_of_their_row():
    maps = np.zeros((16, 4, 4))
    maps[0, 0, 0] = 0.5
    maps[1, 0, 0] = 0.25
    states = np.full(16, ABSENT)
    rows = {"detector": maps, "regressor": maps / 4}
    sheet = np.asarray(pictures.joint_maps(CROP, rows, [0, 1], np.zeros((16, 2)), states))
    head = 2 * drawing.TITLE_HEIGHT
    strong, weak = (sheet[head + 5, x].astype(int) for x in (5, 203))
    assert strong.sum() > weak.sum() and np.ptp(strong) > 60
    tiles = [sheet[y : y + 192, :390] for y in (head, 2 * head + 192 + drawing.TILE_GAP)]
    assert (tiles[0] == tiles[1]).all(), "a row's colours do not depend on the other's heights"


class TestSheets:
    def test_tiles_stand_below_their_titles(self):
        tiles = [np.full((20, 30, 3), value, np.uint8) for value in (10, 20, 30)]
        head = 2 * drawing.TITLE_HEIGHT
        gap = drawing.TILE_GAP
        sheet = np.asarray(drawing.tile_images(tiles, ["a\nb", "c", "d"], 2, caption="below"))
        assert sheet.shape == (2 * (head + 20) + gap + drawing.TITLE_HEIGHT, 2 * 30 + gap, 3)
        for value, (x, y) in zip((10, 20, 30), ((0, 0), (1, 0), (0, 1))):
            top = head + y * (head + 20 + gap)
            left = x * (30 + gap)
            assert (sheet[top : top + 20, left : left + 30] == value).all()
        assert sheet[-drawing.TITLE_HEIGHT :].min() < 100  # words

    def test_the_window_on_the_image_is_what_the_frame_cuts_out(self):
        one = np.ones(1)
        people = People(
            dataset="drawn",
            keys=np.array(["a"]),
            images=ImageArrays([RANDOM.integers(0, 255, (40, 60, 3), np.uint8)], "made"),
            joints=RANDOM.uniform(0, 40, (1, 16, 2)),
            visibility=np.full((1, 16), VISIBLE, np.int8),
            center=np.array([[30.0, 20.0]]),
            side=32 * one,
            body=24 * one,
            normaliser=3 * one,
            metric="PCKh@0.5",
            occlusion_labels=True,
        )
        frame = people.frame(0, 16)
        frames = {"frame": frame, "turned": frame.augmented(0.8, 30, True)}
        sheet = np.asarray(sheets.frame_sheet(people, 0, frames))
        side = pictures.SIDE
        assert sheet.shape[1] == 3 * side + 2 * drawing.TILE_GAP
        whole = sheet[drawing.TITLE_HEIGHT :, :side]
        yellow = (whole == ImageColor.getrgb(drawing.YELLOW)).all(-1)
        expected = np.array([0.15, 0.15, 0.85, 0.85]) * side - 0.5  # centre ± 0.7 / 2 of the sheet
        assert np.abs(np.array(extent(yellow)) - expected).max() <= 2

    def test_the_regressor_s_input_is_shown_in_grey(self):
        channels = np.zeros((19, 16, 16))
        channels[0] = 2.0
        channels[1] = 1.0
        channels[16, 0] = -1.0
        sheet = np.asarray(sheets.channel_sheet(channels, np.full(16, VISIBLE)))
        row = drawing.TITLE_HEIGHT + 70
        step = 144 + drawing.TILE_GAP
        assert [sheet[row, 70 + k * step, 0] for k in range(3)] == [255, 127, 0]

    def test_a_cloud_is_darker_where_more_people_have_the_joint(self):
        joints = np.full((3, 16, 2), np.nan)
        joints[:, 0] = (5, 5)
        joints[0, 0] = (10, 5)  # right ankles
        shown = np.asarray(sheets.pose_cloud(joints, np.full((16, 2), np.nan), 16)).astype(int)
        zoom = len(shown) // 16
        one, two, none = (shown[5 * zoom + 3, x * zoom + 3].sum() for x in (10, 5, 12))
        assert two < one < none == 765

    def test_a_stage_of_no_epochs_has_nothing_to_show_and_says_so(self):
        assert np.asarray(pictures.epoch_sheet([])).min() < 100  # words

    def test_nine_epochs_at_most_the_first_and_the_last_among_them(self):
        epochs = [
            {
                "stage": "detector",
                "epoch": epoch,
                "crops": np.zeros((2, 16, 16, 3), np.uint8),
                "maps": np.full((2, 16, 4, 4), epoch / 20),
            }
            for epoch in range(1, 21)
        ]
        many = pictures.epoch_sheet(epochs)
        few = pictures.epoch_sheet(epochs[:3])
        assert many.width == 9 * 120 + 8 * drawing.TILE_GAP
        assert few.width == 3 * 160 + 2 * drawing.TILE_GAP


class TestWatched:
    """The maps that `epoch_sheet` shows, as a training keeps them."""

    @pytest.fixture
    def run(self, tmp_path):
        usual = {"radius": 10.0, "sigma": 5.0, "occluded": "empty"}
        small_runs.prepare(tmp_path / "run", usual, train="1-16", val="101-108", image_size=32)
        return tmp_path / "run"

    PARAMETERS = small_runs.DETECTOR | small_runs.STILL
    PARAMETERS |= {"epochs": 2, "batch_size": 8, "lr": 1e-3, "first": "detection", "first_sees": ""}

    def test_they_are_the_maps_of_that_epoch(self, run):
        list(stages.train("detector", run, self.PARAMETERS))
        last = watched.read(run / "detector")[-1]
        model = cascade.load(run / "detector")
        val = open_data(run).val[: watched.COUNT]
        with torch.no_grad():
            maps = model.confidence(model(torch.from_numpy(val.crops(32))).detector).numpy()
        assert (last["crops"] == val.crops(32)).all() and last["maps"].shape == maps.shape
        assert np.abs(last["maps"] - maps).max() < 1e-3  # kept as halves
        assert [epoch["epoch"] for epoch in watched.read(run / "detector")] == [1, 2]

    def test_a_joint_that_nobody_labels_is_left_empty(self, run):
        val = open_data(run).val
        hidden = val.visibility.copy()
        hidden[:, 6] = ABSENT
        model = cascade.Cascade({"trunk": "slim", "map_stride": 4, "first": "detection"})
        watched.write(run / "detector", 1, model, replace(val, visibility=hidden), 32)
        tops = watched.read(run / "detector")[0]["maps"].max((0, 2, 3))
        assert tops[6] == 0 and (np.delete(tops, 6) > 0).all()

    def test_a_line_that_is_just_being_written_waits(self, run):
        records = list(stages.train("detector", run, self.PARAMETERS))
        with open(run / "detector" / "history.jsonl", "a") as lines:
            lines.write('{"stage": "detector", "epoch": 3')
        (run / "detector" / "watched" / "notes.npz").write_text("somebody's own")
        assert len(artifacts.read_history(run / "detector")) == len(records) == 2
        assert len(watched.read(run / "detector")) == 2
