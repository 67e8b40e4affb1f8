"""Schemas (types and bounds) of parameters and of every JSON file that a run reads back.

The bounds leave room for every network that anybody would train. Entries that no class names are
let through: nothing is computed from them.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
)

Text = Annotated[str, Field(max_length=4096)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Epochs = Annotated[int, Field(ge=0, le=100_000)]
Amount = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Length = Annotated[float, Field(gt=0, le=1000)]
Share = Annotated[float, Field(ge=0, lt=1)]
Degrees = Annotated[float, Field(ge=0, le=360)]
Stride = Literal[1, 2, 4]
Side = Annotated[int, Field(ge=32, le=2048, multiple_of=4)]  # of a crop, px
Width = Annotated[int, Field(ge=2, le=4096, multiple_of=2)]
MOST_PEOPLE = 10_000_000
PEOPLE = (
    f"FIRST-LAST counted from 1, such as 1-8000, at most {MOST_PEOPLE:,} people, or train, val, "
    "test or all, or both, such as val 1-100"
)
DRAWN_PEOPLE = "FIRST-LAST counted from 1, or nothing"


def person_range(people: str) -> tuple[str, slice] | None:
    """ "8-9" (people, counted from 1, both ends included), "val" or "val 8-9" as (split, slice);
    None if it is neither.

    The split is "all" where only a range is given, the slice is slice(0, None) where only a split
    is.
    """
    match = re.fullmatch(r"(train|val|test|all)?(?:(?:^| )([0-9]{1,9})-([0-9]{1,9}))?", people)
    if not match or not match[0]:
        return None
    first, last = (int(match[2]), int(match[3])) if match[2] else (1, None)
    if not 0 < first <= (first if last is None else last) < first + MOST_PEOPLE:
        return None
    return match[1] or "all", slice(first - 1, last)


def is_drawn_range(people: str) -> bool:
    """Does it name synthetic people, or nobody?"""
    if not people:
        return True
    split, rows = person_range(people) or ("", slice(None))
    return split == "all" and rows.stop is not None


def bound(hold: Callable[[Any], Any], expected: str) -> AfterValidator:
    """A bound that has no name in pydantic. expected: in words."""

    def validate(value: Any) -> Any:
        """The value itself. ValueError if it is out of bounds."""
        if not hold(value):
            raise ValueError(expected)
        return value

    return AfterValidator(validate)


STEP = bound(lambda step: not 0 < step < 1e-6, "0, for any value, or a step above 0.000001")
Kernel = Annotated[int, Field(ge=1, le=63), bound(lambda size: size % 2, "an odd number")]
Scale = Annotated[float, Field(ge=0.25, le=4)]
Kernels = Annotated[list[Kernel], Field(min_length=4, max_length=4)]
Persons = Annotated[str, bound(person_range, PEOPLE)]


class Schema(BaseModel):
    """Base: strict types, no NaN or infinity. An entry may be absent, but not null."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow", defer_build=True)
    __pydantic_extra__: dict[str, JsonValue]


class Parts(Schema):
    """The numbers that make a cascade (cascade.Cascade)."""

    trunk: Name = None
    map_stride: Stride = None
    image_size: Side = None
    prior: Annotated[float, Field(gt=0, lt=1)] = None
    first: Literal["detection", "regression"] = None
    rival: Literal["", "deconvolutions", "stacked_hourglass"] = None
    rival_channels: Annotated[int, Field(ge=8, le=1024, multiple_of=8)] = None
    regressor: Literal["hourglass", "convolutions"] = None
    stacked: Literal["both", "image", "heatmaps"] = None
    channels: Width = None
    levels: Annotated[int, Field(ge=1, le=8)] = None
    bottlenecks: Annotated[int, Field(ge=1, le=16)] = None
    stem: Literal["conv7", "patch"] = None
    kernels: Kernels = None
    std: Annotated[float, Field(ge=0, le=10)] = None


class Network(Parts):
    """A stage manifest's "network"."""

    model_config = ConfigDict(extra="forbid")
    trunk: Name
    map_stride: Stride


class Drawn(Schema):
    """How targets are drawn: px at a body of 200 px."""

    radius: Length = None
    sigma: Length = None
    occluded: Literal["empty", "ignored"] = None


class Settings(Parts, Drawn):
    """How a stage is trained, test time included: a stage manifest's "settings"."""

    first_sees: Literal["", "visible", "all"] = None
    first_maps: Literal["", "discs", "gaussians"] = None
    first_sigma: Annotated[float, Field(ge=0, le=1000)] = None
    map_dropout: Share = 0.0
    map_noise: Share = 0.0
    frozen_blocks: Annotated[int, Field(ge=0, le=7)] = 0
    seed: Seed = None
    epochs: Epochs = None
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = None
    optimizer: Literal["adamw", "rmsprop", "sgd"] = None
    weight_decay: Amount = None
    lr: Positive = None
    trunk_lr: Amount = 0.0
    lr_end: Positive = None
    schedule: Literal["cosine", "geometric", "step"] = None
    warmup: Share = None
    rotation: Degrees = None
    rotation_step: Annotated[Degrees, STEP] = None
    scale_low: Scale = None
    scale_high: Scale = None
    scale_step: Annotated[float, Field(ge=0, le=0.4), STEP] = None  # no scale is rounded to 0
    colour: Share = None
    ema: Share = 0.0
    save_minutes: Amount = 10.0
    pretrained: bool = False
    compiled: bool = False
    deterministic: bool = False
    decoder: Literal["argmax", "quarter", "parabola", "centroid"] = None
    flip_test: bool = None
    precision: Literal["no", "fp16", "bf16"] = None
    workers: Annotated[int, Field(ge=0, le=1024)] = None


class Stage(Schema):
    """manifest.json beside a stage's weights."""

    kind: Literal["detector", "regressor", "joint"] = None
    network: Network = None
    settings: Settings = None
    parameters: dict[Name, JsonValue] = None
    upstream: dict[Name, Text] = None
    unlabelled: list[Name] = None
    epochs_before: Count = None
    weights_sha256: Hash = None
    history_sha256: Hash | None = None
    seed: int = None
    steps: Count = None
    processes: Count = None
    wall_seconds: Amount = None
    peak_memory_mb: Amount | None = None


class People(Schema):
    """Who a run trains on and how they are framed (datasets.prepare)."""

    model_config = ConfigDict(extra="forbid")
    dataset: Literal["synthetic", "mpii", "lsp", "lspet", "leeds"]
    data_root: Text
    train: Persons
    val: Persons
    image_size: Side
    data_seed: Seed
    only_present: bool
    margin: Length
    missing_points: Literal["as_labelled", "withheld", "invented"]
    difficulty: Literal["easy", "medium", "hard"] = "medium"
    drawn: Annotated[str, bound(is_drawn_range, DRAWN_PEOPLE)] = ""


class Fingerprints(Schema):
    """Of the people of both halves."""

    train: Hash
    val: Hash


class Data(Schema):
    """data/manifest.json."""

    parameters: People = None
    fingerprints: Fingerprints = None
    skipped: dict[str, dict[Text, Count]] = None


class Targets(Schema):
    """targets/manifest.json."""

    parameters: Drawn = None


class Executed(Schema):
    """A notebook that a run has executed."""

    notebook: Annotated[str, Field(pattern=r"^[^/\\]+\.ipynb$", max_length=200)]
    wall_seconds: Amount
    on: dict[Name, JsonValue] = None


class Run(Schema):
    """A run's own manifest.json."""

    command: Text = None
    preset: Text = None
    parameters: dict[Name, dict[Name, JsonValue]] = None
    notebooks: dict[Name, Executed] = None


class Written(Schema):
    """Whether a notebook's numbers are as it wrote them, and what they rest on."""

    sha256: Hash
    on: dict[Name, JsonValue]


class Numbers(Schema):
    """metrics/manifest.json."""

    notebooks: dict[Name, Written]


class Rows(Schema):
    """rows/manifest.json: the ablation's rows, each a folder beside it."""

    names: list[Annotated[str, Field(pattern=r"^[^/\\]+$", max_length=200)]]


class Record(Schema):
    """One line of history.jsonl: an epoch. The scorer's numbers stand beside these."""

    stage: Literal["detector", "regressor", "joint"]
    epoch: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    loss: float
    lr: Amount
    seconds: Amount
    images_per_second: Amount
    peak: float | None
    warning: Text = None


class Score(Schema):
    """Percentages of one score, null where the truth cannot say."""

    metric: Name = None
    total: float | None
    persons: Count = None
    joints: Count = None


class Metrics(Schema):
    """metrics.json: what the notebooks found."""

    metric: Name = None
    dataset: Name = None
    center_from_joints: bool = None
    cascade: Score = None
    regressor: Score = None
    detector: dict[Name, Score] = None


class Others(Schema):
    """Parameters of the notebooks after the three stages."""

    vgg_channels: Width = None
    vgg_kernels: Kernels = None
    vgg_std: Amount = None
    stage_epochs: Annotated[
        list[Epochs],
        bound(lambda given: len(given) in (0, 3), "0 or 3 values"),
        bound(lambda given: not given or given[0], "at least one epoch of the first stage"),
    ]
    seeds: list[Seed] = None
    count: Annotated[int, Field(ge=1, le=10_000)] = None


KINDS = {
    "stage": Stage,
    "data": Data,
    "targets": Targets,
    "run": Run,
    "rows": Rows,
    "numbers": Numbers,
    "network": Network,
    "settings": Settings,
    "record": Record,
    "metrics": Metrics,
}


class Parameters(People, Settings, Others):
    """Of all notebooks."""


PARAMETERS = get_type_hints(Parameters, include_extras=True)  # by name, with their bounds


def first_fault(value: Any, wanted: Any) -> tuple[str, str, str] | None:
    """What a type, or the class of a kind, first objects to: (where, found, expected), or None."""
    try:
        TypeAdapter(KINDS.get(wanted, wanted)).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(name for name in first["loc"] if isinstance(name, str)) or getattr(
            wanted, "__name__", wanted
        )
        if first["type"] == "missing":
            return where, "nothing", "a value"
        expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        return where, repr(first["input"]), expected
    return None
