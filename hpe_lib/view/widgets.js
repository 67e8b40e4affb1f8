// A picture that reports the boxes dragged over it and the keys pressed on it. A box is
// [x1, y1, x2, y2] in pixels of the picture: edges of pixels, not their centres. While the kernel
// is busy only the last box waits, and a key that is held down is not repeated: no queue builds up.
function render({ model, el }) {
  const frame = document.createElement("div");
  const image = document.createElement("img");
  const band = document.createElement("div");
  frame.className = "hpe-screen";
  frame.tabIndex = 0;
  frame.dataset.lmSuppressShortcuts = "true"; // JupyterLab would take the arrow keys
  band.hidden = true;
  frame.append(image, band);
  el.append(frame);

  let url = null, start = null, waiting = null, unanswered = 0;

  function show() {
    const fresh = URL.createObjectURL(new Blob([model.get("png")], { type: "image/png" }));
    image.onload = () => {
      if (url) URL.revokeObjectURL(url);
      url = fresh;
    };
    image.src = fresh;
  }
  function describe() {
    image.alt = model.get("alt");
    frame.classList.toggle("hpe-drags", model.get("drags"));
  }
  function send(message) {
    unanswered += 1;
    model.send(message);
  }
  function sendLatest(message) {
    if (unanswered) waiting = message;
    else send(message);
  }
  function answered() {
    unanswered = Math.max(0, unanswered - 1);
    if (!waiting || unanswered) return;
    send(waiting);
    waiting = null;
  }
  function place(event) {
    const box = image.getBoundingClientRect(), zoom = image.naturalWidth / box.width;
    const inside = (value, most) => Math.min(Math.max(value, 0), most) * zoom;
    const x = inside(event.clientX - box.left, box.width);
    return [x, inside(event.clientY - box.top, box.height)];
  }
  function boxTo(event) {
    const end = place(event), zoom = image.getBoundingClientRect().width / image.naturalWidth;
    const [x1, x2] = [Math.min(start[0], end[0]), Math.max(start[0], end[0])];
    const [y1, y2] = [Math.min(start[1], end[1]), Math.max(start[1], end[1])];
    const edges = [x1, y1, x2 - x1, y2 - y1].map((value) => `${value * zoom}px`);
    [band.style.left, band.style.top, band.style.width, band.style.height] = edges;
    return [x1, y1, x2, y2];
  }

  image.draggable = false;
  image.addEventListener("pointerdown", (event) => {
    frame.focus({ preventScroll: true });
    if (!model.get("drags") || event.button !== 0) return;
    start = place(event);
    image.setPointerCapture(event.pointerId);
    boxTo(event);
    band.hidden = false;
  });
  image.addEventListener("pointermove", (event) => {
    if (start) sendLatest({ box: boxTo(event), done: false });
  });
  image.addEventListener("pointerup", (event) => {
    if (!start) return;
    sendLatest({ box: boxTo(event), done: true });
    start = null;
    band.hidden = true;
  });
  image.addEventListener("pointercancel", () => {
    start = null;
    band.hidden = true;
  });
  frame.addEventListener("keydown", (event) => {
    if (!model.get("takes_keys") || !event.key.startsWith("Arrow")) return;
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat || !unanswered) send({ key: event.key });
  });
  model.on("change:png", show);
  model.on("change:alt", describe);
  model.on("change:answered", answered);
  show();
  describe();
  return () => url && URL.revokeObjectURL(url);
}

export default { render };
