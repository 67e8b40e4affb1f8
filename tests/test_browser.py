"""The panels in a real JupyterLab in a real browser: run a notebook, move every control.

Needs Chromium. Without one, Debian's is installed if possible, else these tests are skipped.
HPE_SCREENSHOTS=DIR keeps what was seen.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (pip install -e .[dev])"
)

TOKEN = "token-of-this-test"
# What a picture holds, not where: every picture has an address of its own.
PIXELS = """async (image) => {
    const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
    let sum = 0;
    for (const byte of bytes) sum = (31 * sum + byte) % 1000000007;
    return [bytes.length, sum] }"""
# Milliseconds from a key to the new picture on the screen.
ROUND_TRIP = """(frame) => new Promise((done) => {
    const image = frame.querySelector("img"), start = performance.now();
    image.addEventListener("load", () => done(performance.now() - start), { once: true });
    frame.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true })) })"""


@pytest.fixture(scope="module")
def chromium():
    """The browser's program."""
    names = ("chromium", "chromium-browser", "google-chrome")
    if not any(map(shutil.which, names)) and shutil.which("apt-get") and os.geteuid() == 0:
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-qq", "-y", "chromium"],
        ):
            subprocess.run(command, capture_output=True, timeout=600, check=False)
    found = next(filter(None, map(shutil.which, names)), None)
    return found or pytest.skip(
        "no chromium here, and it cannot be installed (apt-get install chromium)"
    )


@pytest.fixture(scope="module")
def lab(smoke_run, tmp_path_factory):
    """JupyterLab on a copy of a small run's executed notebooks: (address, process, folder)."""
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(smoke_run, home / "run", ignore=shutil.ignore_patterns("rows"))
    for path in (home / "run").glob("*.ipynb"):
        path.write_text(path.read_text().replace(str(smoke_run), str(home / "run")))
    settings = (
        home / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    )
    settings.parent.mkdir(parents=True)
    settings.write_text(
        json.dumps({"windowingMode": "none"})
    )  # else cells out of sight are not there
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--expose-app-in-browser",
        f"--port={port}",
        f"--ServerApp.token={TOKEN}",
        f"--ServerApp.root_dir={home}",
        f"--LabApp.user_settings_dir={home / 'settings'}",
        f"--LabApp.workspaces_dir={home / 'workspaces'}",
    ]
    with open(home / "lab.log", "w") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "TQDM_DISABLE": "1"}
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait(lambda: urllib.request.urlopen(f"{address}/api?token={TOKEN}"), 90)
        yield address, psutil.Process(server.pid), home / "run"
    finally:
        for process in (*psutil.Process(server.pid).children(recursive=True), server):
            process.kill()
        server.wait()


def wait(ready, seconds):
    """Ask until it answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            return ready()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.3)


@pytest.fixture(scope="module")
def page(chromium):
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--enable-precise-memory-info"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        yield page
        browser.close()


@pytest.fixture
def opened(lab, page):
    """opened("08") runs all cells of that notebook and returns the page; no cell may fail."""

    def run_all(number):
        address, _, folder = lab
        name = next(folder.glob(f"{number}_*.ipynb")).name
        page.goto(f"{address}/lab/tree/run/{name}?token={TOKEN}&reset")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        current = "window.jupyterapp?.shell.currentWidget"
        page.wait_for_function(f"{current}?.sessionContext?.session?.kernel?.status == 'idle'")
        page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
        page.evaluate(
            f"{current}.content.widgets.forEach((cell) => cell.model.type == 'code' && "
            "cell.model.clearExecution())"
        )
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_function(
            f"{current}.content.widgets.every((cell) => cell.model.type != 'code' || "
            "cell.model.executionCount > 0)",
            timeout=240_000,
        )
        assert not page.locator(".jp-OutputArea-output pre", has_text="Traceback").count()
        return page

    yield run_all
    address, _, _ = lab
    for kernel in json.load(urllib.request.urlopen(f"{address}/api/kernels?token={TOKEN}")):
        urllib.request.urlopen(
            urllib.request.Request(
                f"{address}/api/kernels/{kernel['id']}?token={TOKEN}", method="DELETE"
            )
        )


def panel(page, words):
    """The panel whose picture is described with these words."""
    found = (
        page.locator(".jp-OutputArea-output .widget-vbox")
        .filter(has=page.locator(f"img[alt^='{words}']"))
        .first
    )
    found.wait_for()
    found.scroll_into_view_if_needed()
    return found


def pixels(found):
    return found.locator(".hpe-screen img").last.evaluate(PIXELS)


def changes(found, move):
    """The picture is another one within seconds of a move."""
    before = pixels(found)
    move()
    end = time.monotonic() + 15
    while pixels(found) == before:
        assert time.monotonic() < end, "the picture stays as it was"
        time.sleep(0.05)


def seen(page, found, name):
    folder = (
        Path(os.environ.get("HPE_SCREENSHOTS", "")) if os.environ.get("HPE_SCREENSHOTS") else None
    )
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        found.screenshot(path=folder / f"{name}.png")
        page.screenshot(path=folder / f"{name}_page.png")


def slide(found, number, key="ArrowRight"):
    """A press of an arrow key on a slider."""
    handle = found.locator(".noUi-handle").nth(number)
    return lambda: (handle.focus(), handle.press(key))


def drag(page, image, start, end):
    """Press at `start`, move to `end`, both shares of the picture, and let go."""
    box = image.bounding_box()
    x = box["x"] + start[0] * box["width"]
    y = box["y"] + start[1] * box["height"]
    to_x = box["x"] + end[0] * box["width"]
    to_y = box["y"] + end[1] * box["height"]
    page.mouse.move(x, y)
    page.mouse.down()
    for part in np.linspace(0, 1, 8):
        page.mouse.move(x + part * (to_x - x), y + part * (to_y - y))
    page.mouse.up()


def test_targets_follow_every_control(opened):
    page = opened("02")
    found = panel(page, "A person, discs and Gaussians")
    assert (
        found.bounding_box()["width"] < 1280 and page.evaluate("document.body.scrollWidth") <= 1280
    )
    changes(found, lambda: found.locator("select").select_option(index=0))
    for number in range(found.locator(".noUi-handle").count()):
        changes(found, slide(found, number))
    changes(found, lambda: found.locator("input[type=checkbox]").click())
    for name in ("next", "previous"):
        changes(found, lambda name=name: found.get_by_role("button", name=name).click())
    seen(page, found, "targets")
    assert page.complaints == []


def test_the_cascade_in_a_reader_s_hands(opened, lab):
    page = opened("08")
    inspect(page)
    cover(page)
    photograph(page, lab)
    flat(page, lab[1])
    assert page.complaints == []
    assert (
        "Traceback" not in (lab[2].parent / "lab.log").read_text()
    )  # of the kernel, which a moved control asks


def inspect(page):
    found = panel(page, "A joint")
    frame = found.locator(".hpe-screen")
    seen(page, found, "inspector")
    for number, options in enumerate((3, 2)):  # joint, layer
        changes(
            found,
            lambda number=number, k=options: (
                found.locator("select").nth(number).select_option(index=k)
            ),
        )
    for number in range(found.locator(".noUi-handle").count()):
        changes(found, slide(found, number, "ArrowLeft" if number == 0 else "ArrowRight"))
    frame.focus()
    for key in ("ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp"):
        changes(found, lambda key=key: frame.press(key))
    # The first of all may have the largest error, too: so go from the smallest to the largest.
    found.locator("select").nth(3).select_option(label="smallest error")
    page.wait_for_timeout(2000)
    changes(found, lambda: found.locator("select").nth(3).select_option(label="largest error"))
    changes(found, lambda: found.locator("select").nth(0).select_option(index=0))  # all joints
    seen(page, found, "contact_sheet")
    found.locator("select").nth(0).select_option(label="left_wrist")
    text = found.locator(".widget-html").first
    playwright.expect(text).to_contain_text("left_wrist")
    everyone = re.search("of (\\d+),", text.inner_text())[1]
    for state in ("occluded", "visible"):  # only those are shown
        found.locator("select").nth(2).select_option(label=state)
        playwright.expect(text).to_contain_text(f"left_wrist, {state}")
    found.locator("select").nth(2).select_option(label="everyone")
    # The next of all may be the one who is still shown: so wait for the first of all.
    playwright.expect(text).to_contain_text(re.compile(rf"^\s*1 of {everyone},"))
    for name in ("next", "previous"):
        changes(found, lambda name=name: found.get_by_role("button", name=name).click())
    took = sorted(frame.evaluate(ROUND_TRIP) for _ in range(40))
    print(f"key to picture, kernel and browser: median {took[20]:.0f} ms, p95 {took[37]:.0f} ms")
    assert took[20] < 500 and took[37] < 1000


def cover(page):
    found = panel(page, "A crop to cover")
    image = found.locator(".hpe-screen img")
    image.scroll_into_view_if_needed()
    changes(found, lambda: drag(page, image, (0.08, 0.3), (0.2, 0.6)))
    playwright.expect(found.locator(".widget-html").first).to_contain_text("→")
    seen(page, found, "cover")
    changes(found, lambda: image.click(position={"x": 60, "y": 100}))
    changes(found, lambda: found.locator("select").select_option(index=2))
    changes(found, lambda: found.get_by_role("button", name="next").click())
    for key in ("ArrowLeft", "ArrowDown"):
        changes(found, lambda key=key: found.locator(".hpe-screen").press(key))


def photograph(page, lab):
    import cv2

    found = panel(page, "A photograph and the pose")
    text = found.locator(".widget-html").first
    playwright.expect(text).to_contain_text("found none")
    folder = lab[2]
    cv2.imwrite(
        str(folder / "one.jpg"),
        np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8),
    )
    (folder / "broken.jpg").write_bytes(b"no picture")
    path = found.locator("input[type=text]")
    changes(found, lambda: (path.fill(str(folder / "one.jpg")), path.press("Enter")))
    image = found.locator(".hpe-screen img")
    image.scroll_into_view_if_needed()
    changes(found, lambda: drag(page, image, (0.1, 0.1), (0.5, 0.9)))
    seen(page, found, "photograph")
    changes(found, lambda: found.get_by_role("button", name="whole image").click())
    for name, words in (
        ("broken.jpg", "broken.jpg: found 10 bytes: no image that can be read"),
        ("one.jpg", "joint"),
    ):
        with page.expect_file_chooser() as chooser:
            found.locator(".jupyter-widget-upload, .widget-upload").first.click()
        chooser.value.set_files(folder / name)
        playwright.expect(text).to_contain_text(words)


def flat(page, server):
    """Memory of kernel and page before and after 100 moves, garbage collected."""

    def used():
        page.request_gc()
        kernels = [
            child.memory_info().rss
            for child in server.children(recursive=True)
            if "ipykernel_launcher" in " ".join(child.cmdline())
        ]
        return max(kernels) / 2**20, page.evaluate("performance.memory.usedJSHeapSize") / 2**20

    frame = panel(page, "A joint").locator(".hpe-screen")
    for _ in range(17):  # every joint once, and all of them
        frame.evaluate(ROUND_TRIP)
    before = used()
    for _ in range(100):
        frame.evaluate(ROUND_TRIP)
    after = used()
    print(
        f"100 moves: kernel {before[0]:.1f} → {after[0]:.1f} MiB, "
        f"page {before[1]:.1f} → {after[1]:.1f} MiB"
    )
    assert after[0] - before[0] < 5 and after[1] - before[1] < 10
