"""Parameters: declared once, in the tagged cell of the notebook that uses them; a preset only overrides them.

The tagged cell is read with json and ast, so `hpe train` has the notebook's defaults on a box without Jupyter. A preset
is a YAML file in notebooks/presets: `all:` plus one section a notebook (`"03":` …). `out`, where a run writes, is not a
parameter in this sense: it is given apart (`--out`) and never part of what an artifact is compared by.
"""

import ast
import difflib
import io
import json
import math
import os
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

from hpe_lib.artifacts import BadInput
from hpe_lib.paper import ROOT

NOTEBOOKS = ROOT / "notebooks"
PEOPLE = "FIRST-LAST counted from 1, such as 1-8000, or train, val, test or all, or both, such as val 1-100"


# What a value must be besides of its type, by the parameter's name: (said in words, asked in code).
LIMITS = {
    **{
        name: ("a positive number", lambda value: value > 0)
        for name in (
            "radius",
            "sigma",
            "batch_size",
            "lr",
            "margin",
            "lr_end",
            "scale_low",
            "scale_high",
            "levels",
            "bottlenecks",
        )
    },
    **{
        name: ("0 or more", lambda value: value >= 0)
        for name in (
            "data_seed",
            "seed",
            "epochs",
            "weight_decay",
            "rotation",
            "rotation_step",
            "scale_step",
            "std",
            "workers",
        )
    },
    **{
        name: (" or ".join(choices), choices.__contains__)
        for name, choices in {
            "dataset": ("synthetic", "mpii", "lsp", "lspet"),
            "missing_points": ("as_labelled", "withheld", "invented"),
            "occluded": ("empty", "ignored"),
            "first": ("detection", "regression"),
            "first_sees": ("", "visible", "all"),
            "regressor": ("hourglass", "convolutions"),
            "stacked": ("both", "image", "heatmaps"),
            "optimizer": ("adamw", "rmsprop", "sgd"),
            "schedule": ("cosine", "geometric", "step"),
            "precision": ("no", "fp16", "bf16"),
            "stem": ("patch", "conv7"),
            "crop_cache": ("", "jpeg", "raw"),
            "decoder": ("argmax", "quarter", "parabola", "centroid"),
        }.items()
    },
    "image_size": ("a multiple of 4, at least 32", lambda value: value >= 32 and value % 4 == 0),
    "map_stride": ("1, 2 or 4", (1, 2, 4).__contains__),
    "prior": ("between 0 and 1, both excluded", lambda value: 0 < value < 1),
    "warmup": ("at least 0 and less than 1", lambda value: 0 <= value < 1),
    "channels": ("a positive even number", lambda value: value > 0 and value % 2 == 0),
    **{
        name: (
            "four odd positive numbers",
            lambda value: len(value) == 4 and all(kernel > 0 and kernel % 2 for kernel in value),
        )
        for name in ("kernels", "vgg_kernels")
    },
    "vgg_channels": ("a positive even number", lambda value: value > 0 and value % 2 == 0),
    "vgg_std": ("0 or more", lambda value: value >= 0),
    "seeds": ("numbers, each 0 or more", lambda value: all(seed >= 0 for seed in value)),
    "stage_epochs": (
        "three numbers, each 0 or more, or none",
        lambda value: len(value) in (0, 3) and min([0, *value]) >= 0,
    ),
    "train": (PEOPLE, lambda value: person_range(value) is not None),
    "val": (PEOPLE, lambda value: person_range(value) is not None),
}


class Declared(NamedTuple):
    """One line of a tagged cell, `name: type = default  # help`; the type as written there."""

    type: str
    default: object
    help: str


def notebooks(folder=NOTEBOOKS):
    """The notebooks in order: {"01": path of 01_….ipynb, …}."""
    return {path.name[:2]: path for path in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))}


def names(folder=NOTEBOOKS):
    """The presets there are, by name."""
    return sorted(path.stem for path in (Path(folder) / "presets").glob("*.yaml"))


def declared(number, folder=NOTEBOOKS):
    """The parameters of notebook "03", `out` left aside, as {name: Declared(type, default, help)} in their order."""
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


def tagged_source(path):
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


def declaration(node, comments, path):
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


def tagged(number, values, folder=NOTEBOOKS):
    """What a notebook runs with: the names it declares, without `out`, and their values in `values`, its globals()."""
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


def trust_trunks(parameters):
    """Let the trunks "module:function" that a person's parameters name be imported.

    The environment variable HPE_TRUNK tells this process, and those that it starts, which they are
    (detector.named_trunk).
    """
    named = [str(parameters[name]) for name in ("trunk", "vgg") if name in parameters]
    if own := [name for name in named if ":" in name]:
        known = filter(None, os.environ.get("HPE_TRUNK", "").split(","))
        os.environ["HPE_TRUNK"] = ",".join(dict.fromkeys([*known, *own]))


def resolve(preset, overrides=(), folder=NOTEBOOKS, running=None):
    """The parameters of every notebook: tagged cells' defaults, then the preset, then overrides.

    preset: a name of `names()`, or a path ending in .yaml. overrides: "name=value", for every notebook that declares
    the name, or "03.name=value". running: the notebooks that will run, all if None; an override that reaches none of
    them is refused. Returns {"01": {name: value cast to its declared type}, …} without `out`. BadInput for an unknown
    name, or a value that is not of the declared type or outside LIMITS.
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
        numbers = meant(where, section, name, known)
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


def checked(name, value, kind, where):
    """The value cast to its declared type. BadInput if it is not of the type or not within LIMITS."""
    value = cast(value, kind, where)
    said, holds = LIMITS.get(name, ("", lambda value: True))
    if not holds(value):
        raise BadInput(where, repr(value), said)
    return value


def person_range(people):
    """ "8-9" (people, counted from 1, both ends included), "val" or "val 8-9" as (split, slice); None if it is neither.

    The split is "all" where only a range is given, the slice is slice(0, None) where only a split is.
    """
    match = re.fullmatch(r"(train|val|test|all)?(?:(?:^| )([0-9]+)-([0-9]+))?", str(people))
    if not match or not match[0]:
        return None
    first, last = (int(match[2]), int(match[3])) if match[2] else (1, None)
    return (match[1] or "all", slice(first - 1, last)) if 0 < first <= (last or first) else None


def from_preset(preset, folder=NOTEBOOKS):
    """A preset's settings as (where it is written, section, name, value), `all` first."""
    import yaml

    path = (
        Path(preset)
        if str(preset).endswith(".yaml")
        else Path(folder) / "presets" / f"{preset}.yaml"
    )
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        known = ", ".join(names(folder))
        raise BadInput(
            path, "no such preset", f"one of {known}, or a path ending in .yaml"
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadInput(path, f"{type(error).__name__}: {error}", "YAML") from None
    if not isinstance(sections, dict) or not all(
        isinstance(part, dict | None) for part in sections.values()
    ):
        raise BadInput(
            path, "something else than sections of name: value", "'all:' and one section a notebook"
        )
    ordered = sorted(sections.items(), key=lambda item: item[0] != "all")
    # without quotes 03 is the number 3 to YAML
    return [
        (path, f"{section:02d}" if isinstance(section, int) else section, name, value)
        for section, part in ordered
        for name, value in (part or {}).items()
    ]


def from_override(text):
    """ "03.name=value" or "name=value" as (where, section, name, value)."""
    match = re.fullmatch(r"\s*(?:(\d\d)\.)?(\w+)\s*=(.*)", text, re.DOTALL)
    if not match:
        raise BadInput(f"-p {text}", "no name=value", "name=value or NN.name=value")
    return f"-p {text}", match[1] or "all", match[2], match[3].strip()


def meant(where, section, name, known):
    """The notebooks a setting is for. BadInput if none declares the name."""
    if name == "out":
        raise BadInput(where, "out", "--out DIR, which says where to write")
    if section != "all" and section not in known:
        raise BadInput(where, f"section {section!r}", f"all, {', '.join(known)}")
    numbers = [number for number in known if section in ("all", number) and name in known[number]]
    if not numbers:
        there = sorted(
            {name for number in known if section in ("all", number) for name in known[number]}
        )
        close = difflib.get_close_matches(str(name), there)
        raise BadInput(
            where,
            f"unknown parameter {name!r}" + (f" of notebook {section}" if section != "all" else ""),
            " or ".join(close) or f"one of {', '.join(there)}",
        )
    return numbers


def cast(value, kind, where="value"):
    """A value from YAML, a command line or a cell as its declared type: int, float, str, bool, list[…], … | None."""
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
        raise BadInput(where, repr(value), kind) from None


def listed(value):
    """A list as it is; a text such as "0.7, 1.3" or "[0.7, 1.3]" taken apart; anything else alone in a list."""
    if isinstance(value, str):
        value = [part.strip(" '\"") for part in value.strip("[] ").split(",") if part.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def to_int(value):
    """8, "8", 8.0 or "1e3" as an int; a fraction, a truth value or NaN is a ValueError."""
    try:
        return int(str(value))
    except ValueError:
        number = to_float(value)
    return int(number) if number == int(number) else refuse(value)


def to_float(value):
    """A finite number; "1e-3", a text to PyYAML, too."""
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise ValueError(value)
    return float(value)


def to_bool(value):
    """true or false, as YAML or as a text in any case; nothing else."""
    text = str(value).lower()
    return text == "true" if text in ("true", "false") else refuse(value)


def to_str(value):
    """A text; a number as it prints. A YAML truth value is refused: `on` and `no` are texts that lack quotes."""
    return refuse(value) if value is None or isinstance(value, (bool, list, dict)) else str(value)


def refuse(value):
    """Raise the ValueError that `cast` turns into one line."""
    raise ValueError(value)


CASTS = {"int": to_int, "float": to_float, "str": to_str, "bool": to_bool}
