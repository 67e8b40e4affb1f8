import pytest

from hpe_lib.workbook import presets, schemas
from hpe_lib.workbook.artifacts import BadInput

CELL_03 = """
out: str = "../runs/synthetic"
lr: float = 1e-3  # step size, F9
epochs: int = 4
flip: bool = True
trunk: str = "slim"
scale: list[float] = [0.7, 1.3]  # F12
start: str | None = None
"""


@pytest.fixture
def folder(notebook):
    notebook("04_train_regressor", "epochs: int = 2\nwidth: int = -1")
    folder = notebook("03_train_detector", CELL_03)
    (folder / "presets" / "p.yaml").write_text(
        '# data\nall:\n  epochs: 7\n"03":\n  lr: 1e-4\n04:\n  epochs: 9\n'
    )
    (folder / "presets" / "empty.yaml").write_text("# nothing\nall: {}\n")
    return folder


def test_the_tagged_cell_is_read_without_running_it(folder):
    found = presets.declared_parameters("03")
    assert list(found) == [
        "lr",
        "epochs",
        "flip",
        "trunk",
        "scale",
        "start",
    ]  # out is not a parameter
    assert found["lr"] == ("float", 1e-3)
    assert found["scale"].default == [0.7, 1.3]
    assert presets.declared_parameters("04")["width"].default == -1


def test_defaults_then_all_then_section_then_command_line(folder):
    assert presets.resolve("empty", [])["03"]["lr"] == 1e-3
    found = presets.resolve("p", [])
    assert found["03"]["epochs"] == 7 and found["04"]["epochs"] == 9
    assert found["03"]["lr"] == 1e-4 and type(found["03"]["lr"]) is float  # a text to PyYAML
    assert "out" not in found["03"]
    found = presets.resolve("p", ["epochs=3", "03.epochs=5"])
    assert (found["03"]["epochs"], found["04"]["epochs"]) == (5, 3)


def test_a_section_wins_over_all_wherever_it_stands(folder):
    (folder / "presets" / "q.yaml").write_text('"03":\n  epochs: 5\nall:\n  epochs: 7\n')
    assert presets.resolve("q", [])["03"]["epochs"] == 5


def test_an_override_of_one_notebook_wins_wherever_it_stands(folder):
    found = presets.resolve("empty", ["03.epochs=5", "epochs=3"])
    assert (found["03"]["epochs"], found["04"]["epochs"]) == (5, 3)


@pytest.mark.parametrize("section", ["", "03."])
def test_a_parameter_given_twice_is_refused(folder, section):
    told = (
        f"-p {section}epochs=5: found epochs twice, with '3' before, expected each parameter once"
    )
    with pytest.raises(BadInput) as error:
        presets.resolve("empty", [f"{section}epochs=3", "lr=0.1", f"{section}epochs=5"])
    assert str(error.value) == told


def test_a_preset_can_be_a_path(folder, tmp_path):
    (tmp_path / "mine.yaml").write_text("all:\n  width: 3\n")
    assert presets.resolve(tmp_path / "mine.yaml", [])["04"]["width"] == 3


@pytest.mark.parametrize(
    "kind, value, expected",
    [
        ("int", "8", 8),
        ("int", 8.0, 8),
        ("int", "1e3", 1000),
        ("int", "123456789012345678", 123456789012345678),
        ("float", "1e-3", 1e-3),
        ("float", 1, 1.0),
        ("bool", "false", False),
        ("bool", "Yes", True),
        ("bool", "off", False),
        ("bool", "1", True),
        ("int", "010", 10),
        ("bool", True, True),
        ("str", "1-8000", "1-8000"),
        ("str", 8000, "8000"),
        ("str", "", ""),
        ("list[float]", "[0.7, 1.3]", [0.7, 1.3]),
        ("list[int]", "1,2", [1, 2]),
        ("list[str]", "a", ["a"]),
        ("list[int]", [1], [1]),
        ("list[int]", "", []),
        ("str | None", "none", None),
        ("int | None", "3", 3),
    ],
)
def test_values_become_the_declared_type(kind, value, expected):
    found = presets.cast(value, kind)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    "kind, value",
    [
        ("int", "8.5"),
        ("int", "1:30"),
        ("int", "0x10"),
        ("int", "9" * 5000),
        ("float", "9" * 400),
        ("str", "a\0b"),
        ("int", "many"),
        ("int", True),
        ("int", None),
        ("float", "nan"),
        ("float", "inf"),
        ("float", False),
        ("float", []),
        ("bool", "nope"),
        ("str", True),
        ("str", None),
        ("list[int]", "1,x"),
        ("complex", "1"),
    ],
)
def test_values_of_another_type_are_refused(kind, value):
    with pytest.raises(BadInput, match="here"):
        presets.cast(value, kind, "here")


@pytest.mark.parametrize(
    "override, said",
    [
        ("epoch=3", "expected epochs"),
        ("03.width=3", "parameter 'width' of notebook 03"),
        ("09.lr=1", "section '09'"),
        ("lr", "name=value"),
        ("out=x", "--out"),
        ("lr=fast", "found 'fast', expected float"),
        ("3.lr=1", "name=value"),
    ],
)
def test_bad_overrides_are_one_line(folder, override, said):
    with pytest.raises(BadInput) as error:
        presets.resolve("empty", [override])
    assert (
        said in str(error.value)
        and f"-p {override}" in str(error.value)
        and "\n" not in str(error.value)
    )


@pytest.mark.parametrize(
    "text, said",
    [
        ("all:\n  lrr: 1\n", "expected lr"),
        ('"07":\n  lr: 1\n', "section '07'"),
        ("a: [", "YAML"),
        ("lr: 1\n", "sections"),
        ("- 1\n", "sections"),
        ('"03":\n  flip: 2\n', "expected bool"),
    ],
)
def test_bad_presets_are_one_line(folder, text, said):
    (folder / "presets" / "bad.yaml").write_text(text)
    with pytest.raises(BadInput) as error:
        presets.resolve("bad", [])
    assert (
        said in str(error.value) and "bad.yaml" in str(error.value) and "\n" not in str(error.value)
    )


def test_an_absent_preset_lists_those_there_are(folder):
    with pytest.raises(BadInput, match="empty, p"):
        presets.resolve("nix", [])


@pytest.mark.parametrize("cell", ["lr = 1e-3", "lr: float = 10 ** -3", "import os", "lr: float"])
def test_a_cell_that_is_not_declarations_is_refused(notebook, cell):
    notebook("03_x", cell)
    with pytest.raises(BadInput, match="name: type = literal"):
        presets.declared_parameters("03")


def test_a_notebook_without_the_tag_is_refused(notebook):
    folder = notebook("03_x", "lr: float = 1.")
    path = folder / "03_x.ipynb"
    path.write_text(path.read_text().replace("parameters", "params"))
    with pytest.raises(BadInput, match="tagged"):
        presets.declared_parameters("03")


def test_tagged_gives_the_values_of_now(folder):
    values = {
        "lr": 0.5,
        "epochs": 1,
        "flip": False,
        "trunk": "x",
        "scale": [1.0, 2.0],
        "start": None,
    }
    assert presets.notebook_parameters("03", {**values, "out": "y", "other": 1}) == values
    del values["lr"]
    with pytest.raises(BadInput, match="lr"):
        presets.notebook_parameters("03", values)


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_resolves_and_says_what_it_needs(name):
    presets.resolve(name)
    head = (presets.NOTEBOOKS / "presets" / f"{name}.yaml").read_text().splitlines()[:3]
    assert [line.split(":")[0] for line in head] == ["# Data", "# Hardware", "# Time"]


def test_a_smallest_scale_above_the_largest_is_refused():
    with pytest.raises(BadInput, match="scale_low: found 1.2, expected at most scale_high, 1.05"):
        presets.resolve("synthetic", ["scale_low=1.2"])


def test_a_file_of_nothing_is_no_preset(tmp_path):
    (tmp_path / "none.yaml").write_bytes(b"")
    with pytest.raises(BadInput, match="none.yaml: found something else than sections"):
        presets.resolve(tmp_path / "none.yaml", [])


@pytest.mark.parametrize(
    "given",
    [
        "epochs=-1",
        "batch_size=-1",
        "03.lr=0",
        "radius=-3",
        "sigma=0",
        "scale_low=0",
        "scale_high=9",
        "scale_step=1",
        "levels=0",
        "bottlenecks=0",
        "seed=-1",
        "data_seed=-1",
        "workers=-1",
        "rotation=-5",
        "optimizer=adm",
        "schedule=cosin",
        "precision=half",
        "stem=pach",
        "decoder=parabla",
        "occluded=maybe",
        "dataset=coco",
        "image_size=0",
        "image_size=50",
        "map_stride=3",
        "prior=0",
        "prior=1",
        "03.warmup=1",
        "channels=7",
        "train=8-1",
        "train=0-3",
        "val=1-\u00b2",
        "val=5",
        "train=training",
        "val=val1-5",
    ],
)
def test_a_value_that_would_fail_later_is_refused_before_anything_runs(given):
    with pytest.raises(BadInput, match="found .*, expected ") as refused:
        presets.resolve("synthetic", [given])
    assert str(refused.value).startswith(
        f"-p {given}, {given.partition('=')[0].rpartition('.')[2]}: found "
    )


@pytest.mark.parametrize("preset", presets.names())
def test_every_preset_keeps_the_limits(preset):
    assert presets.resolve(preset)


def test_an_override_must_reach_a_notebook_that_runs():
    assert presets.resolve("synthetic", ["epochs=7"], running=["05"])["05"]["epochs"] == 7
    assert presets.resolve("synthetic", ["epochs=7"], running=["05"])["03"]["epochs"] != 7
    with pytest.raises(BadInput, match="notebook 03, which does not run now"):
        presets.resolve("synthetic", ["03.epochs=7"], running=["04", "05"])


@pytest.mark.parametrize(
    "given",
    [
        "margin=0",
        "missing_points=maybe",
        "drawn=train",
        "drawn=val 1-9",
        "drawn=9-1",
        "03.first=discs",
        "03.first_sees=none",
        "03.rotation_step=-1",
        "03.scale_step=-0.1",
        "03.scale_step=1e-320",
        "03.rotation_step=1e-320",
        "04.regressor=unet",
        "04.stacked=all",
        "04.kernels=9,13,13",
        "04.kernels=9,13,13,14",
        "04.std=-1",
        "03.weight_decay=-1",
        "warmup=-0.1",
    ],
)
def test_a_value_of_a_newer_parameter_that_would_fail_later_is_refused(given):
    with pytest.raises(BadInput, match="found .*, expected ") as refused:
        presets.resolve("synthetic", [given])
    assert str(refused.value).startswith(
        f"-p {given}, {given.partition('=')[0].rpartition('.')[2]}: found "
    )


@pytest.mark.parametrize(
    "given, wanted",
    [
        ("01.margin=1.2667", 1.2667),
        ("01.missing_points=withheld", "withheld"),
        ("03.first=regression", "regression"),
        ("03.first_sees=", ""),
        ("03.rotation_step=0", 0),
        ("03.scale_step=0.1", 0.1),
        ("04.stacked=heatmaps", "heatmaps"),
        ("04.regressor=convolutions", "convolutions"),
        ("04.kernels=5, 5, 5, 7", [5, 5, 5, 7]),
        ("04.std=0", 0),
        ("03.epochs=0", 0),
        ("01.train=val 1-100", "val 1-100"),
    ],
)
def test_values_of_newer_parameters_at_the_edge_are_taken(given, wanted):
    name, _, _ = given.partition("=")
    number, _, name = name.partition(".")
    assert presets.resolve("synthetic", [given])[number][name] == wanted


OF_RIVALS_AND_ROWS = {
    "rival",
    "rival_channels",
    "first_sigma",
    "__pydantic_extra__",
}  # chosen in other places


@pytest.mark.parametrize("name", sorted(schemas.PARAMETERS.keys() - OF_RIVALS_AND_ROWS))
def test_every_limit_is_of_a_parameter_that_there_is(name):
    assert any(name in presets.declared_parameters(number) for number in presets.notebooks())


@pytest.mark.parametrize(
    "given",
    [
        "06.seeds=0,-1",
        "06.stage_epochs=1,1",
        "06.stage_epochs=0,1,1",
        "06.stage_epochs=1,1,-1",
        "06.vgg_channels=0",
        "06.vgg_kernels=4,4,4,4",
        "06.vgg_std=-1",
        "04.kernels=-1,5,5,5",
    ],
)
def test_a_value_of_an_ablation_that_would_fail_after_hours_is_refused(given):
    with pytest.raises(BadInput, match="found .*, expected "):
        presets.resolve("synthetic", [given])


def from_yaml(folder, text):
    """The resolved parameters of a preset of this text, and nothing on the way there."""
    (folder / "presets" / "mine.yaml").write_text(text)
    return presets.resolve("mine", [])


@pytest.mark.parametrize(
    "written, name, wanted",
    [
        ("epochs: 010", "epochs", 10),
        ("lr: 010", "lr", 10.0),
        ("trunk: 010", "trunk", "010"),
        ("trunk: no", "trunk", "no"),
        ("trunk: 1:30", "trunk", "1:30"),
        ("trunk: 2026-01-02", "trunk", "2026-01-02"),
        ("trunk: 'null'", "trunk", "null"),
        ("flip: no", "flip", False),
        ("start: null", "start", None),
        ("start: ~", "start", None),
        ("scale: [1, 010]", "scale", [1.0, 10.0]),
        ("epochs: 1e3", "epochs", 1000),
    ],
)
def test_yaml_keeps_what_is_written_and_the_declared_type_says_what_it_means(
    folder, written, name, wanted
):
    found = from_yaml(folder, f'"03":\n  {written}\n')["03"][name]
    assert found == wanted and type(found) is type(wanted)


def test_json_is_read_as_a_preset(folder):
    found = from_yaml(folder, '{"03": {"lr": 2e-05, "flip": false, "scale": [0.5], "start": null}}')
    wanted = {"lr": 2e-5, "flip": False, "scale": [0.5], "start": None}
    assert {name: found["03"][name] for name in wanted} == wanted


BOMB = "&a0 [1, 1]" + "".join(f", &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]" for n in range(9))


@pytest.mark.parametrize(
    "text, said",
    [
        ('"03":\n  lr: 0.5\n"03":\n  epochs: 1\n', ": found 03 twice, in lines 1 and 3"),
        ('"03":\n  lr: 0.5\n3:\n  epochs: 1\n', ": found 03 twice, in lines 1 and 3"),
        ("all:\n  lr: 0.5\n  lr: 1\n", ": found lr twice, in lines 2 and 3"),
        ('{"all": {"lr": 1, "lr": 2}}', ": found lr twice, in lines 1 and 1"),
        ("all:\n  epochs: 1:30\n", ", epochs: found '1:30', expected int"),
        ("all:\n  epochs:\n", ", epochs: found None, expected int"),
        ("all:\n  epochs: !!int ''\n", ", epochs: found '', expected int"),
        ("all:\n  flip: !!bool foo\n", ", flip: found 'foo', expected bool"),
        ("all:\n  lr: !!timestamp foo\n", ", lr: found 'foo', expected float"),
        ("all:\n  lr: !!python/object/apply:os.getcwd []\n", ", lr: found [], expected float"),
        ("all:\n  lr: " + "1" + "0" * 400, ", lr: found '1000000"),
        ("all:\n  lr: " + "[" * 3000 + "]" * 3000, ", lr: found lists in lists"),
        ("all:\n  lr: " + "{a: " * 3000 + "1" + "}" * 3000, ", lr: found lists in lists"),
        ("[" * 3000 + "]" * 3000, ": found lists in lists"),
        (f"all:\n  lr: [{BOMB}]\n", ", lr: found lists in lists"),
        ("all:\n  lr: &a [*a, 1]\n", ", lr: found the alias *a, expected the value itself"),
        ('"03": &a\n  lr: 1\n"04": *a\n', ": found the alias *a"),
        ("all:\n  lr: {a: 1}\n", ", lr: found {'a': '1'}, expected float"),
        ("all:\n  ? [lr]\n  : 1\n", ": found a list as a name"),
        ("all: {}\n---\nall: {}\n", ", expected YAML"),
        ("all: {lr: \x01}\n", ", expected YAML"),
        ("#" * 1_000_001, ": found more than 1,000,000 bytes"),
    ],
)
def test_yaml_that_means_two_things_or_none_is_one_short_line(folder, text, said):
    with pytest.raises(BadInput) as error:
        from_yaml(folder, text)
    place = str(folder / "presets" / "mine.yaml")
    line = str(error.value)
    assert line.startswith(place) and said in line and len(line) < len(place) + 250


def test_a_value_is_shown_by_at_most_80_characters(folder):
    with pytest.raises(BadInput) as error:
        from_yaml(folder, f"all:\n  lr: {'x' * 1000}\n")
    assert "x" * 78 + "…, expected" in str(error.value) and "x" * 79 not in str(error.value)
    with pytest.raises(BadInput) as error:
        presets.resolve("empty", [f"lr={'x' * 1000}"])
    assert len(str(error.value)) < 250


@pytest.mark.parametrize(
    "given",
    [
        "seed=9223372036854775808",
        f"seed={10**30}",
        f"data_seed={10**30}",
        f"06.seeds=0,{2**63}",
        "seed=inf",
        "image_size=1000000000",
        "channels=1000000000",
        "channels=-2",
        "batch_size=1000000000",
        "workers=1000000000",
        "levels=40",
        "bottlenecks=1000000",
        "epochs=1000000000000",
        "06.stage_epochs=1,1,1000000000000",
        "04.kernels=3,3,3,1000000001",
        "radius=1e30",
        "sigma=inf",
        "margin=1e300",
        "lr=inf",
        "rotation=1e300",
        "train=1-100000000",
        f"train=1-{'9' * 5000}",
        f"val={10**30}-{10**30 + 1}",
    ],
)
def test_a_value_beyond_all_measure_is_refused_before_anything_is_built(given):
    with pytest.raises(BadInput, match="found .*, expected ") as refused:
        presets.resolve("synthetic", [given])
    assert len(str(refused.value)) < 350


def test_the_largest_seed_is_taken():
    assert presets.resolve("synthetic", [f"seed={2**63 - 1}"])["03"]["seed"] == 2**63 - 1


def test_no_presets_at_all_is_said(notebook):
    notebook("03_x", "lr: float = 1.")
    with pytest.raises(BadInput, match="found no such preset, expected one of none, there are no"):
        presets.resolve("nix")
