"""What each kind of JSON that a run reads back must look like: one class a kind, types and bounds.

The bounds leave room for every network that anybody would train. Entries that no class names are
let through: nothing is computed from them.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

Text = Annotated[str, Field(max_length=4096)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Stride = Literal[1, 2, 4]
Side = Annotated[int, Field(ge=32, le=2048, multiple_of=4)]  # of a crop, px


def odd(number: int) -> int:
    """The number itself. ValueError if it is even."""
    if number % 2 == 0:
        raise ValueError("an odd number")
    return number


Kernel = Annotated[int, Field(ge=1, le=63), AfterValidator(odd)]


class Schema(BaseModel):
    """Values of the very type that is named, none of them NaN or infinite. An entry may be absent,
    but not null.
    """

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
    channels: Annotated[int, Field(ge=2, le=4096, multiple_of=2)] = None
    levels: Annotated[int, Field(ge=1, le=8)] = None
    bottlenecks: Annotated[int, Field(ge=1, le=16)] = None
    stem: Literal["conv7", "patch"] = None
    kernels: Annotated[list[Kernel], Field(min_length=4, max_length=4)] = None
    std: Annotated[float, Field(ge=0, le=10)] = None


class Network(Parts):
    """A stage manifest's "network"."""

    model_config = ConfigDict(extra="forbid")
    trunk: Name
    map_stride: Stride


class Settings(Parts):
    """A stage manifest's "settings": every parameter, those of test time included."""

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
    weights_sha256: Hash = None
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
    train: Name
    val: Name
    image_size: Side
    data_seed: Count
    only_present: bool
    margin: Annotated[float, Field(gt=0, le=100)]
    missing_points: Literal["as_labelled", "withheld", "invented"]
    difficulty: Literal["easy", "medium", "hard"] = "medium"


class Fingerprints(Schema):
    """Of the people of both halves."""

    train: Hash
    val: Hash


class Data(Schema):
    """data/manifest.json."""

    parameters: People = None
    fingerprints: Fingerprints = None
    skipped: dict[str, dict[Text, Count]] = None


class Drawn(Schema):
    """How targets are drawn: px at a body of 200 px."""

    radius: Annotated[float, Field(gt=0)] = None
    sigma: Annotated[float, Field(gt=0)] = None
    occluded: Literal["empty", "ignored"] = None


class Targets(Schema):
    """targets/manifest.json."""

    parameters: Drawn = None


class Executed(Schema):
    """A notebook that a run has executed."""

    notebook: Annotated[str, Field(pattern=r"^[^/\\]+\.ipynb$", max_length=200)]
    wall_seconds: Amount


class Run(Schema):
    """A run's own manifest.json."""

    command: Text = None
    preset: Text = None
    parameters: dict[Name, dict[Name, JsonValue]] = None
    notebooks: dict[Name, Executed] = None


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


KINDS = {
    "stage": Stage,
    "data": Data,
    "targets": Targets,
    "run": Run,
    "rows": Rows,
    "network": Network,
    "record": Record,
    "metrics": Metrics,
}


def fault(value: Any, kind: str) -> tuple[str, str, str] | None:
    """What its kind's class first objects to in a value: (where, found, expected), or None."""
    try:
        KINDS[kind].model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(name for name in first["loc"] if isinstance(name, str)) or kind
        found = "nothing" if first["type"] == "missing" else repr(first["input"])
        expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        return where, found, expected
    return None
