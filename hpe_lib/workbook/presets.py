"""Parameters: declared once, in the tagged cell of the notebook that uses them; a preset only
overrides them.

The tagged cell is read with json and ast, so `hpe train` knows the defaults
without Jupyter. A preset is a YAML file in notebooks/presets: `all:` plus one section a notebook
(`"03":` …). `out`, where a run writes, is not a parameter in this sense: it is given
separately (`--out`) and plays no part in whether an artifact is reused.
"""

import ast
import difflib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
)

from hpe_lib.paper import NOTEBOOKS
from hpe_lib.workbook import artifacts, schemas
from hpe_lib.workbook.artifacts import BadInput

MOST_BYTES, DEEPEST = 1_000_000, 4  # size and nesting depth of a preset


class Declared(NamedTuple):
    """One line of a tagged cell, `name: type = default`; the type as written there."""

    type: str
    default: object


def notebooks() -> dict[str, Path]:
    """The notebooks in order: {"01": path of 01_….ipynb, …}."""
    return {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}


def names() -> list[str]:
    """The presets there are, by name."""
    return sorted(path.stem for path in (NOTEBOOKS / "presets").glob("*.yaml"))


def declared_parameters(number: str) -> dict[str, Declared]:
    """The parameters of notebook "03", `out` left aside, as {name: Declared(type, default)}
    in their order.
    """
    found = notebooks()
    if number not in found:
        raise BadInput(
            NOTEBOOKS, f"no notebook {number}", f"one of {', '.join(found) or 'NN_….ipynb'}"
        )
    path = found[number]
    lines = [declaration(node, path) for node in ast.parse(tagged_source(path)).body]
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


def declaration(node: ast.stmt, path: Path) -> tuple[str, Declared]:
    """(name, Declared) of one statement of a tagged cell."""
    try:
        return node.target.id, Declared(ast.unparse(node.annotation), ast.literal_eval(node.value))
    except (AttributeError, ValueError):
        raise BadInput(
            path, f"'{ast.unparse(node)}' in the cell tagged 'parameters'", "name: type = literal"
        ) from None


def notebook_parameters(number: str, values: dict) -> dict:
    """A notebook's declared parameters, without `out`, with their values in its globals().

    values: globals(). BadInput if one is missing or of another type than declared.
    """
    wanted = declared_parameters(number)
    path = notebooks()[number]
    missing = [name for name in wanted if name not in values]
    if missing:
        raise BadInput(
            path,
            f"no value for {', '.join(missing)}",
            "that the cell tagged 'parameters' is run first",
        )
    found = {
        name: check_value(name, values[name], wanted[name].type, f"{path.name}, {name}")
        for name in wanted
    }
    trust_trunks(found)
    return found


def is_own_trunk(name: str) -> bool:
    """Is it a trunk "module:function", whose use runs the code of its author?"""
    return ":" in name and not name.startswith("timm:")


def trust_trunks(parameters: dict) -> None:
    """Allow the import of the trunks "module:function" that the user's parameters name.

    The environment variable HPE_TRUNK tells this process, and those that it starts, which they are
    (trunks.named_trunk).
    """
    named = [str(parameters[name]) for name in ("trunk", "vgg") if name in parameters]
    if own := [name for name in named if is_own_trunk(name)]:
        known = filter(None, os.environ.get("HPE_TRUNK", "").split(","))
        os.environ["HPE_TRUNK"] = ",".join(dict.fromkeys([*known, *own]))


def refuse_unknown_trunks(from_file: list[tuple], from_user: list[tuple]) -> None:
    """BadInput if a manifest names a trunk "module:function" that the user does not name as well.

    A manifest may come from anybody, and to import is to run.
    """
    named = {value for *_, name, value in from_user if name in ("trunk", "vgg")}
    named |= set(os.environ.get("HPE_TRUNK", "").split(","))
    for where, _, name, value in from_file:
        if name in ("trunk", "vgg") and is_own_trunk(str(value)) and value not in named:
            expected = f"a trunk of this library, or HPE_TRUNK={value} set, to let this code run"
            raise BadInput(where, f"{name} {value}", expected)


def resolve(
    preset: str | Path,
    overrides: Iterable[str] = (),
    running: Iterable[str] | None = None,
) -> dict[str, dict]:
    """The parameters of every notebook: tagged cells' defaults, then the preset, then overrides.

    preset: a name of `names()`, a path ending in .yaml, or a run's manifest.json.
    overrides: "name=value", for every notebook that declares the name, or "03.name=value".
    running: the notebooks that will run, all if None; an override that reaches none is refused.
    Returns {"01": {name: value cast to its declared type}, …} without `out`. BadInput for an
    unknown name, or a value that is not of the declared type or out of bounds.
    """
    known = {number: declared_parameters(number) for number in notebooks()}
    resolved = {
        number: {name: line.default for name, line in lines.items()}
        for number, lines in known.items()
    }
    from_file = from_preset(preset)
    from_user = from_overrides(overrides)
    if Path(preset).name == artifacts.MANIFEST:
        refuse_unknown_trunks(from_file, from_user)
    settings = [(setting, known) for setting in from_file]
    settings += [(setting, running or known) for setting in from_user]
    for (where, section, name, value), reached in settings:
        numbers = target_notebooks(where, section, name, known)
        running_now = set(numbers) & set(reached)
        if not running_now:
            raise BadInput(
                where,
                f"a parameter of notebook {', '.join(numbers)}, which does not run now",
                f"one of notebook {', '.join(reached)}",
            )
        for number in running_now:
            resolved[number][name] = check_value(
                name, value, known[number][name].type, f"{where}, {name}"
            )
    for parameters in resolved.values():
        trust_trunks(parameters)
        check_augmentation(parameters)
    return resolved


def check_augmentation(parameters: dict) -> None:
    """BadInput if the smallest size is above the largest, or a step leads beyond the range.

    Values are rounded to whole steps, from 0 degrees and from size 1.
    """
    low = parameters.get("scale_low", 1)
    high = parameters.get("scale_high", low)
    if low > high:
        raise BadInput("scale_low", f"{low:g}", f"at most scale_high, {high:g}")
    ways = {"scale_step": (1 - low, high - 1), "rotation_step": (parameters.get("rotation", 0),)}
    for name, lengths in ways.items():
        step = parameters.get(name)
        if step and any(step * round((way - 1e-9) / step) > way + 1e-6 for way in lengths):
            ends = f"scale_low {low:g} and scale_high {high:g}, from 1"
            if name == "rotation_step":
                ends = f"rotation {lengths[0]:g}, from 0"
            raise BadInput(name, f"{step:g}", f"a step that rounds nothing beyond {ends}")


def stage_parameters(resolved: dict[str, dict]) -> dict[str, dict]:
    """The parameters that each stage has in a run: how targets are drawn, its own and earlier ones.

    resolved: of `resolve`. Returns {stage: {name: value}}, in the order of training.
    """
    found = {}
    parameters = resolved["02"]
    for stage, notebook in artifacts.NOTEBOOKS.items():
        parameters = parameters | resolved[notebook]
        found[stage] = parameters
    return found


def check_value(name: str, value: Any, kind: str, where: str) -> Any:
    """The value cast to its declared type. BadInput if it is not of the type or out of bounds."""
    value = cast(value, kind, where)
    if fault := schemas.first_fault(value, schemas.PARAMETERS.get(name, Any)):
        raise BadInput(where, format_value(value), fault[2])
    return value


def from_preset(preset: str | Path) -> list[tuple]:
    """A preset's settings as (where it is written, section, name, value), `all` first.

    The manifest.json of a run is a preset, too: of the parameters that it was made with.
    """
    path = Path(preset)
    if path.name == artifacts.MANIFEST:
        sections = artifacts.manifest(path.parent, "parameters")["parameters"]
    else:
        if not str(preset).endswith(".yaml"):
            path = NOTEBOOKS / "presets" / f"{preset}.yaml"
        sections = read_sections(path)
    ordered = sorted(sections.items(), key=lambda item: item[0] != "all")
    return [
        (path, section, name, value)
        for section, part in ordered
        for name, value in (part or {}).items()
    ]


def read_sections(path: Path) -> dict[str, dict | None]:
    """A preset's file as {section: {name: text}}. BadInput if it is absent or no such file."""
    try:
        with artifacts.open_file(path) as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        known = ", ".join(names()) or "none, there are no presets here"
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
    return sections


def read_texts(path: Path, content: bytes) -> Any:
    """YAML, and so JSON, with every scalar as the text that is there; None for nothing or null.

    The declared type says what a text means: 010 is ten, 1:30 is no number. BadInput, naming the
    file and the key, on a repeated key, an alias, a nested list or invalid YAML.
    """
    import yaml

    class Texts(yaml.BaseLoader):
        """Every scalar as its text; what may mean two things is refused."""

        depth = 0
        key = ""

        def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
            """No alias, and nothing nested deeper than a preset is."""
            if self.depth == 2 and isinstance(index, yaml.ScalarNode):
                self.key = f", {trim(index.value)}"
            if self.check_event(yaml.AliasEvent):
                name = self.peek_event().anchor
                found = f"the alias *{trim(name)}"
                raise BadInput(f"{path}{self.key}", found, "the value itself")
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
                    found = f"{trim(key.value)} twice, in lines {lines[key.value]} and {line}"
                    raise BadInput(path, found, "each section and name once")
                lines[key.value] = line
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(content, Texts)
    except (ValueError, yaml.YAMLError) as error:
        raise BadInput(path, f"{type(error).__name__}: {error}", "YAML") from None


def from_overrides(texts: Iterable[str]) -> list[tuple[str, str, str, str]]:
    """Overrides as (where, section, name, value), `all` first. BadInput for a name given twice."""
    settings = sorted(map(from_override, texts), key=lambda setting: setting[1] != "all")
    unique = {}
    for setting in settings:
        where, section, name, _ = setting
        if (earlier := unique.setdefault((section, name), setting)) is not setting:
            found = f"{name} twice, with {format_value(earlier[3])} before"
            raise BadInput(where, found, "each parameter once")
    return settings


def from_override(text: str) -> tuple[str, str, str, str]:
    """ "03.name=value" or "name=value" as (where, section, name, value)."""
    match = re.fullmatch(r"\s*(?:(\d\d)\.)?(\w+)\s*=(.*)", text, re.DOTALL)
    if not match:
        raise BadInput(f"-p {trim(text)}", "no name=value", "name=value or NN.name=value")
    return f"-p {trim(text)}", match[1] or "all", match[2], match[3].strip()


def target_notebooks(where: object, section: str, name: str, known: dict) -> list[str]:
    """The notebooks a setting is for. BadInput if none declares the name."""
    if name == "out":
        raise BadInput(where, "out", "--out DIR, which says where to write")
    if section != "all" and section not in known:
        raise BadInput(where, f"section {format_value(section)}", f"all, {', '.join(known)}")
    asked = known if section == "all" else {section: known[section]}
    numbers = [number for number, declared in asked.items() if name in declared]
    if not numbers:
        there = sorted(set().union(*asked.values()))
        close = difflib.get_close_matches(str(name), there)
        of = "" if section == "all" else f" of notebook {section}"
        found = f"unknown parameter {format_value(name)}{of}"
        raise BadInput(where, found, " or ".join(close) or f"one of {', '.join(there)}")
    return numbers


def cast(value: Any, kind: str, where: str = "value") -> Any:
    """A value from YAML, a command line or a cell as its declared type.

    kind: one of TYPES, list[…], or one of these with " | None".
    """
    if kind.endswith(" | None"):
        if value in (None, "", "none", "None", "null"):
            return None
        return cast(value, kind.removesuffix(" | None"), where)
    if kind.startswith("list"):
        inner = kind[5:-1] or "str"
        return [cast(item, inner, where) for item in as_list(value)]
    if kind not in TYPES:
        expected = f"{', '.join(TYPES)}, list[…], each with '| None' if need be"
        raise BadInput(where, f"type {kind}", expected)
    try:
        return TypeAdapter(TYPES[kind]).validate_python(value)
    except ValidationError:
        raise BadInput(where, format_value(value), kind) from None


def format_value(value: Any) -> str:
    """A value for a message."""
    return trim(repr(value))


def trim(text: str) -> str:
    """At most 80 characters of a text."""
    return text if len(text) <= 80 else text[:79] + "…"


def as_list(value: Any) -> list:
    """A list as it is; a text such as "0.7, 1.3" or "[0.7, 1.3]" taken apart; anything else alone
    in a list.
    """
    if isinstance(value, str):
        value = [part.strip(" '\"") for part in value.strip("[] ").split(",") if part.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def parse_exponent(value: Any) -> Any:
    """A text such as "1e3" as a number, anything else as it is. ValueError for a truth value."""
    if isinstance(value, bool):
        raise ValueError("no number")
    return float(value) if isinstance(value, str) and "e" in value.lower() else value


TYPES = {
    "int": Annotated[int, BeforeValidator(parse_exponent)],
    "float": Annotated[FiniteFloat, BeforeValidator(parse_exponent)],
    "str": Annotated[
        str, Field(coerce_numbers_to_str=True), schemas.bound(lambda text: "\0" not in text, "text")
    ],
    "bool": bool,
}
