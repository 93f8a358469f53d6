// The AIF picker: a slice beside the curves. Python owns the state; this file draws it and reports what the
// rater does. Slices come as 16-bit integers and are kept: hovering, scrolling and playing need no kernel.

const COLOURS = { aif: "#E66100", vof: "#3C8DD9", hover: null, brain: "#8A8F98", preview: "#B8569C" };
const NAMES = { aif: "AIF", vof: "VOF", hover: "under the pointer", preview: "suggestion" };
const CORE_COLOUR = "#F0E442"; // yellow of Okabe and Ito: told from both input functions by every eye
const CIVIDIS = ["00224e", "123570", "3b496c", "575d6d", "707173", "8a8678", "a59c74", "c3b369", "e1cc55", "fee838"];
const VIRIDIS = ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"];
const OVERLAYS = {
  none: { name: "none" },
  now: { name: "enhancement now", unit: "HU", table: CIVIDIS },
  peak: { name: "peak enhancement", unit: "HU", table: CIVIDIS },
  ttp: { name: "time to peak", unit: "s", table: [...VIRIDIS].reverse() }, // early is bright: arteries stand out
  arrival: { name: "arrival", unit: "s", table: [...VIRIDIS].reverse() },
  rcbf: { name: "rCBF", unit: "relative", table: CIVIDIS },
};
const WINDOWS = { // level, width in HU
  perfusion: [60, 160], brain: [40, 80], stroke: [35, 40], vessels: [150, 400], wide: [100, 1000],
};
const KEYS = [
  ["↑ ↓", "slice"], ["← →", "time"], ["space", "play"], ["a / v", "AIF / VOF"], ["1-9", "take a suggestion"],
  ["z / y", "undo / redo"], ["x", "clear"], ["o", "overlay"], ["k", "core"], ["+ − 0", "zoom"],
  ["⇧ arrows", "cursor"], ["enter", "pick"], ["n / p", "next / previous case"], ["s", "save"], ["esc", "back to the keys"],
  ["click", "pick"], ["drag", "region"], ["alt drag", "take it away"], ["⇧ drag", "move the picture"],
  ["wheel", "slice"], ["ctrl wheel", "zoom"],
];
const PATIENCE = 10000; // ms without a word from the kernel; our choice: a case takes some seconds to open
const SUSPICION = 2000; // ms, where the connection was reported to have changed
const UNHEARD = ["slice", "rcbf", "suggest", "ping"]; // what may be asked without a kernel: it changes no pick
const GONE = ["dead", "restarting", "autorestarting", "terminating"];
const LEAST_PEAK = 5; // HU; times of what does not enhance are noise

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function lookup(hexes) {
  const table = new Uint8Array(256 * 3);
  const part = (hex, k) => parseInt(hex.slice(2 * k, 2 * k + 2), 16);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (hexes.length - 1), low = Math.min(Math.floor(at), hexes.length - 2);
    for (let k = 0; k < 3; k++) {
      table[3 * i + k] = part(hexes[low], k) + (at - low) * (part(hexes[low + 1], k) - part(hexes[low], k));
    }
  }
  return table;
}
for (const overlay of Object.values(OVERLAYS)) if (overlay.table) overlay.table = lookup(overlay.table);

function quantile(values, share, least = 1) {
  return Math.max(least, Float32Array.from(values).sort()[Math.floor(share * (values.length - 1))] ?? least);
}

function limitsOf(values) { // 2nd to 98th percentile: a voxel of noise must not stretch the scale
  const sorted = Float32Array.from(values).filter(Number.isFinite).sort(), at = (share) => sorted[Math.round(share * (sorted.length - 1))];
  return sorted.length ? [at(0.02), at(0.98)] : [0, 1];
}

function niceStep(span, lines) {
  const power = 10 ** Math.floor(Math.log10(span / lines));
  return power * [1, 2, 5, 10].find((m) => span / (power * m) <= lines);
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const shown = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits));

// Peak, time to peak and arrival (last rise through a fraction of the peak before it) of every voxel.
function derived(curves, n, nt, scan) {
  const peak = new Float32Array(n), ttp = new Float32Array(n).fill(NaN), arrival = new Float32Array(n).fill(NaN);
  for (let i = 0, at = 0; i < n; i++, at += nt) {
    let best = 0;
    for (let t = 1; t < nt; t++) if (curves[at + t] > curves[at + best]) best = t;
    peak[i] = curves[at + best] / scan.steps_per_hu;
    if (peak[i] < LEAST_PEAK) continue;
    ttp[i] = best * scan.dt;
    const level = scan.arrival_fraction * curves[at + best];
    let t = best;
    while (t > 0 && curves[at + t] > level) t--;
    const rise = curves[at + t + 1] - curves[at + t];
    arrival[i] = (curves[at + t] > level ? 0 : t + (rise > 0 ? (level - curves[at + t]) / rise : 0)) * scan.dt;
  }
  return { peak, ttp, arrival };
}

function render({ model, el }) {
  let scan, nx, ny, nz, nt, slices, asked, flows, flowKey, base, view, coreMl, suggestions;
  const ui = {
    z: 0, t: 0, kind: "aif", overlay: "peak", opacity: 0.7, core: false, level: 60, width: 160,
    hover: null, preview: null, playing: null, wheel: 0,
  };

  // ---- layout
  const button = (text, name, action, title) =>
    element("button", { text, "data-testid": name, type: "button", onclick: action, title, "aria-label": title });
  const link = { n: 0, waiting: new Map(), life: 0, lost: null, suspect: 0, pinged: 0 };
  const say = (wanted, more = {}) => (link.lost && !UNHEARD.includes(wanted) ? post("ping") : post(wanted, more));
  const range = (name, label) => element("input", { type: "range", min: 0, "data-testid": name, "aria-label": label });
  const select = (name, label, entries, change) =>
    element("select", { "data-testid": name, "aria-label": label, onchange: change },
      ...entries.map(([value, text]) => element("option", { value, text })));
  const number = (name, label) =>
    element("input", { type: "number", class: "pk-number", "data-testid": name, "aria-label": label, title: label });

  const previous = button("◀", "previous", () => say("go", { by: -1 }), "previous case (p)");
  const next = button("▶", "next", () => say("go", { by: 1 }), "next case (n)");
  const cases = element("select", { "data-testid": "case", "aria-label": "case",
    onchange: () => say("go", { case: cases.value }) });
  const caseName = element("b", { "data-testid": "case-name" });
  const progress = element("span", { class: "pk-quiet", "data-testid": "progress" });
  const rater = element("input", { type: "text", size: 10, "data-testid": "rater", "aria-label": "rater",
    placeholder: "your name", onchange: () => rater.value.trim() && say("sign", { rater: rater.value }) });
  const status = element("span", { class: "pk-status", "data-testid": "status", role: "status" });
  const save = button("Save", "save", () => say("save"), "save now (s); every pick is saved by itself");

  const kinds = Object.fromEntries(["aif", "vof"].map((kind) => [kind,
    button(NAMES[kind], `kind-${kind}`, () => { ui.kind = kind; drawState(); }, `pick ${NAMES[kind]} (${kind[0]})`)]));
  const undo = button("↶", "undo", () => say("undo"), "undo (z)");
  const redo = button("↷", "redo", () => say("redo"), "redo (y)");
  const clear = button("Clear", "clear", () => say("clear"), "take all voxels away (x)");
  const overlay = select("overlay", "overlay", Object.entries(OVERLAYS).map(([k, o]) => [k, o.name]),
    () => { ui.overlay = overlay.value; askFlow(); drawImage(); });
  const opacity = range("opacity", "opacity of the overlay");
  const core = element("input", { type: "checkbox", "data-testid": "core",
    onchange: () => { ui.core = core.checked; askFlow(); drawImage(); drawState(); } });
  const coreLabel = element("label", { title: "outline of rCBF below the threshold, with the present AIF (k)" }, core, "core");
  const windows = select("window", "CT window", [...Object.keys(WINDOWS), "own"].map((name) => [name, name]),
    () => { if (WINDOWS[windows.value]) setWindow(...WINDOWS[windows.value]); });
  const level = number("level", "level (HU)"), width = number("width", "width (HU)");

  const image = element("canvas", { class: "pk-image", "data-testid": "image" });
  const cursor = element("div", { class: "pk-cursor" }), roi = element("div", { class: "pk-roi" });
  const frame = element("div", { class: "pk-frame" }, image, cursor, roi);
  const bar = element("canvas", { class: "pk-colours", width: 256, height: 1 });
  const barLow = element("span"), barHigh = element("span"), barName = element("span", { "data-testid": "scale" });
  const zSlider = range("slice", "slice"), tSlider = range("time", "time");
  const zText = element("span", { "data-testid": "slice-text" }), tText = element("span", { "data-testid": "time-text" });
  const play = button("▷", "play", () => togglePlay(), "play (space)");

  const chart = element("canvas", { class: "pk-chart", "data-testid": "chart", role: "img", "aria-label": "curves" });
  const pointer = element("div", { class: "pk-pointer", "data-testid": "pointer", "aria-live": "polite" });
  const summary = element("div", { class: "pk-summary", "data-testid": "summary", "aria-live": "polite" });
  const figures = element("table", { class: "pk-figures", "data-testid": "figures" });
  const warnings = element("ul", { class: "pk-warnings", "data-testid": "warnings" });
  const offers = element("div", { class: "pk-offers", "data-testid": "suggestions" });
  const comment = element("input", { type: "text", "data-testid": "comment", "aria-label": "comment",
    placeholder: "comment on this case", onchange: () => say("comment", { text: comment.value }) });
  const keys = element("div", { class: "pk-keys", "data-testid": "keys" },
    ...KEYS.map(([key, what]) => element("span", {}, element("kbd", { text: key }), ` ${what}`)));

  const root = element("div",
    { class: "pk", tabindex: 0, "data-lm-suppress-shortcuts": "true", "data-testid": "picker", "aria-label": "AIF picker" },
    element("div", { class: "pk-bar" }, previous, cases, caseName, next, progress,
      element("span", { class: "pk-space" }), status, element("label", {}, "rater", rater), save),
    element("div", { class: "pk-bar" },
      element("span", { class: "pk-group" }, kinds.aif, kinds.vof), element("span", { class: "pk-group" }, undo, redo, clear),
      element("label", {}, "overlay", overlay), opacity, coreLabel,
      element("label", {}, "CT", windows), element("label", {}, "level", level), element("label", {}, "width", width), "HU"),
    element("div", { class: "pk-body" },
      element("div", { class: "pk-left" }, frame,
        element("div", { class: "pk-scale" }, barName, barLow, bar, barHigh),
        element("label", { class: "pk-slide" }, "slice", zSlider, zText),
        element("div", { class: "pk-slide" }, play, tSlider, tText)),
      element("div", { class: "pk-side" }, chart, pointer, summary, warnings,
        element("div", { class: "pk-facts" }, figures, offers), comment)),
    keys);
  el.append(root);

  // ---- is there a kernel? Every message is acknowledged; a click that nobody hears must not look like a pick.
  const kernel = () => { try { return model.widget_manager?.kernel; } catch { return null; } };
  const gone = (held = kernel()) => Boolean(held && (held.isDisposed || GONE.includes(held.status) || held.connectionStatus === "disconnected"));
  const busy = (held = kernel()) => held?.connectionStatus === "connected" && held.status === "busy"; // with another cell
  const post = (wanted, more = {}) => {
    const n = ++link.n;
    link.pinged = Date.now();
    link.waiting.set(n, { at: Date.now(), change: !UNHEARD.includes(wanted) });
    if (gone()) return lose();
    try { model.send({ do: wanted, n, ...more }); } catch { lose(); }
  };
  const lose = () => {
    if (link.lost) return;
    const waiting = [...link.waiting.values()], since = waiting.find(({ change }) => change)?.at ?? Date.now();
    link.lost = new Date(since).toLocaleTimeString();
    drawState();
  };
  const hear = (n) => {
    for (const earlier of link.waiting.keys()) if (earlier <= n) link.waiting.delete(earlier);
    const back = link.lost;
    Object.assign(link, { life: Date.now(), lost: null, suspect: n < link.suspect ? link.suspect : 0 });
    if (back) { asked.clear(); ask(ui.z); drawState(); }
  };
  const listen = () => {
    if (link.lost && !gone() && Date.now() - link.pinged > PATIENCE) post("ping"); // it may be back
    if (!link.waiting.size) return;
    const quiet = Date.now() - Math.max(link.waiting.values().next().value.at, link.life);
    if (gone() || (quiet > (link.suspect ? SUSPICION : PATIENCE) && !busy())) lose();
  };
  const suspect = () => { post("ping"); link.suspect = link.n; };

  // ---- geometry: nibabel's x to the right, y upward, flipped as the affine says; view in displayed voxels
  const column = (x) => (scan.flip[0] ? nx - 1 - x : x);
  const row = (y) => (scan.flip[1] ? y : ny - 1 - y);
  const place = ([x, y]) => { // middle of a voxel on the canvas, CSS pixels
    const box = size();
    return [((column(x) + 0.5 - view.c) * box.w) / view.w, ((row(y) + 0.5 - view.r) * box.h) / view.h];
  };
  const size = () => ({ w: image.clientWidth || 1, h: image.clientHeight || 1 });
  const voxelAt = (event) => {
    const box = image.getBoundingClientRect();
    const c = Math.floor(view.c + ((event.clientX - box.left) / box.width) * view.w);
    const r = Math.floor(view.r + ((event.clientY - box.top) / box.height) * view.h);
    if (c < 0 || r < 0 || c >= nx || r >= ny) return null;
    return [column(c), scan.flip[1] ? r : ny - 1 - r, ui.z];
  };
  const pen = (canvas, w, h) => {
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
      canvas.width = Math.round(w * ratio); canvas.height = Math.round(h * ratio);
      canvas.style.width = `${w}px`; canvas.style.height = `${h}px`;
    }
    const made = canvas.getContext("2d");
    made.setTransform(ratio, 0, 0, ratio, 0, 0);
    return made;
  };
  const pixels = element("canvas");
  let wide = 0;
  function layout() {
    const room = root.clientWidth - 18;
    if (room <= 0 || !base) return;
    wide = room;
    const half = room >= 700 ? Math.floor((room - 16) * 0.49) : room;
    const shape = (base.h * scan.aspect) / base.w;
    const rest = parseFloat(getComputedStyle(root).getPropertyValue("--pk-rest")); // px beside the picture, on a page of its own
    const tall = rest ? Math.max(430, window.innerHeight - rest) : 430;
    const w = Math.floor(Math.min(half, 1.07 * tall, tall / shape)), h = Math.round(w * shape);
    pen(image, w, h);
    root.querySelector(".pk-left").style.width = `${Math.max(w, Math.min(half, 300))}px`;
    chart.dataset.height = clamp(tall - 330, 235, 420);
    chart.dataset.width = room >= 700 ? room - 16 - Math.max(w, 300) : room;
    drawImage(); drawChart();
  }
  function zoom(factor, centre) {
    const w = clamp(view.w / factor, base.w / 16, base.w), k = w / view.w, h = view.h * k;
    const [c, r] = centre ?? [view.c + view.w / 2, view.r + view.h / 2];
    view = { c: c - (c - view.c) * k, r: r - (r - view.r) * k, w, h };
    pan(0, 0);
  }
  function pan(dc, dr) {
    view.c = clamp(view.c + dc, Math.min(0, base.c), Math.max(nx, base.c + base.w) - view.w);
    view.r = clamp(view.r + dr, Math.min(0, base.r), Math.max(ny, base.r + base.h) - view.h);
    drawImage(); drawCursor();
  }

  // ---- data
  const ask = (z) => {
    if (z < 0 || z >= nz || slices.has(z) || asked.has(z)) return;
    asked.add(z);
    say("slice", { z });
  };
  const askFlow = () => {
    const { key } = model.get("state");
    if (!scan.has_maps || !key || !(ui.core || ui.overlay === "rcbf")) return;
    if (flowKey !== key) { flows = new Map(); flowKey = key; coreMl = null; }
    if (!flows.has(ui.z)) { flows.set(ui.z, null); say("rcbf", { z: ui.z }); }
  };
  const int16 = (part) => new Int16Array(part.buffer.slice(part.byteOffset, part.byteOffset + part.byteLength));
  const bytes = (part) => new Uint8Array(part.buffer.slice(part.byteOffset, part.byteOffset + part.byteLength));
  const receive = (message, buffers) => {
    if (message.heard !== undefined) return hear(message.heard);
    link.life = Date.now();
    if (message.visit !== scan.visit) return; // an answer to the case before
    if (message.slice !== undefined) receiveSlice(message.slice, buffers);
    if (message.rcbf !== undefined && message.of === flowKey) {
      coreMl = message.core_ml;
      flows.set(message.rcbf, buffers.length ? { rcbf: bytes(buffers[0]), core: bytes(buffers[1]) } : {});
      drawImage(); drawState();
    }
    if (message.suggestions) { suggestions = message.suggestions; drawOffers(message.reason); drawImage(); }
  };
  function receiveSlice(z, buffers) {
    const [curves, baseline] = buffers.slice(0, 2).map(int16), brain = bytes(buffers[2]);
    const held = { curves, baseline, ...derived(curves, nx * ny, nt, scan) };
    const most = quantile(held.peak, 0.998, 10);
    held.shown = {}; // times mean something in the brain only: bone and air are noise
    for (const name of ["ttp", "arrival"]) held.shown[name] = held[name].map((v, i) => (brain[i] ? v : NaN));
    held.limits = { now: [0, most], peak: [0, most], ttp: limitsOf(held.shown.ttp), arrival: limitsOf(held.shown.arrival) };
    const first = !slices.size;
    asked.delete(z);
    slices.set(z, held);
    if (first) { say("suggest"); ask(ui.z + 1); ask(ui.z - 1); }
    if (z === ui.z) { drawImage(); drawChart(); drawPointer(); }
  }
  const curveAt = ([x, y, z]) => {
    const held = slices.get(z);
    if (!held) return null;
    const start = (y * nx + x) * nt;
    return Array.from(held.curves.subarray(start, start + nt), (v) => v / scan.steps_per_hu);
  };

  // ---- the slice
  function overlayOf(held) { // value of voxel i, limits, opacity by share of the range
    const steep = (share) => clamp(4 * share, 0, 1), full = () => 1;
    const flow = flowKey === model.get("state").key ? flows.get(ui.z) : null;
    if (ui.overlay === "now") return [(i) => held.curves[i * nt + ui.t] / scan.steps_per_hu, held.limits.now, steep];
    if (ui.overlay === "peak") return [(i) => held.peak[i], held.limits.peak, steep];
    if (ui.overlay === "rcbf") {
      if (!flow?.rcbf) return null;
      return [(i) => (flow.rcbf[i] === scan.outside ? NaN : flow.rcbf[i] / scan.steps_per_rcbf), [0, 1.5], full];
    }
    return ui.overlay === "none" ? null : [(i) => held.shown[ui.overlay][i], held.limits[ui.overlay], full];
  }
  function paint(held) {
    const data = new ImageData(nx, ny), out = data.data;
    const over = overlayOf(held), table = OVERLAYS[ui.overlay].table;
    const black = ui.level - ui.width / 2;
    for (let y = 0; y < ny; y++) for (let x = 0; x < nx; x++) {
      const i = y * nx + x, at = 4 * (row(y) * nx + column(x));
      const hu = (held.baseline[i] + held.curves[i * nt + ui.t]) / scan.steps_per_hu;
      const grey = clamp((255 * (hu - black)) / ui.width, 0, 255);
      let share = NaN, mix = 0;
      if (over) share = (over[0](i) - over[1][0]) / (over[1][1] - over[1][0] || 1);
      if (share === share) { share = clamp(share, 0, 1); mix = ui.opacity * over[2](share); }
      const colour = 3 * Math.round(255 * (share === share ? share : 0));
      for (let k = 0; k < 3; k++) out[at + k] = mix ? grey + mix * (table[colour + k] - grey) : grey;
      out[at + 3] = 255;
    }
    return [data, over];
  }
  function drawImage() {
    if (!view) return;
    const held = slices.get(ui.z), { w, h } = size(), ink = pen(image, w, h);
    ink.fillStyle = "black";
    ink.fillRect(0, 0, w, h);
    const scale = w / view.w;
    let over = null;
    if (held) {
      let data;
      [data, over] = paint(held);
      pixels.width = nx; pixels.height = ny;
      pixels.getContext("2d").putImageData(data, 0, 0);
      ink.imageSmoothingEnabled = scale < 6;
      ink.drawImage(pixels, view.c, view.r, view.w, view.h, 0, 0, w, h);
      if (ui.core) drawCore(ink, w, h);
    }
    for (const kind of ["aif", "vof"]) drawVoxels(ink, model.get("state")[kind], COLOURS[kind], scale);
    for (const offer of suggestions) if (offer.voxel[2] === ui.z) drawOffer(ink, offer);
    ink.font = "12px sans-serif";
    ink.fillStyle = "#ddd";
    ink.textAlign = "left";
    const write = (text, x) => { // readable on bone and on air
      ink.strokeStyle = "rgba(0,0,0,.8)"; ink.lineWidth = 3;
      ink.strokeText(text, x, h / 2); ink.fillText(text, x, h / 2);
    };
    if (scan.sides_known) { write("R", 6); write("L", w - 14); }
    if (!held) write("loading …", w / 2 - 25);
    drawScale(over);
    zText.textContent = `${ui.z + 1} of ${nz}`;
    tText.textContent = `${(ui.t * scan.dt).toFixed(1)} s`;
  }
  function drawVoxels(ink, voxels, colour, scale) {
    const w = Math.max(scale, 5), h = Math.max(scale * scan.aspect, 5);
    for (const voxel of voxels) if (voxel[2] === ui.z) {
      const [px, py] = place(voxel);
      for (const [style, thick] of [["rgba(0,0,0,.7)", 4], [colour, 2]]) {
        ink.strokeStyle = style; ink.lineWidth = thick;
        ink.strokeRect(px - w / 2, py - h / 2, w, h);
      }
    }
  }
  function drawOffer(ink, offer) {
    const [px, py] = place(offer.voxel), colour = offer.kind === "vof" ? COLOURS.vof : COLOURS.preview;
    ink.beginPath(); ink.arc(px, py, 4, 0, 7);
    ink.strokeStyle = "white"; ink.lineWidth = 1.5; ink.stroke();
    ink.beginPath(); ink.arc(px + 13, py - 13, 8, 0, 7);
    ink.fillStyle = colour; ink.fill(); ink.stroke();
    ink.fillStyle = "white"; ink.font = "bold 11px sans-serif"; ink.textAlign = "center";
    ink.fillText(offer.number, px + 13, py - 9);
  }
  function drawCore(ink, w, h) {
    const flow = flowKey === model.get("state").key ? flows.get(ui.z) : null;
    if (!flow?.core) return;
    const sx = w / view.w, sy = h / view.h, at = (x, y) => x >= 0 && y >= 0 && x < nx && y < ny && flow.core[y * nx + x];
    ink.beginPath();
    for (let y = 0; y < ny; y++) for (let x = 0; x < nx; x++) if (at(x, y)) { // the sides of voxels at its edge
      const c = column(x), r = row(y), dx = scan.flip[0] ? -1 : 1, dy = scan.flip[1] ? 1 : -1;
      const [left, top] = [(c - view.c) * sx, (r - view.r) * sy];
      if (!at(x - dx, y)) { ink.moveTo(left, top); ink.lineTo(left, top + sy); }
      if (!at(x + dx, y)) { ink.moveTo(left + sx, top); ink.lineTo(left + sx, top + sy); }
      if (!at(x, y - dy)) { ink.moveTo(left, top); ink.lineTo(left + sx, top); }
      if (!at(x, y + dy)) { ink.moveTo(left, top + sy); ink.lineTo(left + sx, top + sy); }
    }
    for (const [style, thick] of [["rgba(0,0,0,.6)", 3.5], [CORE_COLOUR, 1.8]]) {
      ink.strokeStyle = style; ink.lineWidth = thick; ink.stroke();
    }
  }
  function drawScale(over) {
    const { name, unit, table } = OVERLAYS[ui.overlay];
    const waiting = ui.overlay === "rcbf" && !over;
    barName.textContent = waiting ? (model.get("state").key ? "rCBF: computing …" : "rCBF: pick an AIF first")
      : ui.overlay === "none" ? `CT ${ui.level - ui.width / 2} to ${ui.level + ui.width / 2} HU` : `${name} (${unit})`;
    bar.style.visibility = over ? "visible" : "hidden";
    const digits = unit === "HU" ? 0 : 1;
    barLow.textContent = over ? over[1][0].toFixed(digits) : "";
    barHigh.textContent = over ? over[1][1].toFixed(digits) : "";
    if (!over) return;
    const data = new ImageData(256, 1);
    for (let i = 0; i < 256; i++) data.data.set([table[3 * i], table[3 * i + 1], table[3 * i + 2], 255], 4 * i);
    bar.getContext("2d").putImageData(data, 0, 0);
  }
  function drawCursor() {
    cursor.style.display = ui.hover && ui.hover[2] === ui.z ? "block" : "none";
    if (!ui.hover) return;
    const [px, py] = place(ui.hover), { w } = size(), scale = Math.max(w / view.w, 4);
    Object.assign(cursor.style, { left: `${px - scale / 2}px`, top: `${py - scale / 2}px`, width: `${scale}px`, height: `${scale}px` });
  }

  // ---- the curves
  function lines() {
    const state = model.get("state"), found = [];
    for (const [name, curve] of Object.entries(state.curves)) found.push({ name, curve, thick: 2.5 });
    const hovered = ui.hover && curveAt(ui.hover);
    if (hovered) found.push({ name: "hover", curve: hovered, thick: 1.5 });
    if (ui.preview) found.push({ name: "preview", curve: ui.preview.curve, thick: 2, dash: [6, 3] });
    return found;
  }
  function drawChart() {
    if (!wide) return;
    const w = +chart.dataset.width, h = +chart.dataset.height, [left, right, top, bottom] = [44, 8, 24, h - 36];
    const ink = pen(chart, w, h), text = getComputedStyle(root).color, drawn = lines();
    const values = drawn.flatMap(({ curve }) => curve);
    const most = Math.max(20, ...values), least = Math.min(0, ...values);
    const tissuePeak = Math.max(...scan.tissue, 1e-6);
    const times = [20, 10, 5, 2, 1].find((factor) => factor * tissuePeak <= 0.6 * most) ?? 1;
    const px = (t) => left + (t / (nt - 1)) * (w - left - right);
    const py = (v) => bottom - ((v - least) / (most - least)) * (bottom - top);
    ink.clearRect(0, 0, w, h);
    ink.font = "11px sans-serif";
    ink.textAlign = "right";
    ink.fillStyle = ink.strokeStyle = text;
    ink.lineWidth = 1;
    const step = niceStep(most - least, 5);
    for (let v = Math.ceil(least / step) * step; v <= most; v += step) {
      ink.globalAlpha = 0.1; ink.strokeRect(left, py(v), w - left - right, 0);
      ink.globalAlpha = 1; ink.fillText(v.toFixed(0), left - 6, py(v) + 4);
    }
    ink.globalAlpha = 0.5;
    ink.strokeRect(px(ui.t), top, 0, bottom - top);
    ink.globalAlpha = 1;
    ink.textAlign = "center";
    const seconds = niceStep((nt - 1) * scan.dt, 8);
    for (let s = 0; s <= (nt - 1) * scan.dt; s += seconds) ink.fillText(s.toFixed(0), px(s / scan.dt), bottom + 15);
    ink.fillText("time (s)", (left + w - right) / 2, bottom + 30);
    ink.textAlign = "left";
    ink.fillText("HU above baseline", 4, 12);
    const draw = (curve, colour, thick, dash = []) => {
      ink.strokeStyle = colour; ink.lineWidth = thick; ink.setLineDash(dash);
      ink.beginPath();
      curve.forEach((v, t) => ink.lineTo(px(t), clamp(py(v), 0, h)));
      ink.stroke(); ink.setLineDash([]);
    };
    const labels = [[`brain ×${times}`, COLOURS.brain]];
    draw(scan.tissue.map((v) => v * times), COLOURS.brain, 1.2, [2, 3]);
    const { fit } = model.get("state");
    if (fit.length) draw(fit, COLOURS.aif, 1.2, [4, 3]);
    for (const { name, curve, thick, dash } of drawn) {
      draw(curve, COLOURS[name] ?? text, thick, dash);
      labels.push([NAMES[name], COLOURS[name] ?? text]);
    }
    if (fit.length) labels.push(["fit - -", COLOURS.aif]);
    ink.textAlign = "right";
    let at = w - right;
    for (const [label, colour] of labels.reverse()) {
      ink.fillStyle = colour; ink.fillText(label, at, 12);
      at -= ink.measureText(label).width + 10;
    }
  }
  function drawPointer() {
    const where = `slice ${ui.z + 1} of ${nz}, ${(ui.t * scan.dt).toFixed(1)} s`;
    const curve = ui.hover && curveAt(ui.hover);
    if (!curve) { pointer.textContent = where; return; }
    const peak = Math.max(...curve), i = ui.hover[1] * nx + ui.hover[0], held = slices.get(ui.hover[2]);
    pointer.textContent = `${where}, voxel ${ui.hover.join(" ")}: ${curve[ui.t].toFixed(0)} HU now, peak ${peak.toFixed(0)} HU`
      + (Number.isFinite(held.ttp[i]) ? ` at ${held.ttp[i].toFixed(1)} s` : "");
  }

  // ---- words and numbers
  function drawState() {
    const state = model.get("state");
    const active = root.getRootNode().activeElement;
    const lost = link.lost && `No connection to the kernel: run the cell again; nothing picked since ${link.lost} is saved.`;
    summary.textContent = lost || state.problem || state.summary;
    summary.classList.toggle("pk-problem", Boolean(lost || state.problem));
    undo.disabled = !state.can_undo; redo.disabled = !state.can_redo;
    clear.disabled = !state.aif.length && !state.vof.length;
    save.disabled = !state.can_save || state.saved;
    const nameless = state.cases ? "not saved: who are you?" : "not saved: no file was given";
    const touched = state.aif.length || state.vof.length || state.can_undo || state.comment;
    status.textContent = lost ? "NO CONNECTION" : state.saved ? (touched && state.can_save ? "saved" : "") : state.can_save ? "NOT SAVED" : nameless;
    status.classList.toggle("pk-problem", Boolean(lost) || !state.saved);
    for (const [name, made] of Object.entries(kinds)) {
      made.setAttribute("aria-pressed", name === ui.kind);
      made.style.background = name === ui.kind ? COLOURS[name] : "";
    }
    const many = Boolean(state.cases);
    for (const part of [previous, next, cases, progress]) part.style.display = many ? "" : "none";
    caseName.style.display = many ? "none" : "";
    caseName.textContent = scan.id;
    rater.disabled = !many;
    if (document.activeElement !== rater && rater.getRootNode().activeElement !== rater) rater.value = state.rater;
    if (active !== comment && !lost) comment.value = state.comment;
    if (many) drawCases(state);
    warnings.replaceChildren(...state.warnings.map((text) => element("li", { text })));
    drawFigures(state);
    coreLabel.style.display = scan.has_maps ? "" : "none";
    for (const option of overlay.options) if (option.value === "rcbf") option.disabled = !scan.has_maps;
    if (active?.disabled && root.contains(active)) root.focus({ preventScroll: true }); // else the keys are dead
  }
  function drawCases(state) {
    progress.textContent = state.progress;
    const now = JSON.stringify(state.cases);
    if (cases.dataset.now !== now) {
      cases.dataset.now = now;
      cases.replaceChildren(...state.cases.map(([name, picked, broken]) =>
        element("option", { value: name, text: `${broken ? "✕" : picked ? "✓" : "○"} ${name}` })));
    }
    cases.value = scan.id;
    const at = state.cases.findIndex(([name]) => name === scan.id);
    previous.disabled = at === 0; next.disabled = at === state.cases.length - 1;
  }
  function drawFigures(state) {
    const { aif, vof } = state.quality;
    const rows = [
      ["peak (HU)", "peak", 0], ["time to peak (s)", "time_to_peak", 1], ["arrival (s)", "arrival", 1], ["FWHM (s)", "fwhm", 1],
      ["fit R²", "r2", 2], ["area, of the VOF's", "vof_area_ratio", 2], ["partial-volume factor", "partial_volume_factor", 2],
      ["× as arterial as the brain", "score", 1],
    ];
    const cells = (name, digits) => [aif, vof].map((q, i) =>
      element("td", { text: !q || (i && ["vof_area_ratio", "partial_volume_factor", "score", "r2"].includes(name)) ? "" : shown(q[name], digits) }));
    const head = element("tr", {}, element("th"), element("th", { text: "AIF" }), element("th", { text: "VOF" }));
    const made = rows.map(([label, name, digits]) => element("tr", {}, element("th", { text: label }), ...cells(name, digits)));
    if (ui.core) {
      const words = !state.key ? "–" : coreMl === null ? "…" : coreMl === undefined ? "no map" : coreMl.toFixed(1);
      made.push(element("tr", { "data-testid": "core-ml" },
        element("th", { text: `rCBF < ${scan.threshold} (ml)` }), element("td", { text: words }), element("td")));
    }
    figures.replaceChildren(head, ...made);
  }
  function drawOffers(reason) {
    const made = suggestions.map((offer) => {
      const preview = (on) => () => { ui.preview = on ? offer : null; drawChart(); };
      return element("button", {
        type: "button", class: "pk-offer", "data-testid": `suggestion-${offer.number}`, title: offer.why,
        onclick: () => accept(offer), onmouseenter: preview(true), onmouseleave: preview(false),
        onfocus: preview(true), onblur: preview(false),
      }, element("b", { text: offer.number, class: offer.kind === "vof" ? "pk-vof" : "" }),
      ` ${offer.methods.join(", ")}`, element("small", { text: ` slice ${offer.voxel[2] + 1}${offer.kind === "vof" ? ", VOF" : ""}` }));
    });
    offers.replaceChildren(element("div", { class: "pk-quiet", text: reason ? `No suggestion: ${reason}` : "suggestions" }), ...made);
  }
  const accept = (offer) => {
    ui.preview = null;
    go(offer.voxel[2], ui.t);
    say("accept", { number: offer.number });
  };

  // ---- what the rater does
  const go = (z, t) => {
    ui.z = clamp(z, 0, nz - 1); ui.t = clamp(t, 0, nt - 1);
    zSlider.value = ui.z; tSlider.value = ui.t;
    if (ui.hover) ui.hover = [ui.hover[0], ui.hover[1], ui.z];
    ask(ui.z);
    if (slices.size) { ask(ui.z + 1); ask(ui.z - 1); }
    askFlow(); drawImage(); drawChart(); drawPointer(); drawCursor();
  };
  const togglePlay = () => {
    if (ui.playing) { clearInterval(ui.playing); ui.playing = null; }
    else ui.playing = setInterval(() => go(ui.z, (ui.t + 1) % nt), 100);
    play.textContent = ui.playing ? "❚❚" : "▷";
  };
  const setWindow = (l, w) => {
    ui.level = l; ui.width = Math.max(1, w);
    for (const [input, value] of [[level, l], [width, ui.width]]) if (+input.value !== value || input.value === "") input.value = value;
    windows.value = Object.keys(WINDOWS).find((k) => WINDOWS[k][0] === l && WINDOWS[k][1] === w) ?? "own";
    drawImage();
  };
  const hover = (voxel) => { ui.hover = voxel; drawCursor(); drawPointer(); drawChart(); };
  const pick = (voxels, way) => voxels.length && say("pick", { voxels, kind: ui.kind, way });
  const moveCursor = (dc, dr) => {
    const [x, y] = ui.hover ?? [Math.floor(nx / 2), Math.floor(ny / 2)];
    const sx = scan.flip[0] ? -dc : dc, sy = scan.flip[1] ? dr : -dr;
    hover([clamp(x + sx, 0, nx - 1), clamp(y + sy, 0, ny - 1), ui.z]);
  };
  const cycle = () => {
    const names = Object.keys(OVERLAYS).filter((name) => name !== "rcbf" || scan.has_maps);
    ui.overlay = overlay.value = names[(names.indexOf(ui.overlay) + 1) % names.length];
    askFlow(); drawImage();
  };
  const rectangle = (a, b) => {
    const found = [];
    for (let x = Math.min(a[0], b[0]); x <= Math.max(a[0], b[0]); x++) {
      for (let y = Math.min(a[1], b[1]); y <= Math.max(a[1], b[1]); y++) found.push([x, y, ui.z]);
    }
    return found;
  };

  zSlider.addEventListener("input", () => go(+zSlider.value, ui.t));
  tSlider.addEventListener("input", () => go(ui.z, +tSlider.value));
  opacity.addEventListener("input", () => { ui.opacity = +opacity.value / 100; drawImage(); });
  for (const input of [level, width]) input.addEventListener("input", () => {
    if (level.value !== "" && width.value !== "") setWindow(+level.value, +width.value); // empty: still being typed
  });
  image.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey) {
      const box = image.getBoundingClientRect();
      zoom(event.deltaY < 0 ? 1.25 : 0.8, [view.c + ((event.clientX - box.left) / box.width) * view.w,
        view.r + ((event.clientY - box.top) / box.height) * view.h]);
      return;
    }
    ui.wheel = Math.abs(event.deltaY) >= 50 ? 50 * Math.sign(event.deltaY) : ui.wheel + event.deltaY; // a touchpad sends crumbs
    if (Math.abs(ui.wheel) >= 50) { go(ui.z + Math.sign(ui.wheel), ui.t); ui.wheel = 0; }
  }, { passive: false });

  let drag = null;
  image.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    drag = { x: event.clientX, y: event.clientY, from: voxelAt(event), moved: false, shift: event.shiftKey, alt: event.altKey };
    image.setPointerCapture(event.pointerId);
    root.focus({ preventScroll: true });
  });
  image.addEventListener("pointermove", (event) => {
    hover(voxelAt(event));
    if (!drag) return;
    const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
    drag.moved ||= Math.hypot(dx, dy) > 4;
    if (!drag.moved) return;
    const box = image.getBoundingClientRect();
    if (drag.shift) {
      pan((-dx / box.width) * view.w, (-dy / box.height) * view.h);
      drag.x = event.clientX; drag.y = event.clientY;
      return;
    }
    Object.assign(roi.style, {
      display: "block", borderColor: COLOURS[ui.kind], borderStyle: drag.alt ? "dashed" : "solid",
      left: `${Math.min(drag.x, event.clientX) - box.left}px`, top: `${Math.min(drag.y, event.clientY) - box.top}px`,
      width: `${Math.abs(dx)}px`, height: `${Math.abs(dy)}px`,
    });
  });
  image.addEventListener("pointerup", (event) => {
    const done = drag, voxel = voxelAt(event);
    drag = null;
    roi.style.display = "none";
    if (!done || !voxel || !done.from || (done.moved && done.shift)) return;
    if (!done.moved) pick([voxel], "toggle");
    else pick(rectangle(done.from, voxel), done.alt ? "remove" : "add");
  });
  image.addEventListener("pointercancel", () => { drag = null; roi.style.display = "none"; });
  image.addEventListener("pointerleave", () => { if (!drag) hover(null); });

  const tick = (box, to) => { box.checked = to; box.dispatchEvent(new Event("change")); };
  const actions = {
    ArrowUp: () => go(ui.z + 1, ui.t), ArrowDown: () => go(ui.z - 1, ui.t),
    ArrowLeft: () => go(ui.z, ui.t - 1), ArrowRight: () => go(ui.z, ui.t + 1), " ": togglePlay,
    a: () => kinds.aif.click(), v: () => kinds.vof.click(), z: () => say("undo"), y: () => say("redo"), x: () => clear.click(),
    o: cycle, k: () => scan.has_maps && tick(core, !core.checked), n: () => next.click(), p: () => previous.click(),
    s: () => save.click(), Enter: () => ui.hover && pick([ui.hover], "toggle"),
    "+": () => zoom(1.5, aim()), "=": () => zoom(1.5, aim()), "-": () => zoom(1 / 1.5), 0: () => { view = { ...base }; pan(0, 0); },
  };
  const shifted = {
    ArrowUp: () => moveCursor(0, -1), ArrowDown: () => moveCursor(0, 1),
    ArrowLeft: () => moveCursor(-1, 0), ArrowRight: () => moveCursor(1, 0),
  };
  const controlled = { z: () => say("undo"), y: () => say("redo"), s: () => save.click(), Z: () => say("redo") };
  const aim = () => ui.hover && [column(ui.hover[0]) + 0.5, row(ui.hover[1]) + 0.5];
  root.addEventListener("keydown", (event) => {
    event.stopPropagation(); // no key may reach JupyterLab: there `d d` deletes the cell
    const tag = event.target.tagName, type = event.target.type;
    const writing = tag === "SELECT" || type === "text" || type === "number";
    if (event.key === "Enter" && type === "text") { root.focus(); return; } // leaving the field sends it
    if (event.key === "Escape") { root.focus(); return; }
    if (event.ctrlKey || event.metaKey) {
      if (controlled[event.key] && !writing) { event.preventDefault(); controlled[event.key](); }
      else if (event.key === "s") event.preventDefault();
      return;
    }
    if (writing || event.altKey) return;
    if (tag === "BUTTON" && (event.key === " " || event.key === "Enter")) return;
    if (type === "range" && event.key.startsWith("Arrow")) return;
    const offer = suggestions.find((o) => String(o.number) === event.key);
    const action = offer ? () => accept(offer) : event.shiftKey && shifted[event.key] ? shifted[event.key] : actions[event.key];
    if (action) { event.preventDefault(); action(); }
  });
  root.addEventListener("click", (event) => { // the mouse leaves the keys where they were; who tabs stays
    if (event.detail && event.target.closest("button, input[type=checkbox]")) root.focus({ preventScroll: true });
  });
  root.addEventListener("change", (event) => event.target.tagName === "SELECT" && root.focus({ preventScroll: true }));
  for (const name of ["keyup", "keypress"]) root.addEventListener(name, (event) => event.stopPropagation());

  // ---- from case to case
  function open() {
    scan = model.get("scan");
    [nx, ny, nz, nt] = scan.shape;
    slices = new Map(); asked = new Set(); flows = new Map(); flowKey = ""; coreMl = null; suggestions = [];
    const [x0, x1, y0, y1] = scan.window;
    base = { c: Math.min(column(x0), column(x1 - 1)), r: Math.min(row(y0), row(y1 - 1)), w: x1 - x0, h: y1 - y0 };
    view = { ...base };
    Object.assign(ui, { hover: null, preview: null, wheel: 0 });
    zSlider.max = nz - 1; tSlider.max = nt - 1;
    offers.replaceChildren(element("div", { class: "pk-quiet", text: "looking for arteries …" }));
    cursor.style.display = "none";
    drawState();
    go(scan.start, scan.peak_frame);
    layout();
  }
  const follow = () => { link.life = Date.now(); askFlow(); drawState(); drawImage(); drawChart(); };
  model.on("msg:custom", receive);
  model.on("change:scan", open);
  model.on("change:state", follow);
  model.on("comm_live_update", suspect);
  const listening = setInterval(listen, 500);
  const theme = new MutationObserver(drawChart); // JupyterLab writes its theme into the body's attributes
  theme.observe(document.body, { attributes: true });
  const resized = new ResizeObserver(() => { if (root.clientWidth - 18 !== wide) layout(); });
  resized.observe(root);
  opacity.max = 100; opacity.value = 100 * ui.opacity;
  overlay.value = ui.overlay;
  setWindow(...WINDOWS.perfusion);
  open();
  return () => {
    clearInterval(ui.playing); clearInterval(listening);
    theme.disconnect(); resized.disconnect();
    model.off("msg:custom", receive); model.off("change:scan", open); model.off("change:state", follow);
    model.off("comm_live_update", suspect);
  };
}

export default { render };
