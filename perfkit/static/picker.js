// The AIF picker: a slice beside the curves. Python owns the state; this file draws it and reports clicks.
const COLOURS = { aif: "#D55E00", vof: "#0072B2", hover: "#888888" };
const VIEWS = {
  peak: { name: "peak enhancement", range: null }, // as high as the slice
  ct: { name: "CT over time", range: [0, 100] },
  ttp: { name: "time to peak", range: null },
};

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function quantile(values, share) {
  return Math.max(1, Float32Array.from(values).sort()[Math.floor(share * (values.length - 1))]);
}

function niceStep(span) {
  const power = 10 ** Math.floor(Math.log10(span / 5));
  return power * [1, 2, 5, 10].find((m) => span / (power * m) <= 5);
}

function render({ model, el }) {
  const scan = model.get("scan");
  const [nx, ny, nz, nt] = scan.shape;
  const slices = new Map(); // z -> { curves, baseline, peak, ttp }
  const ui = { z: scan.start, t: scan.peak_frame, view: "peak", kind: "aif", hover: null };

  // ---- layout
  const button = (text, name, action) =>
    element("button", { text, "data-testid": name, type: "button", onclick: action });
  const say = (wanted) => () => model.send({ do: wanted });
  const range = (name, max, value) =>
    element("input", { type: "range", min: 0, max, value, "data-testid": name, "aria-label": name });
  const zSlider = range("slice", nz - 1, ui.z);
  const tSlider = range("time", nt - 1, ui.t);
  const zText = element("span"), tText = element("span");
  const view = element("select", { "data-testid": "view", "aria-label": "view" },
    ...Object.entries(VIEWS).map(([value, v]) => element("option", { value, text: v.name })));
  const kind = button("AIF", "kind", () => { ui.kind = ui.kind === "aif" ? "vof" : "aif"; drawState(); });
  const undo = button("Undo", "undo", say("undo")), redo = button("Redo", "redo", say("redo"));
  const clear = button("Clear", "clear", say("clear")), save = button("Save", "save", say("save"));
  const image = element("canvas", { class: "pk-image", "data-testid": "image" });
  const chart = element("canvas", { class: "pk-chart", "data-testid": "chart" });
  const summary = element("div", { class: "pk-summary", "data-testid": "summary", "aria-live": "polite" });
  const pointer = element("div", { class: "pk-pointer", "data-testid": "pointer", text: " " });
  const keys = "↑ ↓ slice · ← → time · v AIF/VOF · z undo · y redo · s save";
  const root = element("div",
    { class: "pk", tabindex: 0, "data-lm-suppress-shortcuts": "true", "data-testid": "picker" },
    element("div", { class: "pk-bar" },
      element("b", { text: scan.id }), element("span", { text: scan.rater ? `rater ${scan.rater}` : "" }),
      element("label", {}, "view ", view), element("label", {}, "pick ", kind), undo, redo, clear, save),
    element("div", { class: "pk-body" },
      element("div", {}, image,
        element("label", { class: "pk-slide" }, "slice", zSlider, zText),
        element("label", { class: "pk-slide" }, "time", tSlider, tText)),
      element("div", { class: "pk-side" }, chart, pointer, summary, element("div", { class: "pk-keys", text: keys }))));
  el.append(root);

  // ---- geometry: nibabel's x to the right, y upward, flipped as the affine says
  const width = 430, height = Math.round((width * ny * scan.aspect) / nx);
  const column = (x) => (scan.flip[0] ? nx - 1 - x : x);
  const row = (y) => (scan.flip[1] ? y : ny - 1 - y);
  const fit = (canvas, w, h) => {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = w * ratio; canvas.height = h * ratio;
    canvas.style.width = `${w}px`; canvas.style.height = `${h}px`;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    return pen;
  };
  const imagePen = fit(image, width, height), chartPen = fit(chart, 470, 330);
  const pixels = element("canvas", { width: nx, height: ny });
  const voxelAt = (event) => {
    const box = image.getBoundingClientRect();
    const c = Math.floor(((event.clientX - box.left) / box.width) * nx);
    const r = Math.floor(((event.clientY - box.top) / box.height) * ny);
    if (c < 0 || r < 0 || c >= nx || r >= ny) return null;
    return [column(c), scan.flip[1] ? r : ny - 1 - r, ui.z];
  };

  // ---- data
  const wanted = new Set();
  const ask = (z) => {
    if (z < 0 || z >= nz || slices.has(z) || wanted.has(z)) return;
    wanted.add(z);
    model.send({ do: "slice", z });
  };
  const int16 = (view) => new Int16Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
  const receive = (message, buffers) => {
    if (message.slice === undefined) return;
    const [curves, baseline] = buffers.map(int16);
    const peak = new Float32Array(nx * ny), ttp = new Float32Array(nx * ny);
    for (let i = 0; i < nx * ny; i++) {
      let best = 0;
      for (let t = 1; t < nt; t++) if (curves[i * nt + t] > curves[i * nt + best]) best = t;
      peak[i] = curves[i * nt + best] / scan.steps_per_hu;
      ttp[i] = peak[i] > 5 ? best * scan.dt : 0;
    }
    wanted.delete(message.slice);
    const most = { peak: quantile(peak, 0.998), ttp: quantile(ttp, 0.998) };
    slices.set(message.slice, { curves, baseline, peak, ttp, most });
    if (message.slice === ui.z) { drawImage(); drawChart(); }
  };
  const curveAt = ([x, y, z]) => {
    const held = slices.get(z);
    if (!held) return null;
    const start = (y * nx + x) * nt;
    return Array.from(held.curves.subarray(start, start + nt), (v) => v / scan.steps_per_hu);
  };

  // ---- drawing
  const value = (held, i) => {
    if (ui.view === "ct") return (held.baseline[i] + held.curves[i * nt + ui.t]) / scan.steps_per_hu;
    return held[ui.view][i];
  };
  function drawImage() {
    const held = slices.get(ui.z);
    const [low, high] = VIEWS[ui.view].range ?? [0, held ? held.most[ui.view] : 1];
    const data = new ImageData(nx, ny);
    for (let y = 0; held && y < ny; y++) for (let x = 0; x < nx; x++) {
      const grey = (255 * (value(held, y * nx + x) - low)) / (high - low);
      const at = 4 * (row(y) * nx + column(x));
      data.data[at] = data.data[at + 1] = data.data[at + 2] = grey;
      data.data[at + 3] = 255;
    }
    pixels.getContext("2d").putImageData(data, 0, 0);
    imagePen.fillStyle = "black";
    imagePen.fillRect(0, 0, width, height);
    imagePen.drawImage(pixels, 0, 0, width, height);
    for (const name of ["aif", "vof"]) for (const [x, y, z] of model.get("state")[name]) if (z === ui.z) {
      const w = Math.max(width / nx, 5), h = Math.max(height / ny, 5);
      imagePen.strokeStyle = COLOURS[name];
      imagePen.lineWidth = 2;
      imagePen.strokeRect(((column(x) + 0.5) * width) / nx - w / 2, ((row(y) + 0.5) * height) / ny - h / 2, w, h);
    }
    imagePen.fillStyle = "#ddd";
    imagePen.font = "12px sans-serif";
    if (scan.sides_known) { imagePen.fillText("R", 6, height / 2); imagePen.fillText("L", width - 14, height / 2); }
    if (!held) imagePen.fillText("loading …", width / 2 - 25, height / 2);
    zText.textContent = `${ui.z + 1} of ${nz}`;
    tText.textContent = `${(ui.t * scan.dt).toFixed(1)} s`;
  }
  function drawChart() {
    const [w, h, left, bottom, top] = [470, 330, 48, 290, 24];
    const ink = getComputedStyle(root).color;
    const lines = Object.entries(model.get("state").curves).map(([name, curve]) => [name, curve, 2.5]);
    const hovered = ui.hover && curveAt(ui.hover);
    if (hovered) lines.unshift(["hover", hovered, 1.5]);
    const most = Math.max(10, ...lines.flatMap(([, curve]) => curve));
    const least = Math.min(0, ...lines.flatMap(([, curve]) => curve));
    const px = (t) => left + (t / (nt - 1)) * (w - left - 12);
    const py = (v) => bottom - ((v - least) / (most - least)) * (bottom - top);
    chartPen.clearRect(0, 0, w, h);
    chartPen.font = "12px sans-serif";
    chartPen.fillStyle = chartPen.strokeStyle = ink;
    chartPen.lineWidth = 1;
    chartPen.globalAlpha = 0.25;
    const step = niceStep(most - least);
    for (let v = Math.ceil(least / step) * step; v <= most; v += step) chartPen.strokeRect(left, py(v), w - left - 12, 0);
    chartPen.strokeRect(px(ui.t), top, 0, bottom - top);
    chartPen.globalAlpha = 1;
    for (let v = Math.ceil(least / step) * step; v <= most; v += step) chartPen.fillText(v.toFixed(0), 14, py(v) + 4);
    for (let t = 0; t < nt; t += 10) chartPen.fillText((t * scan.dt).toFixed(0), px(t) - 5, bottom + 18);
    chartPen.fillText("time (s)", w / 2, bottom + 34);
    chartPen.fillText("HU above baseline", 8, 14);
    let at = 190;
    for (const [name, curve, thick] of lines) {
      chartPen.strokeStyle = chartPen.fillStyle = COLOURS[name];
      chartPen.lineWidth = thick;
      chartPen.beginPath();
      curve.forEach((v, t) => chartPen.lineTo(px(t), py(v)));
      chartPen.stroke();
      chartPen.fillText(name === "hover" ? "under the pointer" : name.toUpperCase(), at, 14);
      at += name === "hover" ? 115 : 45;
    }
  }
  function drawState() {
    const state = model.get("state");
    summary.textContent = state.summary;
    summary.classList.toggle("pk-problem", state.problem);
    undo.disabled = !state.can_undo; redo.disabled = !state.can_redo;
    save.disabled = !scan.can_save || state.saved;
    save.textContent = state.saved ? "Saved" : "Save";
    kind.textContent = ui.kind.toUpperCase();
    kind.style.background = COLOURS[ui.kind];
    drawImage(); drawChart();
  }
  const go = (z, t) => {
    ui.z = Math.min(nz - 1, Math.max(0, z)); ui.t = Math.min(nt - 1, Math.max(0, t));
    zSlider.value = ui.z; tSlider.value = ui.t;
    ask(ui.z); ask(ui.z + 1); ask(ui.z - 1);
    drawImage(); drawChart();
  };

  // ---- events
  zSlider.addEventListener("input", () => go(+zSlider.value, ui.t));
  tSlider.addEventListener("input", () => go(ui.z, +tSlider.value));
  view.addEventListener("change", () => { ui.view = view.value; drawImage(); });
  image.addEventListener("wheel", (event) => { event.preventDefault(); go(ui.z + Math.sign(event.deltaY), ui.t); }, { passive: false });
  image.addEventListener("mousemove", (event) => {
    ui.hover = voxelAt(event);
    const curve = ui.hover && curveAt(ui.hover);
    pointer.textContent = curve ? `voxel ${ui.hover.join(" ")}: peak ${Math.max(...curve).toFixed(0)} HU` : " ";
    drawChart();
  });
  image.addEventListener("mouseleave", () => { ui.hover = null; pointer.textContent = " "; drawChart(); });
  image.addEventListener("click", (event) => {
    const voxel = voxelAt(event);
    if (voxel) model.send({ do: "pick", voxel, kind: ui.kind });
  });
  const actions = {
    ArrowUp: () => go(ui.z + 1, ui.t), ArrowDown: () => go(ui.z - 1, ui.t),
    ArrowLeft: () => go(ui.z, ui.t - 1), ArrowRight: () => go(ui.z, ui.t + 1),
    v: () => kind.click(), z: say("undo"), y: say("redo"), s: () => save.disabled || model.send({ do: "save" }),
  };
  root.addEventListener("keydown", (event) => {
    event.stopPropagation(); // no key may reach JupyterLab: there `d d` deletes the cell
    if (event.ctrlKey || event.metaKey || event.altKey || event.target === view) return;
    const action = actions[event.key];
    if (action) { event.preventDefault(); action(); }
  });

  model.on("msg:custom", receive);
  model.on("change:state", drawState);
  const theme = new MutationObserver(drawChart); // JupyterLab writes its theme into the body's attributes
  theme.observe(document.body, { attributes: true });
  drawState();
  go(ui.z, ui.t);
  return () => { theme.disconnect(); model.off("msg:custom", receive); model.off("change:state", drawState); };
}

export default { render };
