"""Panels for a notebook: pictures of `pictures`, redrawn as somebody moves a control or the mouse.

A panel is a picture, its controls and one line of text. What cannot be shown becomes that line,
never a traceback. Without a live kernel a panel shows nothing, so notebooks show the same picture
below it.
"""

import dataclasses
import html
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import anywidget
import ipywidgets as ui
import numpy as np
import traitlets
from PIL import Image

from hpe_lib import evaluation, prediction, probes
from hpe_lib.cascade import Cascade
from hpe_lib.data.annotations import is_positive
from hpe_lib.data.augment import PoseDataset, joints_in_crop
from hpe_lib.data.images import decode_image, read_image
from hpe_lib.data.people import People
from hpe_lib.paper import BODY
from hpe_lib.photographs import PoseEstimator, parse_box
from hpe_lib.prediction import Predictions
from hpe_lib.skeleton import ABSENT, MPII, VISIBILITY_NAMES
from hpe_lib.targets import Targets
from hpe_lib.view import drawing, pictures
from hpe_lib.view.drawing import CONFIDENT
from hpe_lib.workbook.artifacts import BadInput

KEYS = "Keys: ← → people, ↑ ↓ joints"
MARKS = "Ring: the labelled place, dashed if occluded; cross: where the map points"
# what probes.select_rows takes
KEEP = ("everyone", "right", "wrong", "visible", "occluded")
UNLABELLED_KEEP = KEEP[:3]  # where the data set does not say which joints are occluded
ORDER = ("as they come", "largest error", "smallest error")
ALL = -1  # the menu's value for all joints; None would mean that nothing is chosen


class Screen(anywidget.AnyWidget):
    """A picture in the browser that reports keys, if it `takes_keys`, and boxes, if it `drags`.

    png: the picture.  alt: its description for people who cannot see it.  answered: how many
    messages were handled; widgets.js waits for it.
    """

    _esm = Path(__file__).with_name("widgets.js")
    _css = Path(__file__).with_name("widgets.css")
    png = traitlets.Bytes().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    drags = traitlets.Bool(False).tag(sync=True)
    takes_keys = traitlets.Bool(True).tag(sync=True)
    answered = traitlets.Int(0).tag(sync=True)

    def show(self, picture: Image.Image) -> None:
        """Replace the picture."""
        self.png = drawing.encode_png(np.asarray(picture))

    def connect(self, handle: Callable[[dict], None]) -> None:
        """Call handle(message) for each message of the browser.

        A message is {"key": "ArrowLeft"} or {"box": [x1, y1, x2, y2], "done": bool}, px of the
        picture.
        """

        def answer(_: object, message: dict, __: object) -> None:
            """Handle a message of the browser's."""
            try:
                handle(message)
            finally:
                self.answered += 1

        self.on_msg(answer)


class Panel(ui.VBox):
    """A screen with controls beside it and a line of text below. Subclasses implement `draw`.

    title: describes the picture for people who cannot see it.  legend: how to read the picture.
    """

    legend = ""

    def __init__(self, title: str, controls: list, drags: bool = False):
        self.title = title
        self.screen = Screen(drags=drags)
        self.line = ui.HTML()
        self.screen.connect(self.handle)
        for control in controls:
            if isinstance(control, ui.ValueWidget):
                control.observe(self.refresh, "value")
        side = ui.VBox(controls, layout=ui.Layout(width="310px"))
        layout = ui.Layout(flex_flow="row wrap", grid_gap="12px")
        picture = ui.HBox([self.screen, side], layout=layout)
        super().__init__([picture, self.line, ui.HTML(f"<small>{self.legend}</small>")])
        self.refresh()

    def refresh(self, _: dict | None = None) -> None:
        """Draw again. If that is not possible, the line says why and the picture is empty."""
        try:
            picture, text = self.draw()
        except BadInput as error:
            picture = Image.new("RGB", (560, 60), "#eeeeee")
            text = str(error)
        self.screen.alt = f"{self.title}. {text}"
        self.screen.show(picture)
        self.line.value = html.escape(text)

    def draw(self) -> tuple[Image.Image, str]:
        """Return the picture and the line of text. BadInput becomes the line."""
        raise NotImplementedError

    def handle(self, message: dict) -> None:
        """React to a key or a box (`Screen.connect`)."""


class PersonPanel(Panel):
    """A panel for one person and one joint at a time, chosen by menu, slider, button or key."""

    def __init__(
        self,
        title: str,
        people: People,
        image_size: int,
        controls: list,
        all_joints: bool = True,
        drags: bool = False,
    ):
        self.people = people
        self.samples = PoseDataset(people, image_size)
        self.image_size = image_size
        joints = [(name, joint) for joint, name in enumerate(MPII.names)]
        joints = [("all joints", ALL), *joints] if all_joints else joints
        wrist = MPII.index("left_wrist")
        self.joint = ui.Dropdown(options=joints, value=wrist, description="joint")
        self.place = ui.IntSlider(1, 1, max(1, len(people)), description="person")
        buttons = []
        for name, by in (("◀ previous", -1), ("next ▶", 1)):
            buttons.append(ui.Button(description=name, layout=ui.Layout(width="145px")))
            buttons[-1].on_click(lambda _, by=by: self.step(by))
        super().__init__(title, [self.joint, *controls, self.place, ui.HBox(buttons)], drags)

    def step(self, by: int) -> None:
        """Go `by` people forward; stop at the first and the last."""
        self.place.value = min(max(self.place.value + by, 1), self.place.max)

    def handle(self, message: dict) -> None:
        """Go to other people by left and right, to other joints by up and down."""
        key = message.get("key")
        if key in ("ArrowLeft", "ArrowRight"):
            self.step(1 if key == "ArrowRight" else -1)
        if key in ("ArrowUp", "ArrowDown"):
            by = 1 if key == "ArrowDown" else -1
            self.joint.index = (self.joint.index + by) % len(self.joint.options)

    @property
    def row(self) -> int:
        """The chosen person's place among those that can be chosen. BadInput if there is nobody."""
        if not len(self.people):
            raise BadInput("these people", "nobody", "somebody to show")
        return self.place.value - 1

    @property
    def chosen_joint(self) -> int | None:
        """The chosen joint; None for all joints."""
        return None if self.joint.value == ALL else self.joint.value

    def describe_label(self, visibility: int) -> str:
        """Return how a joint is labelled; "annotated" if the data set knows no occlusion."""
        known = self.people.occlusion_labels or visibility == ABSENT
        return VISIBILITY_NAMES[int(visibility)] if known else "annotated"

    def describe_errors(
        self, row: int, joint: int, visibility: int, predicted: dict[str, np.ndarray]
    ) -> dict[str, str]:
        """Return how far each network's joint is from its label.

        visibility: in the crop.  predicted: network -> (16, 2) crop px.
        """
        person = self.people[[row]]
        if visibility == ABSENT:
            return dict.fromkeys(predicted, "no label to compare with")
        points = person.frame(0, self.image_size).to_image(np.stack([*predicted.values()]))
        errors = [evaluation.distances(point[None], person)[0, joint] for point in points]
        unit = person.normaliser[0]
        name = "torsos"
        if person.metric.startswith("PCKh"):
            name = "head sizes"
        if not is_positive(unit):
            unit = 1
            name = "image px"
        texts = [f"{error / unit:.2f} {name} off" for error in errors]
        return dict(zip(predicted, texts))


def check_crop_size(cascade: Cascade, image_size: int) -> None:
    """Raise BadInput if the cascade was trained on crops of another size."""
    trained = cascade.network.get("image_size", image_size)
    if trained != image_size:
        found = f"one trained on crops of {trained} px"
        raise BadInput("the cascade", found, f"one of {image_size} px, as these are")


class Inspector(PersonPanel):
    """Shows targets, maps and joints of people, sorted by error, by occlusion or by joint.

    people: N.  answer: the cascade's predictions of them, by which they are sorted.  targets: of
    the cascade's stride.  A layer is one of pictures.LAYERS. Maps are without flip test.
    """

    legend = (
        f"{MARKS}; colours: from nothing at 0 to yellow at the highest value of a labelled joint; "
        "difference: orange where the regressor says more than the detector, purple where less, "
        "empty where a joint has no label. "
        f"{KEYS}"
    )

    def __init__(
        self,
        cascade: Cascade,
        people: People,
        image_size: int,
        answer: Predictions,
        targets: Targets,
        decoder: str = "parabola",
    ):
        self.cascade = cascade
        self.answer = answer
        self.shown = None, None  # the joint and the person that were drawn last
        self.person_maps = lru_cache(8)(
            lambda row: pictures.person_maps(cascade, targets, self.samples[row], decoder)
        )
        layers = pictures.LAYERS
        layer = "regressor"
        if cascade.regressor is None:
            layers = layers[:2]
            layer = "detector"
        self.layer = ui.Dropdown(options=layers, value=layer, description="layer")
        self.opacity = ui.FloatSlider(0.85, min=0, max=1, step=0.05, description="opacity")
        keep = KEEP if people.occlusion_labels else UNLABELLED_KEEP
        self.keep = ui.Dropdown(options=keep, description="show")
        self.order = ui.Dropdown(options=ORDER, description="sort by")
        controls = [self.layer, self.opacity, self.keep, self.order]
        for choice in (self.keep, self.order):  # other people: begin with their first
            choice.observe(lambda _: self.place.set_trait("value", 1), "value")
        super().__init__("A joint's map on a person's crop", people, image_size, controls)

    def draw(self) -> tuple[Image.Image, str]:
        """Draw the chosen layer of the chosen joint, or a sheet of all joints."""
        check_crop_size(self.cascade, self.image_size)
        joint = self.chosen_joint
        layer = self.layer.value
        keep = self.keep.value
        order = self.order.value
        rows = probes.select_rows(self.answer.joints, self.people, joint, keep, order)
        self.place.max = max(1, len(rows))
        self.stay(joint, rows)
        if not len(rows):
            raise BadInput("this selection", "nobody", f"people with {self.joint.label} {keep}")
        row = int(rows[self.row])
        self.shown = joint, row
        person = self.person_maps(row)
        head = f"{self.row + 1} of {len(rows)}, {self.people.keys[row]}"
        if joint is None:
            return pictures.map_sheet(person, layer, self.opacity.value), f"{head} · {layer}"
        visibility = person.visibility[joint]
        parts = [f"{head} · {MPII.names[joint]}, {self.describe_label(visibility)}"]
        errors = self.describe_errors(row, joint, visibility, person.predicted)
        for name, error in errors.items():
            if name != "difference":
                parts.append(f"{name}: peak {person.maps[name][joint].max():.2f}, {error}")
        picture = pictures.map_picture(person, layer, joint, self.opacity.value)
        return picture, " · ".join(parts)

    def stay(self, joint: int | None, rows: np.ndarray) -> None:
        """Keep the person who is shown when the joint changes, where the selection has them.

        rows: of the people to choose from, for this joint.
        """
        before, row = self.shown
        if before != joint:
            self.shown = joint, row
            self.place.max = max(1, len(rows))
            places = np.flatnonzero(rows == row)
            self.place.value = int(places[0]) + 1 if len(places) else 1


class Cover(PersonPanel):
    """Shows how both networks' maps change while a patch is dragged over a person.

    A click removes the patch.
    """

    legend = f"{MARKS}; colours: each network's own scale. {KEYS}"

    def __init__(
        self, cascade: Cascade, people: People, image_size: int, decoder: str = "parabola"
    ):
        self.cascade = cascade
        self.decoder = decoder
        self.box = None
        self.box_row = 0
        self.predict_uncovered = lru_cache(8)(self._predict)
        title = "A crop to cover, and both networks' maps of one joint"
        super().__init__(title, people, image_size, [], all_joints=False, drags=True)

    def _predict(self, row, box=None):
        sample = self.samples[row]
        crop = sample["image"].numpy()
        if box is not None:
            crop = prediction.cover_box(crop, box)
        return sample, crop, *prediction.predict_crop(self.cascade, crop, self.decoder)

    def handle(self, message: dict) -> None:
        """React to keys, and put the patch where a box was dragged."""
        super().handle(message)
        if "box" in message:
            x1, y1, x2, y2 = pictures.box_on_crop(message["box"], self.image_size)
            self.box = (x1, y1, x2, y2) if min(x2 - x1, y2 - y1) >= 1 else None
            self.box_row = self.place.value
            self.refresh()

    def draw(self) -> tuple[Image.Image, str]:
        """Draw the crop with its patch and both maps of the joint."""
        check_crop_size(self.cascade, self.image_size)
        if self.cascade.regressor is None:
            raise BadInput("the cascade", "a detector alone", "both networks")
        row = self.row
        joint = self.joint.value
        if self.box_row != self.place.value:  # the patch belongs to another person
            self.box = None
        sample, crop, before, predicted = self.predict_uncovered(row)
        maps = before
        if self.box is not None:
            _, crop, maps, predicted = self._predict(row, self.box)
        joints, states = (sample[key].numpy() for key in ("joints", "visibility"))
        label = self.describe_label(states[joint])
        parts = [f"{self.people.keys[row]} · {MPII.names[joint]}, {label}"]
        errors = self.describe_errors(row, joint, states[joint], predicted)
        for name, error in errors.items():
            peaks = [heats[name][joint].max() for heats in (before, maps)]
            parts.append("{}: peak {:.2f} → {:.2f}, {}".format(name, *peaks, error))
        picture = pictures.cover_picture(crop, maps, predicted, joint, joints, states)
        return picture, " · ".join(parts)


class TargetExplorer(PersonPanel):
    """Shows discs and Gaussians of a person while their sizes and the augmentation are moved."""

    legend = f"{drawing.LEGEND}Hollow: occluded, so without a disc. {KEYS}"

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

    def draw(self) -> tuple[Image.Image, str]:
        """Draw the person as augmented, and the targets."""
        row = self.row
        joint = self.chosen_joint
        sizes = {"radius": self.radius.value, "sigma": self.sigma.value}
        targets = dataclasses.replace(self.targets, **sizes)
        moves = (self.scale.value, self.angle.value, self.mirrored.value)
        picture = pictures.target_picture(self.people, row, self.image_size, targets, joint, *moves)
        label = self.joint.label
        if joint is not None:
            frame = self.people.frame(row, self.image_size).augmented(*moves)
            known = self.people.joints[row], self.people.visibility[row]
            _, states = joints_in_crop(frame, *known)
            label += ", " + self.describe_label(states[joint])
        unit = f"radius and sigma: px at a body of {BODY:.0f} px"
        return picture, f"{self.people.keys[row]} · {label} · {unit}"


class Photograph(Panel):
    """Shows the pose in a photograph, uploaded or from a path, after a box is dragged around it.

    people: what `PoseEstimator.predict` returned last.
    """

    legend = f"{drawing.LEGEND}Hollow, thin: not sure. White frame: what the network sees"

    def __init__(self, estimator: PoseEstimator, path: str = ""):
        self.estimator = estimator
        self.box = None
        self.people = []
        self.image = None
        self.upload = ui.FileUpload(accept="image/*", description="upload")
        self.path = ui.Text(path, description="or path", continuous_update=False)
        whole = ui.Button(description="whole image")
        whole.on_click(lambda _: self.look_at(None))
        for source in (self.upload, self.path):
            source.observe(self.change_source, "value")
        controls = [self.upload, self.path, whole]
        super().__init__("A photograph and the pose found in it", controls, drags=True)
        self.screen.takes_keys = False

    def change_source(self, change: dict) -> None:
        """Forget the photograph and the box of before, and empty the other source: the same one
        may be chosen there again.
        """
        self.box = None
        self.image = None
        if change["new"]:
            other = self.path if change["owner"] is self.upload else self.upload
            other.value = type(other.value)()

    def refresh(self, change: dict | None = None) -> None:
        """Draw again, unless a source was only emptied because the other is taken."""
        emptied = change and not change["new"]
        if not emptied or not (self.upload.value or self.path.value):
            super().refresh(change)

    def look_at(self, box: list[float] | None) -> None:
        """Predict in a box [x1, y1, x2, y2], image px, around the person; None: everywhere."""
        self.box = box
        self.refresh()

    def handle(self, message: dict) -> None:
        """Look at a box once it is dragged; at the whole image if it is only a click."""
        if message.get("done") and self.image is not None:
            zoom = self.image.shape[1] / pictures.photograph(self.image, []).width
            box = [zoom * edge for edge in message["box"]]
            try:
                parse_box(box)
            except BadInput:  # too small for a person: a click
                box = None
            self.look_at(box)

    def read(self) -> np.ndarray:
        """Return the photograph's pixels. BadInput if there is none or it cannot be read."""
        if self.upload.value:
            file = self.upload.value[0]
            return decode_image(file["name"], bytes(file["content"]))
        if not self.path.value:
            raise BadInput("photograph", "none", "an upload, or the path of one")
        try:
            return read_image(Path(self.path.value).expanduser())
        except RuntimeError as error:  # expanduser: ~ of an unknown user
            raise BadInput(self.path.value, error, "the path of a photograph") from None

    def draw(self) -> tuple[Image.Image, str]:
        """Predict and draw the pose."""
        self.people = []
        self.image = self.read() if self.image is None else self.image
        try:
            self.people = self.estimator.predict(self.image, self.box and [self.box])
        except BadInput as error:  # of the box: the photograph stays in sight
            return pictures.photograph(self.image, []), str(error)
        learned = {
            name: joint
            for name, joint in self.people[0]["joints"].items()
            if name not in self.estimator.unlabelled
        }
        sure = sum(joint["confidence"] >= CONFIDENT for joint in learned.values())
        text = f"{sure} of {len(learned)} joints with a confidence of {CONFIDENT} or more"
        if not sure:
            text = (
                f"nobody found here: no joint reaches a confidence of {CONFIDENT}; is there a "
                "person in the box, alone and upright?"
            )
        picture = pictures.photograph(self.image, self.people)
        return picture, f"{text} · drag a box tight around one person"
