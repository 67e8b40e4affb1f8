"""Parameters: declared once, in the tagged cell of the notebook that uses them; a preset only
overrides them.

The tagged cell is read with json and ast, so `hpe train` has the notebook's defaults on a box
without Jupyter. A preset is a YAML file in notebooks/presets: `all:` plus one section a notebook
(`"03":` …). `out`, where a run writes, is not a parameter in this sense: it is given apart
(`--out`) and never part of what an artifact is compared by.
"""

import ast
import difflib
import io
import json
import math
import os
import re
import tokenize
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from hpe_lib.paper import NOTEBOOKS
from hpe_lib.workbook import artifacts
from hpe_lib.workbook.artifacts import BadInput

MOST_PEOPLE = 10_000_000
PEOPLE = (
    f"FIRST-LAST counted from 1, such as 1-8000, at most {MOST_PEOPLE:,} people, or train, val, "
    "test or all, or both, such as val 1-100"
)

Limit = tuple[str, Callable[[Any], bool]]  # what a value must be, in words and as a test


def within(least: float, most: float) -> Limit:
    """A limit: (said in words, asked in code)."""
    return f"{least:,} to {most:,}", lambda value: least <= value <= most


def above_zero(most: float) -> Limit:
    """A limit that leaves 0 out."""
    return f"a positive number, at most {most:,}", lambda value: 0 < value <= most


def even(most: int) -> Limit:
    """A limit of widths, which are halved."""
    return f"even, 2 to {most:,}", lambda value: 2 <= value <= most and value % 2 == 0


def one_of(*choices: str) -> Limit:
    """A limit that is a list of words."""
    return " or ".join(choices), choices.__contains__


def each(limit: Limit, *lengths: int) -> Limit:
    """A list whose values keep a limit. lengths: how many there may be; none given: any number."""
    said, holds = limit
    count = f"{' or '.join(map(str, lengths))} values, " if lengths else ""

    def holds_for_all(values: list) -> bool:
        """Does the list have a length that is asked for, and each value keep the limit?"""
        return (not lengths or len(values) in lengths) and all(map(holds, values))

    return f"{count}each {said}", holds_for_all


SEED, EPOCHS, WIDTH = within(0, 2**63 - 1), within(0, 100_000), even(8192)
KERNEL = ("odd, 1 to 255", lambda value: value % 2 == 1 and 1 <= value <= 255)
PERSONS = (PEOPLE, lambda value: person_range(value) is not None)
# What a value must be besides of its type, by the parameter's name.
LIMITS = {
    "dataset": one_of("synthetic", "mpii", "lsp", "lspet", "leeds"),
    "train": PERSONS,
    "val": PERSONS,
    "image_size": (
        "a multiple of 4, 32 to 4,096",
        lambda value: 32 <= value <= 4096 and value % 4 == 0,
    ),
    "data_seed": SEED,
    "difficulty": one_of("easy", "medium", "hard"),
    "margin": above_zero(100),
    "missing_points": one_of("as_labelled", "withheld", "invented"),
    "radius": above_zero(1000),
    "sigma": above_zero(1000),
    "occluded": one_of("empty", "ignored"),
    "first": one_of("detection", "regression"),
    "first_sees": one_of("", "visible", "all"),
    "map_stride": ("1, 2 or 4", (1, 2, 4).__contains__),
    "prior": ("between 0 and 1, both excluded", lambda value: 0 < value < 1),
    "seed": SEED,
    "epochs": EPOCHS,
    "batch_size": within(1, 65_536),
    "optimizer": one_of("adamw", "rmsprop", "sgd"),
    "weight_decay": within(0, 1000),
    "lr": above_zero(1e30),
    "trunk_lr": within(0, 1e30),
    "frozen_blocks": within(0, 7),
    "colour": ("at least 0 and less than 1", lambda value: 0 <= value < 1),
    "ema": ("at least 0 and less than 1", lambda value: 0 <= value < 1),
    "save_minutes": within(0, 100_000),
    "lr_end": above_zero(1e30),
    "schedule": one_of("cosine", "geometric", "step"),
    "warmup": ("at least 0 and less than 1", lambda value: 0 <= value < 1),
    "rotation": within(0, 360),
    "rotation_step": within(0, 360),
    "scale_low": above_zero(100),
    "scale_high": above_zero(100),
    "scale_step": within(0, 100),
    "workers": within(0, 1024),
    "precision": one_of("no", "fp16", "bf16"),
    "regressor": one_of("hourglass", "convolutions"),
    "stacked": one_of("both", "image", "heatmaps"),
    "channels": WIDTH,
    "levels": within(1, 10),
    "bottlenecks": within(1, 100),
    "stem": one_of("patch", "conv7"),
    "kernels": each(KERNEL, 4),
    "std": within(0, 1000),
    "decoder": one_of("argmax", "quarter", "parabola", "centroid"),
    "vgg_channels": WIDTH,
    "vgg_kernels": each(KERNEL, 4),
    "vgg_std": within(0, 1000),
    "stage_epochs": each(EPOCHS, 0, 3),
    "seeds": each(SEED),
    "count": within(1, 10_000),
}
MOST_BYTES, DEEPEST = 1_000_000, 4  # of a preset: sections, names, values, and a list's


class Declared(NamedTuple):
    """One line of a tagged cell, `name: type = default  # help`; the type as written there."""

    type: str
    default: object
    help: str


def notebooks(folder: Path = NOTEBOOKS) -> dict[str, Path]:
    """The notebooks in order: {"01": path of 01_….ipynb, …}."""
    return {path.name[:2]: path for path in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))}


def names(folder: Path = NOTEBOOKS) -> list[str]:
    """The presets there are, by name."""
    return sorted(path.stem for path in (Path(folder) / "presets").glob("*.yaml"))


def declared(number: str, folder: Path = NOTEBOOKS) -> dict[str, Declared]:
    """The parameters of notebook "03", `out` left aside, as {name: Declared(type, default, help)}
    in their order.
    """
    found = notebooks(folder)
    if number not in found:
        raise BadInput(
            folder, f"no notebook {number}", f"one of {', '.join(found) or 'NN_….ipynb'}"
        )
    path = found[number]
    source = tagged_source(path)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT
    }
    lines = [declaration(node, comments, path) for node in ast.parse(source).body]
    return {name: value for name, value in lines if name != "out"}


def tagged_source(path: Path) -> str:
    """The source of the one cell tagged "parameters" of a notebook."""
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError) as error:
        raise BadInput(
            path, f"{type(error).__name__}: {error}", "a Jupyter notebook (nbformat 4)"
        ) from None
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise BadInput(path, f"{len(tagged)} cells tagged 'parameters'", "one")
    return "".join(tagged[0]["source"])


def declaration(node: ast.stmt, comments: dict[int, str], path: Path) -> tuple[str, Declared]:
    """(name, Declared) of one statement of a tagged cell."""
    try:
        default = ast.literal_eval(node.value)
        return node.target.id, Declared(
            ast.unparse(node.annotation), default, comments.get(node.end_lineno, "")
        )
    except (AttributeError, ValueError):
        raise BadInput(
            path, f"'{ast.unparse(node)}' in the cell tagged 'parameters'", "name: type = literal"
        ) from None


def tagged(number: str, values: dict, folder: Path = NOTEBOOKS) -> dict:
    """What a notebook runs with: the names it declares, without `out`, and their values in
    `values`, its globals().
    """
    wanted, path = declared(number, folder), notebooks(folder)[number]
    missing = [name for name in wanted if name not in values]
    if missing:
        raise BadInput(
            path,
            f"no value for {', '.join(missing)}",
            "its cell tagged 'parameters', as saved, run first",
        )
    found = {
        name: checked(name, values[name], wanted[name].type, f"{path.name}, {name}")
        for name in wanted
    }
    trust_trunks(found)
    return found


def trust_trunks(parameters: dict) -> None:
    """Let the trunks "module:function" that a person's parameters name be imported.

    The environment variable HPE_TRUNK tells this process, and those that it starts, which they are
    (trunks.named_trunk).
    """
    named = [str(parameters[name]) for name in ("trunk", "vgg") if name in parameters]
    if own := [name for name in named if ":" in name]:
        known = filter(None, os.environ.get("HPE_TRUNK", "").split(","))
        os.environ["HPE_TRUNK"] = ",".join(dict.fromkeys([*known, *own]))


def resolve(
    preset: str | Path,
    overrides: Iterable[str] = (),
    folder: Path = NOTEBOOKS,
    running: Iterable[str] | None = None,
) -> dict[str, dict]:
    """The parameters of every notebook: tagged cells' defaults, then the preset, then overrides.

    preset: a name of `names()`, a path ending in .yaml, or a run's manifest.json.
    overrides: "name=value", for every notebook that declares the name, or "03.name=value".
    running: the notebooks that will run, all if None; an override that reaches none is refused.
    Returns {"01": {name: value cast to its declared type}, …} without `out`. BadInput for an
    unknown name, or a value that is not of the declared type or outside LIMITS.
    """
    known = {number: declared(number, folder) for number in notebooks(folder)}
    resolved = {
        number: {
            name: cast(line.default, line.type, f"notebook {number}, {name}")
            for name, line in lines.items()
        }
        for number, lines in known.items()
    }
    settings = [(setting, known) for setting in from_preset(preset, folder)]
    settings += [(from_override(text), running or known) for text in overrides]
    for (where, section, name, value), reached in settings:
        numbers = target_notebooks(where, section, name, known)
        if not set(numbers) & set(reached):
            raise BadInput(
                where,
                f"a parameter of notebook {', '.join(numbers)}, which does not run now",
                f"one of notebook {', '.join(reached)}",
            )
        for number in set(numbers) & set(reached):
            resolved[number][name] = checked(
                name, value, known[number][name].type, f"{where}, {name}"
            )
    for parameters in resolved.values():
        trust_trunks(parameters)
    return resolved


def checked(name: str, value: Any, kind: str, where: str) -> Any:
    """The value cast to its declared type. BadInput if it is not of the type or outside LIMITS."""
    value = cast(value, kind, where)
    said, holds = LIMITS.get(name, ("", lambda value: True))
    if not holds(value):
        raise BadInput(where, shown(value), said)
    return value


def person_range(people: str) -> tuple[str, slice] | None:
    """ "8-9" (people, counted from 1, both ends included), "val" or "val 8-9" as (split, slice);
    None if it is neither.

    The split is "all" where only a range is given, the slice is slice(0, None) where only a split
    is.
    """
    match = re.fullmatch(r"(train|val|test|all)?(?:(?:^| )([0-9]{1,9})-([0-9]{1,9}))?", str(people))
    if not match or not match[0]:
        return None
    first, last = (int(match[2]), int(match[3])) if match[2] else (1, None)
    if not 0 < first <= (last or first) < first + MOST_PEOPLE:
        return None
    return match[1] or "all", slice(first - 1, last)


def from_preset(preset: str | Path, folder: Path = NOTEBOOKS) -> list[tuple]:
    """A preset's settings as (where it is written, section, name, value), `all` first.

    The manifest.json of a run is a preset, too: of the parameters that it was made with.
    """
    if Path(preset).name == artifacts.MANIFEST:
        made = artifacts.manifest(Path(preset).parent, "parameters")["parameters"]
        settings = [(number, *pair) for number, part in made.items() for pair in part.items()]
        return [(Path(preset), *setting) for setting in settings]
    path = (
        Path(preset)
        if str(preset).endswith(".yaml")
        else Path(folder) / "presets" / f"{preset}.yaml"
    )
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        known = ", ".join(names(folder)) or "none, there are no presets here"
        raise BadInput(
            path, "no such preset", f"one of {known}, or a path ending in .yaml"
        ) from None
    if len(content) > MOST_BYTES:
        raise BadInput(path, f"more than {MOST_BYTES:,} bytes", "a preset")
    sections = read_texts(path, content)
    if not isinstance(sections, dict) or not all(
        isinstance(part, dict | None) for part in sections.values()
    ):
        raise BadInput(
            path, "something else than sections of name: value", "'all:' and one section a notebook"
        )
    ordered = sorted(sections.items(), key=lambda item: item[0] != "all")
    return [
        (path, section, name, value)
        for section, part in ordered
        for name, value in (part or {}).items()
    ]


def read_texts(path: Path, content: bytes) -> Any:
    """YAML, and so JSON, with every scalar as the text that is there; None for nothing or null.

    The declared type says what a text means: 010 is ten, 1:30 is no number. BadInput, naming the
    file and the key, for what is there twice, an alias, lists in lists and what is no YAML.
    """
    import yaml

    class Texts(yaml.BaseLoader):
        """Every scalar as its text; what may mean two things is refused."""

        depth, key = 0, ""

        def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
            """No alias, and nothing nested deeper than a preset is."""
            if self.depth == 2 and isinstance(index, yaml.ScalarNode):
                self.key = f", {shortened(index.value)}"
            if self.check_event(yaml.AliasEvent):
                name = self.peek_event().anchor
                raise BadInput(
                    f"{path}{self.key}", f"the alias *{shortened(name)}", "the value itself"
                )
            if self.depth == DEEPEST:
                raise BadInput(f"{path}{self.key}", "lists in lists", "a value or a list of them")
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_scalar(self, node: yaml.ScalarNode) -> str | None:
            """The text as it is written, None for nothing."""
            text = super().construct_scalar(node)
            return None if node.style is None and text in ("", "~", "null") else text

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            """No key twice."""
            lines = {}
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise BadInput(path, "a list as a name", "name: value")
                # 3 and 03 are the same notebook
                key.value = key.value.zfill(2) if key.value.isdigit() else key.value
                line = key.start_mark.line + 1
                if key.value in lines:
                    found = f"{shortened(key.value)} twice, in lines {lines[key.value]} and {line}"
                    raise BadInput(path, found, "each section and name once")
                lines[key.value] = line
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(content, Texts) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise BadInput(path, f"{type(error).__name__}: {error}", "YAML") from None


def from_override(text: str) -> tuple[str, str, str, str]:
    """ "03.name=value" or "name=value" as (where, section, name, value)."""
    match = re.fullmatch(r"\s*(?:(\d\d)\.)?(\w+)\s*=(.*)", text, re.DOTALL)
    if not match:
        raise BadInput(f"-p {shortened(text)}", "no name=value", "name=value or NN.name=value")
    return f"-p {shortened(text)}", match[1] or "all", match[2], match[3].strip()


def target_notebooks(where: object, section: str, name: str, known: dict) -> list[str]:
    """The notebooks a setting is for. BadInput if none declares the name."""
    if name == "out":
        raise BadInput(where, "out", "--out DIR, which says where to write")
    if section != "all" and section not in known:
        raise BadInput(where, f"section {shown(section)}", f"all, {', '.join(known)}")
    numbers = [number for number in known if section in ("all", number) and name in known[number]]
    if not numbers:
        there = sorted(
            {name for number in known if section in ("all", number) for name in known[number]}
        )
        close = difflib.get_close_matches(str(name), there)
        raise BadInput(
            where,
            f"unknown parameter {shown(name)}"
            + (f" of notebook {section}" if section != "all" else ""),
            " or ".join(close) or f"one of {', '.join(there)}",
        )
    return numbers


def cast(value: Any, kind: str, where: str = "value") -> Any:
    """A value from YAML, a command line or a cell as its declared type: int, float, str, bool,
    list[…], … | None.
    """
    if kind.endswith(" | None"):
        return (
            None
            if value in (None, "", "none", "None", "null")
            else cast(value, kind.removesuffix(" | None"), where)
        )
    if kind.startswith("list"):
        inner = kind[5:-1] or "str"
        return [cast(item, inner, where) for item in listed(value)]
    try:
        return CASTS[kind](value)
    except KeyError:
        raise BadInput(
            where, f"type {kind}", f"{', '.join(CASTS)}, list[…], each with '| None' if need be"
        ) from None
    except (ValueError, TypeError):
        raise BadInput(where, shown(value), kind) from None


def shown(value: Any) -> str:
    """A value for a message."""
    return shortened(repr(value))


def shortened(text: str) -> str:
    """At most 80 characters of a text."""
    return text if len(text) <= 80 else text[:79] + "…"


def listed(value: Any) -> list:
    """A list as it is; a text such as "0.7, 1.3" or "[0.7, 1.3]" taken apart; anything else alone
    in a list.
    """
    if isinstance(value, str):
        value = [part.strip(" '\"") for part in value.strip("[] ").split(",") if part.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def to_int(value: Any) -> int:
    """8, "8", 8.0 or "1e3" as an int; a fraction, a truth value or NaN is a ValueError."""
    try:
        return int(str(value))
    except ValueError:
        number = to_float(value)
    return int(number) if number == int(number) else refuse(value)


def to_float(value: Any) -> float:
    """A finite number; "1e-3", a text to PyYAML, too."""
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise ValueError(value)
    return float(value)


def to_bool(value: Any) -> bool:
    """true or false, yes or no, on or off, in any case; nothing else."""
    text = str(value).lower()
    if text not in ("true", "yes", "on", "false", "no", "off"):
        refuse(value)
    return text in ("true", "yes", "on")


def to_str(value: Any) -> str:
    """A text; a number as it prints."""
    wrong = value is None or isinstance(value, (bool, list, dict)) or "\0" in str(value)
    return refuse(value) if wrong else str(value)


def refuse(value: Any) -> NoReturn:
    """Raise the ValueError that `cast` makes one line of."""
    raise ValueError(value)


CASTS = {"int": to_int, "float": to_float, "str": to_str, "bool": to_bool}
