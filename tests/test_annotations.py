import json

import h5py
import numpy as np
import pytest
import scipy.io

from hpe_lib.data import annotations
from hpe_lib.skeleton import ABSENT, LSP_NAMES, LSP_ROWS, MPII, OCCLUDED, VISIBLE
from hpe_lib.workbook.artifacts import BadInput

EMPTY = np.zeros((0, 0))


def struct(*records):
    """A MATLAB struct array: all records have the first one's fields."""
    array = np.empty((1, len(records)), [(name, object) for name in records[0]])
    for column, record in enumerate(records):
        array[0, column] = tuple(record.values())
    return array


def point(row, x, y, **visible):
    return {"x": x, "y": y, "id": np.uint8(row), **visible}


def rectangle(points, box=(10, 20, 90, 80), scale=1.5, objpos=(50, 60)):
    return {
        **dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
        "scale": scale,
        "objpos": struct({"x": objpos[0], "y": objpos[1]}),
        "annopoints": struct({"point": struct(*points)}) if points else EMPTY,
    }


def release(path, *rectangles, names=None, train=None, acts=None):
    """A file in MPII's official layout: one argument an image, what its annorect holds."""
    names = names or [f"{n}.jpg" for n in range(len(rectangles))]
    images = [
        {"image": struct({"name": name}), "annorect": annorect, "vididx": EMPTY}
        for name, annorect in zip(names, rectangles, strict=True)
    ]
    acts = struct(
        *[{"cat_name": EMPTY, "act_name": act} for act in acts or [EMPTY] * len(images)]
    ).T
    scipy.io.savemat(
        path,
        {
            "RELEASE": struct(
                {
                    "annolist": struct(*images),
                    "act": acts,
                    "version": "12",
                    "img_train": np.array([train or [1] * len(images)], np.uint8),
                }
            )
        },
    )
    return path


def joints_of(people, row, name):
    return people.joints[row, MPII.index(name)].tolist(), people.visibility[row, MPII.index(name)]


# ---- MPII, the official layout


def test_quirks_of_the_official_layout(tmp_path):
    """Unordered points, numbers of all types, and a head-top above the image; is_visible may be
    a number, a text, empty or absent; rectangles without points or without the field for them,
    and images without rectangles."""
    many = [
        point(9, 30.5, -14.25, is_visible=EMPTY),
        point(0, np.uint16(300), np.uint8(200), is_visible="0"),
        point(15, np.int16(-3), 7, is_visible=np.uint8(1)),
        point(10, 8, 9.0, is_visible="1"),
        point(11, 5, 6, is_visible=0.0),
        point(1, np.nan, 4, is_visible=1),
    ]
    bare = dict.fromkeys(("x1", "y1", "x2", "y2", "scale", "objpos", "annopoints"), EMPTY)
    few = [point(0, 1, 2), point(6, 0, 0)]
    found = annotations.mpii_official(
        release(
            tmp_path / "a.mat",
            struct(bare, rectangle(many)),
            EMPTY,
            struct({"scale": 1.0}),
            struct(rectangle(few)),
            train=[1, 1, 0, 0],
            acts=[EMPTY, EMPTY, EMPTY, "walking"],
        )
    )
    assert (
        list(found.image) == ["0.jpg", "3.jpg"] and list(found.person) == [2, 1] and len(found) == 2
    )
    assert list(found.train) == [True, False]
    assert found.skipped == {"rectangles without points": 2} and found.occlusion_labels
    assert joints_of(found, 0, "head_top") == ([30.5, -14.25], VISIBLE)
    assert joints_of(found, 0, "right_ankle") == ([300, 200], OCCLUDED)
    assert joints_of(found, 0, "left_wrist") == ([-3, 7], VISIBLE)
    assert joints_of(found, 0, "right_wrist") == ([8, 9], VISIBLE)
    assert joints_of(found, 0, "right_elbow") == ([5, 6], OCCLUDED)
    assert joints_of(found, 1, "right_ankle") == ([1, 2], VISIBLE)
    assert joints_of(found, 1, "pelvis") == ([0, 0], VISIBLE)  # a place like any other
    assert (found.visibility != ABSENT).sum(1).tolist() == [5, 2]
    assert (np.isnan(found.joints).all(-1) == (found.visibility == ABSENT)).all()
    assert found.head_size == pytest.approx(60) and found.scale == pytest.approx(
        1.5
    )  # 0.6 · the diagonal of 80 × 60
    assert found.center.tolist() == [[50, 60]] * 2


def test_rows_may_be_chosen(tmp_path):
    people = annotations.mpii_official(
        release(tmp_path / "a.mat", *[struct(rectangle([point(0, n, 0)])) for n in range(4)])
    )
    for rows in (slice(1, 3), [1, 2], np.array([False, True, True, False])):
        some = people[rows]
        assert (
            len(some) == 2
            and list(some.image) == ["1.jpg", "2.jpg"]
            and some.joints[:, 0, 0].tolist() == [1, 2]
        )


def test_nobody_annotated_or_unknown_joints(tmp_path):
    with pytest.raises(BadInput, match="2 rectangles, none with points"):
        annotations.mpii_official(
            release(tmp_path / "a.mat", struct(rectangle([])), struct(rectangle([])))
        )
    with pytest.raises(BadInput, match="joint id 16"):
        annotations.mpii_official(release(tmp_path / "a.mat", struct(rectangle([point(16, 1, 1)]))))


# ---- MPII, the copies


def newell(path, image, person, joints=None, **values):
    count = len(image)
    joints = np.arange(count * 32.0).reshape(count, 16, 2) + 1 if joints is None else joints
    with h5py.File(path, "w") as file:
        file["imgname"] = np.array(image, "S")
        file["person"] = np.array(person, float)
        file["part"] = joints
        for name, value in {
            "visible": np.ones((count, 16)),
            "normalize": np.full(count, 60.0),
            "scale": np.ones(count),
            "center": np.zeros((count, 2)),
            **values,
        }.items():
            file[name] = value
    return path


def test_what_an_hdf5_file_lacks_is_said_in_plain_words(tmp_path):
    path = newell(tmp_path / "numbers.h5", ["a.jpg"], [0])
    with h5py.File(path, "r+") as file:
        del file["imgname"]
        file["imgname"] = np.arange(1.0)
    for call in (
        lambda: annotations.mpii_truth(path),
        lambda: annotations.mpii_truth(newell(tmp_path / "t.h5", ["a.jpg"], [0]), path),
    ):
        with pytest.raises(BadInput, match="imgname holds no names of images"):
            call()
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["preds"] = h5py.Empty("f")
    with pytest.raises(BadInput, match=r"expected .* \(1, 16, 2\)|expected .*numeric array"):
        annotations.predictions(tmp_path / "empty.h5", (1,), (16,), whose="MPII")


def test_newell_s_rows_select_and_reorder_an_official_file(tmp_path):
    """Rectangles count from 0 there and from 1 here, those without points count too."""
    truth = release(
        tmp_path / "a.mat",
        struct(rectangle([]), rectangle([point(0, 1, 1)])),
        struct(rectangle([point(0, 2, 2)]), rectangle([point(0, 3, 3)])),
    )
    rows = newell(tmp_path / "rows.h5", ["1.jpg", "0.jpg"], [1, 1])
    found = annotations.mpii_truth(truth, rows)
    assert found.joints[:, 0, 0].tolist() == [3, 1] and list(found.person) == [2, 2]
    with pytest.raises(BadInput, match=r"1 of the 2 people of .*absent, first person 1 of 0.jpg"):
        annotations.mpii_truth(truth, newell(tmp_path / "rows.h5", ["1.jpg", "0.jpg"], [1, 0]))


def test_who_or_what_is_there_twice_is_refused(tmp_path):
    twice = struct(rectangle([point(0, 1, 1), point(3, 2, 2), point(3, 9, 9)]))
    with pytest.raises(BadInput, match=r"a.mat: found joint id 3 twice in one rectangle, exp"):
        annotations.mpii_official(release(tmp_path / "a.mat", twice))
    once = struct(rectangle([point(0, 1, 1)]))
    repeated = release(tmp_path / "b.mat", once, once, names=["x.jpg", "x.jpg"])
    with pytest.raises(BadInput, match=r"b.mat: found person 1 of x.jpg 2 times, expected a .mat"):
        annotations.mpii_official(repeated)
    repeated = newell(tmp_path / "b.h5", ["x.jpg"] * 2, [0, 0])
    with pytest.raises(BadInput, match=r"b.h5: found person 1 of x.jpg 2 times, expected a truth"):
        annotations.mpii_truth(repeated, newell(tmp_path / "rows.h5", ["x.jpg"], [0]))
    rows = newell(tmp_path / "rows.h5", ["x.jpg", "y.jpg", "x.jpg"], [0, 0, 0])
    with pytest.raises(BadInput, match=r"rows.h5: found person 1 of x.jpg 2 times, expected an"):
        annotations.mpii_rows(rows)


@pytest.mark.parametrize("person", [0.7, -1, np.nan])
def test_a_list_numbers_its_people_with_whole_numbers(tmp_path, person):
    rows = newell(tmp_path / "rows.h5", ["x.jpg"], [person])
    with pytest.raises(BadInput, match=r"person holds others than whole numbers from 0, expected"):
        annotations.mpii_rows(rows)


def test_a_truth_beside_predictions_with_confidences_is_not_scored_instead(tmp_path):
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["preds"] = np.zeros((7, 16, 3))
        file["gt"] = np.ones((7, 16, 2))
    with pytest.raises(
        BadInput, match=r"gt \(7, 16, 2\), preds \(7, 16, 3\), which can be read in 2"
    ):
        annotations.predictions(tmp_path / "p.h5", 7)


def test_a_truth_beside_cells_that_do_not_fit_together_is_not_scored_instead(tmp_path):
    """Somebody of whom nothing was predicted has an empty cell."""
    cells = np.empty((1, 7), object)
    cells[0] = list(GUESS)
    cells[0, 4] = np.empty((0, 0))
    refused(
        mat(tmp_path / "p.mat", preds=cells, gt=GUESS), "preds, cells of shapes (0, 0), (16, 2)"
    )
    short = cells[:, :5]  # of others than the people
    assert (
        annotations.predictions(mat(tmp_path / "p.mat", other=short, p=GUESS), 7) == GUESS
    ).all()


def test_what_else_a_file_keeps_does_not_matter(tmp_path):
    """Empty structs, texts and references that lead nowhere beside the predictions."""
    named = np.empty((1, 1), object)
    named[0, 0] = {"method": "hg8"}
    path = mat(tmp_path / "p.mat", preds=GUESS, args={}, made=named)
    assert (annotations.predictions(path, 7) == GUESS).all()
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["preds"] = GUESS
        file.create_dataset("by", data=np.array([b"me"], object), dtype=h5py.string_dtype())
        file.create_dataset("nowhere", (2,), dtype=h5py.ref_dtype)
    assert (annotations.predictions(tmp_path / "p.h5", 7) == GUESS).all()


def test_who_is_there_twice_is_counted_by_name():
    images = np.array(["b.jpg", "a.jpg", "b.jpg", "a.jpg", "b.jpg"])
    assert annotations.repeated(images, np.ones(5, int)) == "person 1 of a.jpg 2 times"


def test_visible_that_is_no_number_is_refused(tmp_path):
    visible = np.ones((1, 16))
    visible[0, 5] = np.nan
    with pytest.raises(BadInput, match=r"found NaN in visible, expected"):
        annotations.mpii_truth(newell(tmp_path / "a.h5", ["x.jpg"], [0], visible=visible))


def test_newell_s_missing_joints_are_at_zero_and_his_invisible_ones_occluded(tmp_path):
    joints = np.full((1, 16, 2), 5.0)
    visible = np.ones((1, 16))
    joints[0, 3] = 0
    joints[0, 4] = (0, 7)
    visible[0, [3, 5]] = 0
    found = annotations.mpii_truth(
        newell(tmp_path / "v.h5", ["x.jpg"], [0], joints, visible=visible)
    )
    assert (
        found.visibility[0, 3:6].tolist() == [ABSENT, VISIBLE, OCCLUDED]
        and np.isnan(found.joints[0, 3]).all()
    )
    assert (
        found.joints[0, 4].tolist() == [0, 7] and found.head_size == [60] and found.occlusion_labels
    )


def test_json_gives_head_sizes_by_scale_and_no_occlusion(tmp_path):
    person = {
        "joints": [[4.0, 5.0]] * 15 + [[-1.0, -1.0]],
        "joints_vis": [1] * 15 + [0],
        "image": "x.jpg",
        "scale": 2.4,
        "center": [7.0, 8.0],
    }
    (tmp_path / "a.json").write_text(json.dumps([person]))
    found = annotations.mpii_truth(tmp_path / "a.json")
    assert (
        found.head_size == pytest.approx(60)
        and not found.occlusion_labels
        and list(found.image) == ["x.jpg"]
    )
    assert (
        found.visibility[0].tolist() == [VISIBLE] * 15 + [ABSENT]
        and np.isnan(found.joints[0, 15]).all()
    )
    with pytest.raises(BadInput, match="names its images and holds these people"):
        annotations.mpii_truth(tmp_path / "a.json", newell(tmp_path / "rows.h5", ["x.jpg"], [0]))
    (tmp_path / "a.json").write_text(json.dumps([person, person]))  # two people of one image
    with pytest.raises(BadInput, match="found people without a number in their image, expected a"):
        annotations.mpii_truth(tmp_path / "a.json", newell(tmp_path / "rows.h5", ["x.jpg"], [0]))


def test_tompson_s_arrays(tmp_path):
    joints = np.random.default_rng(0).uniform(0, 99, (16, 2, 3))
    missing = np.zeros((16, 3), np.uint8)
    missing[4, 1] = 1
    boxes = np.broadcast_to(np.array([[10, 20], [90, 80]])[..., None], (2, 2, 3))
    scipy.io.savemat(
        tmp_path / "t.mat", {"pos_gt_src": joints, "jnt_missing": missing, "headboxes_src": boxes}
    )
    found = annotations.mpii_truth(tmp_path / "t.mat")
    assert found.head_size.tolist() == [60] * 3 and not found.occlusion_labels
    assert found.joints[2, 7].tolist() == joints[7, :, 2].tolist()
    assert np.argwhere(found.visibility == ABSENT).tolist() == [[1, 4]]


# ---- Leeds Sports Pose


@pytest.mark.parametrize(
    "original, expected", [(True, {0: VISIBLE, 1: OCCLUDED}), (False, {0: ABSENT, 1: VISIBLE})]
)
def test_lsp_and_lspet_are_told_apart_by_shape(tmp_path, original, expected):
    """The third value has opposite senses.

    (3, 14, 14) and (14, 3, 3) are no riddle: the first two axes decide.
    """
    joints = np.random.default_rng(0).uniform(1, 99, (14 if original else 3, 14, 3))
    joints[..., 2] = np.arange(14) % 2
    scipy.io.savemat(
        tmp_path / "joints.mat", {"joints": joints.transpose((2, 1, 0) if original else (1, 2, 0))}
    )
    found = annotations.lsp(tmp_path / "joints.mat")
    for row, name in enumerate(LSP_NAMES):
        assert (found.visibility[:, MPII.index(name)] == expected[row % 2]).all()
        if expected[row % 2] != ABSENT:
            assert (found.joints[:, MPII.index(name)] == joints[:, row, :2]).all()
    assert found.occlusion_labels == original and found.image[0] == (
        "im0001.jpg" if original else "im00001.jpg"
    )
    assert (found.visibility[:, [MPII.index("pelvis"), MPII.index("thorax")]] == ABSENT).all()


def test_lsp_must_be_whole(tmp_path):
    joints = np.ones((3, 14, 5))
    joints[0, 2, 1] = np.nan
    joints[2] = 0
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": joints})
    with pytest.raises(BadInput, match="NaN or infinity in 1 people, first person 2, right_hip"):
        annotations.lsp(tmp_path / "joints.mat")
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": np.full((3, 14, 5), 2)})
    with pytest.raises(BadInput, match=r"flags \[2.\], expected flags 0 and 1"):
        annotations.lsp(tmp_path / "joints.mat")


def test_lsp_files_are_read_in_their_own_sense(test_data):
    for name in ("lsp/lsp-joints-PC.mat", "lsp/lsp-joints-OC.mat"):
        found = annotations.lsp(test_data / name)
        occluded = (found.visibility == OCCLUDED)[:, LSP_ROWS].mean()
        assert (
            len(found) == 2000
            and found.train.sum() == 1000
            and occluded == pytest.approx(0.073, abs=5e-4)
        )
    extended = annotations.lsp(test_data / "lspet" / "joints.mat")
    assert (extended.visibility == VISIBLE)[:, LSP_ROWS].mean() == pytest.approx(0.88, abs=0.005)
    assert extended.train.all() and not (extended.visibility == OCCLUDED).any()


# ---- predictions


GUESS = np.random.default_rng(0).integers(0, 200, (7, 16, 2))


def hdf5(path, array, matlab=False):
    """An .h5 file, or a .mat of version 7.3: HDF5 behind 512 bytes of MATLAB's, axes in reverse."""
    with h5py.File(path, "w", userblock_size=512 if matlab else 0) as file:
        file["whatever"] = array.T if matlab else array
        if matlab:
            file["whatever"].attrs["MATLAB_class"] = np.bytes_("double")
    if matlab:
        with open(path, "r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


def mat(path, **arrays):
    scipy.io.savemat(path, arrays)
    return path


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("kind", ["mat", "v7.3", "h5"])
@pytest.mark.parametrize("joints", [16, 14])
def test_predictions_of_any_layout(tmp_path, axes, kind, joints):
    array = (GUESS if joints == 16 else GUESS[:, LSP_ROWS]).transpose(axes)
    path = tmp_path / "p"
    path = (
        mat(path.with_suffix(".mat"), anything=array)
        if kind == "mat"
        else hdf5(path, array, kind == "v7.3")
    )
    found = annotations.predictions(path, 7, (14, 16))
    assert found.dtype == float and (found[:, LSP_ROWS] == GUESS[:, LSP_ROWS]).all()
    assert np.isnan(found[:, [6, 7]]).all() if joints == 14 else (found == GUESS).all()


@pytest.mark.parametrize("number", ["uint8", "int16", "int64", "float32", "float64", ">f4", ">i2"])
def test_predictions_of_any_number_type(tmp_path, number):
    for path in (
        mat(tmp_path / "p.mat", p=GUESS.astype(number)),
        hdf5(tmp_path / "p.h5", GUESS.astype(number)),
    ):
        assert (annotations.predictions(path, 7) == GUESS).all()


def test_predictions_in_cells_structs_and_groups(tmp_path):
    cells = np.empty((1, 7), object)
    cells[0] = list(GUESS)
    small = np.empty((1, 7), object)  # whole numbers as MATLAB stores them
    small[0] = [person.astype(np.uint8 if row else np.int16) for row, person in enumerate(GUESS)]
    found = annotations.predictions(mat(tmp_path / "p.mat", value=small), 7)
    assert (found == GUESS.astype(np.uint8)).all()
    for value in (
        cells,
        {"scores": np.ones(7), "inner": {"xy": GUESS}},
        struct(*[{"xy": person} for person in GUESS]),
    ):
        assert (annotations.predictions(mat(tmp_path / "p.mat", value=value), 7) == GUESS).all()
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["a/b/xy"] = GUESS
        file["a/score"] = np.ones(7)
        file["name"] = "text"
    assert (annotations.predictions(tmp_path / "p.h5", 7) == GUESS).all()


def test_one_person_as_matlab_keeps_it(tmp_path):
    """Without its last axis, of 1; a cell of one person is that person's array."""
    alone = GUESS[:1]
    cell = np.empty((1, 1), object)
    cell[0, 0] = alone[0]
    for value in (alone[0].T, alone[0], cell):
        assert (annotations.predictions(mat(tmp_path / "p.mat", xy=value), 1) == alone).all()
    refused(mat(tmp_path / "p.mat", xy=alone[0]), "xy (16, 2)")
    joints = np.ones((3, 14))
    joints[2] = 0
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": joints})
    found = annotations.lsp(tmp_path / "joints.mat")
    assert len(found) == 1 and (found.visibility[0, LSP_ROWS] == VISIBLE).all()


def refused(path, *parts, count=7, joints=16):
    with pytest.raises(BadInput) as error:
        annotations.predictions(path, count, joints)
    line = str(error.value)
    assert (
        "\n" not in line
        and len(line) < 700
        and all(part in line for part in (path.name, "expected", *parts))
    ), line


def test_predictions_that_could_be_read_in_two_ways(tmp_path):
    """16 people: which 16 is which? Two arrays that fit: which one?"""
    square = np.zeros((16, 16, 2))
    refused(
        mat(tmp_path / "p.mat", xy=square), "xy (16, 16, 2), which can be read in 2 ways", count=16
    )
    refused(
        mat(tmp_path / "p.mat", xy=square[:14, :14]), "xy (14, 14, 2)", count=14, joints=(14, 16)
    )
    refused(
        mat(tmp_path / "p.mat", one=GUESS, two=GUESS + 1),
        "one (7, 16, 2), two (7, 16, 2)",
        "2 ways",
    )
    assert annotations.predictions(
        mat(tmp_path / "p.mat", xy=square[:, :14]), 16, (14, 16)
    ).shape == (16, 16, 2)


def test_predictions_that_do_not_fit(tmp_path):
    refused(mat(tmp_path / "p.mat", p=GUESS[:6], n=3), "p (6, 16, 2)", "(7, 16, 2)")
    refused(mat(tmp_path / "p.mat", p=GUESS[:, :15]), "p (7, 15, 2)")
    refused(mat(tmp_path / "p.mat", p="text"), "no numeric array")
    for matlab in (False, True):  # the shape is said as its owner knows it
        refused(hdf5(tmp_path / "p.h5", np.zeros((7, 16, 3)), matlab), "whatever (7, 16, 3)")
    ragged = np.empty(7, object)
    ragged[:] = [np.ones((n, 2)) for n in range(7)]
    refused(mat(tmp_path / "p.mat", p=ragged, q=np.array([{}, 1], object)))


def test_files_that_cannot_be_read(tmp_path):
    whole = [
        mat(tmp_path / "a.mat", p=GUESS),
        hdf5(tmp_path / "a.h5", GUESS),
        hdf5(tmp_path / "b.mat", GUESS, True),
    ]
    broken = []
    for path in whole:
        for size in (0, 60, 700, path.stat().st_size // 2):
            broken.append(path.with_name(f"{size}{path.name}"))
            broken[-1].write_bytes(path.read_bytes()[:size])
    (tmp_path / "text.mat").write_text("x,y\n1,2\n" * 99)
    for path in (*broken, tmp_path / "text.mat", tmp_path / "absent.mat", tmp_path):
        refused(path)
        for reader in (
            annotations.mpii_official,
            annotations.mpii_truth,
            annotations.mpii_rows,
            annotations.lsp,
        ):
            with pytest.raises(BadInput, match=rf"{path.name}: found .*, expected "):
                reader(path)


def test_files_of_another_layout(tmp_path):
    for path in (
        mat(tmp_path / "a.mat", p=GUESS),
        hdf5(tmp_path / "a.h5", GUESS),
        mat(tmp_path / "r.mat", RELEASE=1.0),
        newell(tmp_path / "n.h5", ["x.jpg"], [0], np.zeros((1, 14, 2))),
        mat(tmp_path / "t.mat", pos_gt_src=np.zeros((16, 2, 3)), jnt_missing=np.zeros((16, 2))),
    ):
        with pytest.raises(BadInput, match=rf"{path.name}: found .*, expected "):
            annotations.mpii_truth(path)
    for text in ("[1, 2]", "[]", '[{"image": "x.jpg"}]', "[{", '{"people": []}'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(BadInput, match="a.json: found .*, expected MPII's"):
            annotations.mpii_truth(tmp_path / "a.json")


# ---- what is not annotated, and what is no number


ABOVE = (9.0, -1.0)  # a head-top above its image is annotated


def unlabelled(layout, folder):
    """Three people: the second's ankle is at (-1, -1), the third's knee has visibility -1."""
    joints = np.full((3, 16, 2), 5.0)
    visible = np.ones((3, 16))
    joints[0, 9] = ABOVE
    joints[1, 0] = -1
    visible[2, 1] = -1
    path = folder / f"truth.{'json' if layout == 'json' else 'h5' if layout == 'newell' else 'mat'}"
    if layout == "newell":
        return newell(path, ["x.jpg"] * 3, range(3), joints, visible=visible)
    if layout == "json":
        people = [hrnet(joints=j.tolist(), joints_vis=v.tolist()) for j, v in zip(joints, visible)]
        path.write_text(json.dumps(people))
    elif layout == "tompson":
        boxes = np.ones((2, 2, 3)) * np.array([1, 9])[:, None, None]
        missing = np.where(visible < 0, -1, 0).T
        mat(
            path,
            pos_gt_src=joints.transpose(1, 2, 0),
            jnt_missing=missing,
            headboxes_src=boxes.transpose(1, 0, 2),
        )
    elif layout == "official":
        points = [
            [point(row, *joints[n, row], is_visible=visible[n, row]) for row in range(16)]
            for n in range(3)
        ]
        release(path, *[struct(rectangle(person)) for person in points])
    else:
        annotated, axes = (1, (1, 2, 0)) if layout == "lspet" else (0, (2, 1, 0))
        third = np.where(visible < 0, -1, annotated)
        whole = np.concatenate([joints, third[..., None]], axis=2)
        mat(path, joints=whole[:, LSP_ROWS].transpose(axes))
    return path


def hrnet(**changed):
    """A person in HRNet's JSON."""
    return {
        "image": "x.jpg",
        "center": [1.0, 2.0],
        "scale": 2.0,
        "joints": [[4.0, 5.0]] * 16,
        "joints_vis": [1] * 16,
    } | changed


@pytest.mark.parametrize("layout", ["newell", "json", "tompson", "official", "lsp", "lspet"])
def test_minus_one_is_not_annotated_in_any_layout(tmp_path, layout):
    read = annotations.lsp if layout.startswith("lsp") else annotations.mpii_truth
    found = read(unlabelled(layout, tmp_path))
    rows = LSP_ROWS if layout.startswith("lsp") else range(16)
    absent = np.argwhere((found.visibility == ABSENT)[:, rows]).tolist()
    assert absent == [[1, 0], [2, 1]] and np.isnan(found.joints[1, 0]).all()
    assert joints_of(found, 0, "head_top") == (list(ABOVE), VISIBLE)


@pytest.mark.parametrize(
    "changed, found",
    [
        ({"scale": [2.0, 2.0]}, "scale of person 2: [2.0, 2.0] where a valid number is needed"),
        ({"scale": None}, "scale of person 2: None where a valid number is needed"),
        ({"scale": "2.0"}, "scale of person 2: '2.0' where a valid number is needed"),
        ({"scale": 10**400}, "a number of 401 digits"),
        ({"scale": True}, "scale of person 2: True where a valid number is needed"),
        ({"center": [1.0]}, "center of person 2: [1.0] where "),
        ({"joints": [[1, 2]] * 15}, "joints of person 2: "),
        ({"joints": [[1, 2]] * 15 + [[1]]}, "joints of person 2: [1] where "),
        ({"joints": [[1, 2]] * 15 + [[1, "2"]]}, "joints of person 2: '2' where a valid number"),
        ({"joints": [[1, 2]] * 15 + [[1, None]]}, "joints of person 2: None where a valid number"),
        ({"joints": {"x": 1}}, "joints of person 2: {'x': 1} where a valid list is needed"),
        ({"joints": [[1, 2]] * 15 + [[1, float("nan")]]}, "annotated joints that are not finite"),
        ({"joints_vis": [[1] * 16]}, "joints_vis.float of person 2: "),
        ({"joints_vis": [1] * 15 + [float("nan")]}, "NaN in joints_vis"),
        ({"image": 7}, "image of person 2: 7 where a valid string is needed"),
    ],
)
def test_json_is_checked_person_by_person(tmp_path, changed, found):
    (tmp_path / "a.json").write_text(json.dumps([hrnet(), hrnet(**changed), hrnet()]))
    with pytest.raises(BadInput, match="a.json: found .*, expected MPII's") as error:
        annotations.mpii_truth(tmp_path / "a.json")
    assert found in str(error.value)


def test_json_that_lacks_or_repeats_something(tmp_path):
    whole = json.dumps([hrnet()])
    for text, found in {
        json.dumps(
            [{**hrnet(), "joints": None}]
        ): "joints of person 1: None where a valid list is needed",
        whole.replace('"scale"', '"size"'): "scale of person 1: nothing where a value is needed",
        whole.replace('"center": [', '"scale": 1, "center": ['): "'scale' twice",
        "[" * 100_000: "RecursionError",
        whole[:-9]: "JSONDecodeError",
        "{}": "JSON: {} where a list of people is needed",
        "[]": "JSON: [] where a list of people is needed",
        "[[]]": "Person of person 1: [] where a valid dictionary",
    }.items():
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(BadInput, match="a.json: found .*, expected MPII's") as error:
            annotations.mpii_truth(tmp_path / "a.json")
        assert found in str(error.value)


def test_arrays_that_do_not_belong_together(tmp_path):
    for name, value in {
        "normalize": np.ones((2, 1)),
        "scale": np.ones(1),
        "center": np.ones((2, 3)),
        "visible": np.ones(16),
    }.items():
        path = newell(tmp_path / "a.h5", ["x.jpg"] * 2, [0, 0], **{name: value})
        with pytest.raises(
            BadInput, match=r"a.h5: found .* of shape .* is needed, expected MPII's"
        ):
            annotations.mpii_truth(path)


def test_a_length_to_divide_by_is_finite_and_positive():
    lengths = np.array([1, 1e-9, 0, -1, np.nan, np.inf, -np.inf])
    assert annotations.is_positive(lengths).tolist() == [True, True] + [False] * 5


def test_truth_values_say_who_is_annotated_in_json(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([hrnet(joints_vis=[True, False] * 8)]))
    found = annotations.mpii_truth(tmp_path / "a.json")
    assert found.visibility[0].tolist() == [VISIBLE, ABSENT] * 8


@pytest.mark.parametrize("name", ["normalize", "visible", "scale", "person"])
def test_what_a_layout_lacks_is_named(tmp_path, name):
    path = newell(tmp_path / "a.h5", ["x.jpg"], [0])
    with h5py.File(path, "a") as file:
        del file[name]
    with pytest.raises(BadInput, match=f"a.h5: found .* without {name}, expected"):
        annotations.mpii_truth(path)


def test_a_list_of_nobody_is_refused(tmp_path):
    rows = newell(tmp_path / "rows.h5", [], [], np.zeros((0, 16, 2)))
    with pytest.raises(BadInput, match="rows.h5: found it lists nobody, expected an HDF5 file"):
        annotations.mpii_rows(rows)


def test_a_list_of_people_and_tompson_s_layout_say_what_they_lack(tmp_path):
    rows = newell(tmp_path / "rows.h5", ["x.jpg"], [0])
    with h5py.File(rows, "a") as file:
        del file["person"]
    with pytest.raises(BadInput, match="rows.h5: found a list of people without person, expected"):
        annotations.mpii_rows(rows)
    scipy.io.savemat(tmp_path / "t.mat", {"pos_gt_src": np.ones((16, 2, 3)), "jnt_missing": 0})
    with pytest.raises(BadInput, match="t.mat: found Tompson's layout without headboxes_src, "):
        annotations.mpii_truth(tmp_path / "t.mat")
