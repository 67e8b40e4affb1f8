"""Hands on the heatmaps: what figures draws, redrawn as a person moves a control, a key or the mouse.

Every panel is a picture (a pure function of figures), its controls and one line of text. What cannot be shown becomes
that line, never a traceback. Without a live kernel a panel is nothing: notebooks show the same picture beside it.
"""

import asyncio
import contextlib
import html
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import anywidget
import cv2
import ipywidgets as ui
import numpy as np
import traitlets
from PIL import Image

from hpe_lib import evaluation, prediction, stages
from hpe_lib.cascade import STAGES, Cascade
from hpe_lib.data.augment import PoseDataset
from hpe_lib.data.images import decode_image, read_image
from hpe_lib.data.people import People
from hpe_lib.photographs import PoseEstimator
from hpe_lib.prediction import Predictions
from hpe_lib.skeleton import ABSENT, MPII
from hpe_lib.targets import Targets
from hpe_lib.view import figures
from hpe_lib.view.drawing import SURE
from hpe_lib.workbook.artifacts import HISTORY, BadInput

MARKS = "Ring: the labelled place, dashed if occluded; cross: where the map points"
ALL = -1  # in a menu of joints: None there means that nothing is chosen


class Screen(anywidget.AnyWidget):
    """A picture in the browser that tells of keys and, where `drags`, of boxes dragged over it.

    png: the picture.  alt: what it shows, for who cannot see it.  answered: messages dealt with (widgets.js waits).
    """

    _esm = Path(__file__).with_name("widgets.js")
    _css = Path(__file__).with_name("widgets.css")
    png = traitlets.Bytes().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    drags = traitlets.Bool(False).tag(sync=True)
    answered = traitlets.Int(0).tag(sync=True)

    def show(self, picture: Image.Image) -> None:
        """Replace the picture. Fast compression: it only travels to the browser."""
        data = cv2.imencode(
            ".png", np.asarray(picture)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1]
        )[1]
        self.png = data.tobytes()

    def listen(self, heard: Callable[[dict], None]) -> None:
        """Call heard(message) for {"key": "ArrowLeft"} and {"box": [x1, y1, x2, y2], "done": bool}, picture px."""

        def answer(_, message, __):
            try:
                heard(message)
            finally:
                self.answered += 1

        self.on_msg(answer)


class Panel(ui.VBox):
    """A screen, a line of text under it and controls beside it. A subclass says what to `draw` and what to `hear`.

    title: what the picture is, for who cannot see it; the line of text is added.  legend: how to read it.
    """

    legend = ""

    def __init__(self, title: str, controls: list, drags: bool = False):
        self.title, self.screen, self.line = title, Screen(drags=drags), ui.HTML()
        self.screen.listen(self.hear)
        for control in controls:
            if isinstance(control, ui.ValueWidget):
                control.observe(self.refresh, "value")
        side = ui.VBox(controls, layout=ui.Layout(width="310px"))
        picture = ui.HBox(
            [self.screen, side], layout=ui.Layout(flex_flow="row wrap", grid_gap="12px")
        )
        super().__init__([picture, self.line, ui.HTML(f"<small>{self.legend}</small>")])
        self.refresh()

    def refresh(self, _=None) -> None:
        """Draw anew. What was asked for and cannot be shown is said in the line; the picture is empty then."""
        try:
            picture, text = self.draw()
        except BadInput as error:
            picture, text = Image.new("RGB", (560, 60), "#eeeeee"), str(error)
        self.screen.alt = f"{self.title}. {text}"
        self.screen.show(picture)
        self.line.value = html.escape(text)

    def draw(self) -> tuple[Image.Image, str]:
        """(picture, line of text) for what the controls say; BadInput becomes the line."""
        raise NotImplementedError

    def hear(self, message: dict) -> None:
        """A key or a box from the screen (`Screen.listen`)."""


def joints_menu(value: str, one_joint: bool = False) -> ui.Dropdown:
    """A menu of the joints' rows and, unless there must be one joint, ALL."""
    options = [
        *([] if one_joint else [("all joints", ALL)]),
        *zip(MPII.names, range(len(MPII.names))),
    ]
    return ui.Dropdown(options=options, value=dict(options)[value], description="joint")


def chosen(menu: ui.Dropdown) -> int | None:
    """A joint's row; None for all of them, as figures and evaluation have it."""
    return None if menu.value == ALL else menu.value


class Browser(Panel):
    """A panel on one person at a time and one joint: ◀ ▶, or left and right, for people, up and down for joints."""

    def __init__(
        self,
        title: str,
        people: People,
        image_size: int,
        controls: list,
        one_joint: bool = False,
        drags: bool = False,
    ):
        self.people, self.image_size = people, image_size
        self.place = ui.IntSlider(1, 1, max(1, len(people)), description="person")
        self.place.observe(self.turned, "value")
        self.joint = joints_menu("left_wrist", one_joint)
        buttons = [
            ui.Button(description=name, layout=ui.Layout(width="145px"))
            for name in ("◀ previous", "next ▶")
        ]
        for button, by in zip(buttons, (-1, 1)):
            button.on_click(lambda _, by=by: self.go(by))
        super().__init__(title, [self.joint, *controls, self.place, ui.HBox(buttons)], drags)

    def go(self, by: int) -> None:
        """So many people on, or back; stops at the ends."""
        self.place.value = min(max(self.place.value + by, 1), self.place.max)

    def turned(self, _) -> None:
        """Called before another person is drawn."""

    @property
    def row(self) -> int:
        """Of the person, among those that are shown. BadInput if there is nobody."""
        if not len(self.people):
            raise BadInput("these people", "nobody", "somebody to show")
        return self.place.value - 1

    def hear(self, message: dict) -> None:
        key = message.get("key")
        if key in ("ArrowLeft", "ArrowRight"):
            self.go(1 if key == "ArrowRight" else -1)
        if key in ("ArrowUp", "ArrowDown"):
            by = 1 if key == "ArrowDown" else -1
            self.joint.index = (self.joint.index + by) % len(self.joint.options)

    def state(self, visibility: int) -> str:
        """A joint's state in words; where the data set knows no occlusion, "annotated" is all there is to say."""
        known = self.people.occlusion_labels or visibility == ABSENT
        return figures.STATES[int(visibility)] if known else "annotated"

    def unit(self, row: int) -> tuple[float, str]:
        """(the metric's normaliser of a person in crop px, NaN if unknown; its name)."""
        name = "head sizes" if self.people.metric.startswith("PCKh") else "torsos"
        return self.people.normaliser[row] * self.image_size / self.people.side[row], name

    def apart(self, row: int, found: np.ndarray, truth: np.ndarray, state: int) -> str:
        """How far a joint found is from its label, both (2,) crop px."""
        distance, (unit, name) = np.linalg.norm(found - truth), self.unit(row)
        if state == ABSENT:
            return "no label to compare with"
        return f"{distance:.1f} crop px" if np.isnan(unit) else f"{distance / unit:.2f} {name} off"


def fitting(cascade: Cascade, image_size: int) -> None:
    """BadInput if the cascade was trained on crops of another size than these."""
    trained = cascade.network.get("image_size", image_size)
    if trained != image_size:
        raise BadInput(
            "the cascade",
            f"one trained on crops of {trained} px",
            f"one of {image_size} px, as these are",
        )


class Inspector(Browser):
    """What should be seen, what each network sees and where it points: people by error, by occlusion, by joint.

    people: N; answer: the cascade's predictions of them, by which they are sorted; targets: of the networks' stride.
    A layer is one of figures.LAYERS; all joints at once are a contact sheet. Maps are without flip test.
    """

    legend = MARKS + (
        "; colours: from nothing at 0 to yellow at the highest value of any joint; difference: orange "
        "where the regressor says more than the detector, purple where less. Keys: ← → people, ↑ ↓ "
        "joints"
    )

    def __init__(
        self,
        cascade: Cascade,
        people: People,
        image_size: int,
        answer: Predictions,
        targets: Targets,
    ):
        self.cascade, self.answer, self.targets = cascade, answer, targets
        self.person, self.samples = lru_cache(8)(self._person), PoseDataset(people, image_size)
        named = figures.LAYERS[:2] if cascade.regressor is None else figures.LAYERS
        self.layer = ui.Dropdown(
            options=named,
            value="regressor" if cascade.regressor else "detector",
            description="layer",
        )
        self.opacity = ui.FloatSlider(0.85, min=0, max=1, step=0.05, description="opacity")
        self.keep = ui.Dropdown(options=evaluation.KEEP, description="show")
        self.order = ui.Dropdown(options=evaluation.ORDER, description="sort by")
        for choice in (self.keep, self.order):
            choice.observe(
                lambda _: setattr(self.place, "value", 1), "value"
            )  # others are the first now
        super().__init__(
            "A joint's map on a person's crop",
            people,
            image_size,
            [self.layer, self.opacity, self.keep, self.order],
        )

    def _person(self, row: int) -> figures.Layers:
        return figures.layers(self.cascade, self.targets, self.samples[row])

    def draw(self):
        fitting(self.cascade, self.image_size)
        joint, layer = chosen(self.joint), self.layer.value
        rows = evaluation.selected(
            self.answer.joints, self.people, joint, self.keep.value, self.order.value
        )
        self.place.max = max(1, len(rows))
        if not len(rows):
            raise BadInput(
                "this selection", "nobody", f"people with {self.joint.label} {self.keep.value}"
            )
        row = int(rows[self.row])
        person, head = self.person(row), f"{self.row + 1} of {len(rows)}, {self.people.keys[row]}"
        if joint is None:
            return figures.all_maps(person, layer, self.opacity.value), f"{head} · {layer}"
        parts = [f"{head} · {MPII.names[joint]}, {self.state(person.visibility[joint])}"]
        parts += [
            f"{name}: peak {person.maps[name][joint].max():.2f}, "
            + self.apart(row, found[joint], person.joints[joint], person.visibility[joint])
            for name, found in person.found.items()
            if name != "difference"
        ]
        return figures.one_map(person, layer, joint, self.opacity.value), " · ".join(parts)


class Cover(Browser):
    """Drag a patch over a person: both networks' maps of a joint and the pose answer at once; a click removes it."""

    legend = MARKS + "; colours: one scale for both networks. Keys: ← → people, ↑ ↓ joints"

    def __init__(
        self, cascade: Cascade, people: People, image_size: int, decoder: str = "parabola"
    ):
        self.cascade, self.decoder, self.box = cascade, decoder, None
        self.sample = lru_cache(8)(PoseDataset(people, image_size).__getitem__)
        self.uncovered = lru_cache(8)(self.seen)
        super().__init__(
            "A crop to cover, and both networks' maps of one joint",
            people,
            image_size,
            [],
            one_joint=True,
            drags=True,
        )

    def seen(self, row: int, box: tuple | None = None) -> tuple:
        """(the crop with the patch on it, what `figures.seen` says of it)."""
        crop = self.sample(row)["image"].numpy()
        crop = crop if box is None else prediction.cover_box(crop, box)
        return crop, *figures.seen(self.cascade, crop, self.decoder)

    def hear(self, message: dict) -> None:
        super().hear(message)
        if "box" in message:
            box = figures.on_crop(message["box"], self.image_size)
            self.box = box if min(box[2] - box[0], box[3] - box[1]) >= 1 else None
            self.refresh()

    def turned(self, _):
        self.box = None  # it was for the person before

    def draw(self):
        fitting(self.cascade, self.image_size)
        if self.cascade.regressor is None:
            raise BadInput("the cascade", "a detector alone", "both networks")
        row, joint = self.row, self.joint.value
        truth, state = (self.sample(row)[name][joint].numpy() for name in ("joints", "visibility"))
        crop, before, found = self.uncovered(row)
        maps = before
        if self.box is not None:
            crop, maps, found = self.seen(row, self.box)
        parts = [
            f"{name}: peak {before[name][joint].max():.2f} → {maps[name][joint].max():.2f}, "
            + self.apart(row, found[name][joint], truth, state)
            for name in maps
        ]
        text = f"{self.people.keys[row]} · {MPII.names[joint]}, {self.state(state)} · "
        return figures.covered(crop, maps, found, joint, truth, state), text + " · ".join(parts)


class TargetExplorer(Browser):
    """Radius, σ, rotation, scale and mirroring by slider, the targets of notebook 02 drawn anew at each move."""

    legend = (
        "Dots: orange right, blue left, green between; hollow: occluded, so without a disc. "
        "Keys: ← → people, ↑ ↓ joints"
    )

    def __init__(self, people: People, image_size: int, targets: Targets):
        self.targets = targets
        self.radius = ui.FloatSlider(
            targets.radius, min=1, max=max(40, targets.radius), step=0.5, description="radius"
        )
        self.sigma = ui.FloatSlider(
            targets.sigma, min=0.5, max=max(20, targets.sigma), step=0.5, description="sigma"
        )
        self.angle = ui.IntSlider(0, -180, 180, description="rotation, °")
        self.scale = ui.FloatSlider(1.0, min=0.5, max=1.5, step=0.05, description="scale")
        self.mirrored = ui.Checkbox(False, description="mirrored")
        controls = [self.radius, self.sigma, self.angle, self.scale, self.mirrored]
        super().__init__("A person, discs and Gaussians", people, image_size, controls)

    def draw(self):
        old, joint = self.targets, chosen(self.joint)
        targets = Targets(
            old.map_stride,
            self.radius.value,
            self.sigma.value,
            old.occluded,
            old.first,
            old.first_sees,
        )
        picture = figures.moved_targets(
            self.people,
            self.row,
            self.image_size,
            targets,
            joint,
            self.scale.value,
            self.angle.value,
            self.mirrored.value,
        )
        state = "" if joint is None else ", " + self.state(self.people.visibility[self.row, joint])
        return picture, (
            f"{self.people.keys[self.row]} · {self.joint.label}{state} · "
            f"radius and sigma: px at a body of {figures.BODY:.0f} px"
        )


class Monitor(Panel):
    """A run's learning curves and the maps of some held-out people after any epoch, read from its folder.

    So it shows a training of another notebook, of a terminal, or of before the browser was closed; while the kernel is
    free it looks for new epochs every two seconds.
    """

    legend = "Above a person: stage, epoch and the value at which the colours end"

    def __init__(self, out: str | Path):
        self.out, self.curves, self.drawn = Path(out), Screen(), None
        self.joint = joints_menu("all joints")
        self.epoch = ui.IntSlider(1, 1, 1, description="epoch")
        super().__init__("Maps of held-out people after an epoch", [self.epoch, self.joint])
        self.children = (self.curves, *self.children)
        try:
            self.task = asyncio.get_running_loop().create_task(self.follow())
        except RuntimeError:  # no kernel: nobody to show new epochs to
            self.task = None

    def files(self) -> dict[Path, list[tuple[Path, int]]]:
        """The run's stages, the one trained last as the last; of each, history and maps with their times of change."""
        found = {}
        for name in STAGES.values():
            folder = self.out / name
            for path in (folder / HISTORY, *sorted(folder.glob("watched/*.npz"))):
                with contextlib.suppress(
                    FileNotFoundError
                ):  # a training that begins anew has just removed it
                    changed = path.stat().st_mtime_ns
                    found.setdefault(folder, []).append((path, changed))
        return dict(sorted(found.items(), key=lambda stage: stage[1][0][1]))

    def draw(self):
        files = self.files()
        records = {folder: found for folder in files if (found := stages.history(folder))}
        if files != self.drawn and records:
            self.curves.alt = f"Learning curves of {sum(map(len, records.values()))} epochs"
            self.curves.show(
                figures.curves({found[0]["stage"]: found for found in records.values()})
            )
        self.drawn = files
        if not records:
            raise BadInput(
                self.out, "no epoch of any stage yet", "a run that trains or has trained"
            )
        epochs = [epoch for folder in files for epoch in stages.watched_maps(folder)]
        if not epochs:
            raise BadInput(self.out, "no watched maps", "a stage's watched/0001.npz, …")
        last, self.epoch.max = self.epoch.value == self.epoch.max, len(epochs)
        if last:
            self.epoch.value = self.epoch.max
        line = stages.record_line([record for found in records.values() for record in found][-1])
        shown = epochs[self.epoch.value - 1 : self.epoch.value]
        return figures.sharpening(shown, chosen(self.joint), 160, across=True), f"last: {line}"

    async def follow(self) -> None:
        """Refresh when the folder holds something else than is drawn."""
        while self.comm is not None:
            await asyncio.sleep(2)
            if self.files() != self.drawn:
                self.refresh()


class Photograph(Panel):
    """A photograph by upload or path, a box around a person by dragging, the pose out: `PoseEstimator.predict`.

    people: what it returned last, as in the JSON of `hpe predict`.
    """

    legend = (
        "Right orange, circles; left blue, squares; between green, diamonds; hollow and thin: not sure. "
        "White frame: what the network sees"
    )

    def __init__(self, estimator: PoseEstimator, path: str = ""):
        self.estimator, self.box, self.people, self.image = estimator, None, [], None
        self.upload = ui.FileUpload(accept="image/*", description="upload")
        self.path = ui.Text(path, description="or path", continuous_update=False)
        whole = ui.Button(description="whole image")
        whole.on_click(lambda _: self.take(None))
        for source in (self.upload, self.path):
            source.observe(self.opened, "value")
        self.source = self.path
        super().__init__(
            "A photograph and the pose found in it", [self.upload, self.path, whole], drags=True
        )

    def opened(self, change) -> None:
        """Another photograph: the box was of the one before."""
        self.source, self.box, self.image = change["owner"], None, None

    def take(self, box) -> None:
        """Look into a box [x1, y1, x2, y2], image px, tight around the person; None: the whole image."""
        self.box = box
        self.refresh()

    def hear(self, message):
        if message.get("done") and self.image is not None:
            zoom = self.image.shape[1] / figures.photograph(self.image, []).width
            box = [zoom * edge for edge in message["box"]]
            self.take(box if min(box[2] - box[0], box[3] - box[1]) >= 2 else None)

    def read(self) -> np.ndarray:
        """The photograph's pixels. BadInput if there is none or it cannot be read."""
        if self.source is self.upload and self.upload.value:
            return decode_image(
                self.upload.value[0]["name"], bytes(self.upload.value[0]["content"])
            )
        if not self.path.value:
            raise BadInput("photograph", "none", "an upload, or the path of one")
        try:
            return read_image(Path(self.path.value).expanduser())
        except RuntimeError as error:  # ~ of somebody unknown
            raise BadInput(self.path.value, error, "the path of a photograph") from None

    def draw(self):
        self.people = []
        self.image = self.read() if self.image is None else self.image
        self.people = self.estimator.predict(self.image, None if self.box is None else [self.box])
        sure = sum(joint["confidence"] >= SURE for joint in self.people[0]["joints"].values())
        text = (
            f"{sure} of 16 joints with a confidence of {SURE} or more"
            if sure
            else f"nobody found here: no joint "
            f"reaches a confidence of {SURE}; is there a person in the box, alone and upright?"
        )
        return figures.photograph(
            self.image, self.people
        ), f"{text} · drag a box tight around one person"
