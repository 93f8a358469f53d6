"""The picker's front end alone, in a blank page with a model that only remembers: clicks, keys, drawing."""

import base64
from pathlib import Path

import numpy as np
import pytest

import perfkit

pytestmark = pytest.mark.browser
STATIC = Path(perfkit.__file__).parent / "static"
NX, NY, NZ, NT, DT = 40, 60, 3, 30, 2.0
ARTERY, VEIN, LATE = (10, 20, 1), (30, 40, 1), (20, 30, 1)

START = """async ({ code, css, scan, state, slices }) => {
  document.head.append(Object.assign(document.createElement('style'), { textContent: css }));
  const { default: front } = await import(URL.createObjectURL(new Blob([code], { type: 'text/javascript' })));
  const listeners = {}, values = { scan, state };
  const view = (bytes) => new DataView(Uint8Array.from(atob(bytes), c => c.charCodeAt(0)).buffer);
  window.sent = []; window.escaped = [];
  window.model = {
    get: (name) => values[name],
    on: (name, f) => (listeners[name] ??= []).push(f),
    off: (name, f) => { listeners[name] = (listeners[name] ?? []).filter(g => g !== f); },
    emit: (name, ...more) => (listeners[name] ?? []).forEach(f => f(...more)),
    set: (name, value) => { values[name] = value; model.emit('change:' + name); },
    send: ({ n, ...message }) => {
      if (window.deaf) return;
      sent.push(message);
      setTimeout(() => model.emit('msg:custom', { heard: n }, []));
      if (message.do === 'slice') setTimeout(() => model.emit('msg:custom',
        { slice: message.z, visit: values.scan.visit }, slices[message.z].map(view)));
    },
  };
  document.addEventListener('keydown', (event) => escaped.push(event.key));
  window.close_ = front.render({ model, el: document.getElementById('host') });
}"""


def bolus(onset, peak):
    """A bolus that rises linearly over 4 frames and falls over 6, in HU."""
    rise, fall = np.linspace(0, peak, 5), np.linspace(peak, 0, 7)[1:]
    curve = np.zeros(NT)
    curve[onset : onset + 11] = np.concatenate([rise, fall])
    return curve


def volumes():
    curves = np.zeros((NX, NY, NZ, NT))
    curves[4:-4, 4:-4] = bolus(9, 8)
    curves[ARTERY], curves[VEIN], curves[LATE] = bolus(5, 160), bolus(12, 200), bolus(18, 60)
    baseline = np.zeros((NX, NY, NZ))
    baseline[4:-4, 4:-4] = 35
    return curves, baseline


def encoded(array):
    return base64.b64encode(np.rint(array * 16).astype("<i2").swapaxes(0, 1).tobytes()).decode()


def scan(**changed):
    return {
        "id": "case_2", "visit": 0, "shape": [NX, NY, NZ, NT], "dt": DT, "aspect": 1.0,
        "flip": [False, False], "sides_known": True, "window": [0, NX, 0, NY],
        "steps_per_hu": 16, "steps_per_rcbf": 100, "outside": 255,
        "arrival_fraction": 0.2, "threshold": 0.38, "has_maps": True, "start": 1, "peak_frame": 13,
        "tissue": bolus(9, 8).tolist(),
    } | changed  # fmt: skip


def state(**changed):
    return {
        "aif": [], "vof": [], "key": "", "curves": {}, "quality": {}, "fit": [], "warnings": [],
        "summary": "No AIF voxel yet", "problem": "", "comment": "", "saved": True, "can_save": True,
        "can_undo": True, "can_redo": True, "rater": "mh", "progress": "1 of 3 picked",
        "cases": [["case_1", True, False], ["case_2", False, False], ["case_3", False, True]],
    } | changed  # fmt: skip


@pytest.fixture
def start(page):
    """Open the picker in a blank page; returns the page."""

    def open_(**changed):
        page.set_content('<div id="host" style="width: 900px"></div>')
        curves, baseline = volumes()
        brain = base64.b64encode((baseline[:, :, 0] > 0).astype(np.uint8).swapaxes(0, 1).tobytes()).decode()
        slices = [[encoded(curves[:, :, z]), encoded(baseline[:, :, z]), brain] for z in range(NZ)]
        arguments = {"code": (STATIC / "picker.js").read_text(), "css": (STATIC / "picker.css").read_text()}
        arguments |= {"scan": scan(**changed), "state": state(), "slices": slices}
        page.evaluate(START, arguments)
        page.wait_for_function("() => sent.some(m => m.do === 'suggest')")
        return page

    return open_


def sent(page, *kinds):
    messages = page.evaluate("() => sent")
    return [m for m in messages if m["do"] in kinds] if kinds else messages


def position(page, voxel, flip=(False, False)):
    """Middle of a voxel in the picture, CSS pixels, for the radiological display: y upward."""
    box = page.get_by_test_id("image").bounding_box()
    x, y, _ = voxel
    column = NX - 1 - x if flip[0] else x
    row = y if flip[1] else NY - 1 - y
    return (column + 0.5) * box["width"] / NX, (row + 0.5) * box["height"] / NY


def click(page, voxel, **options):
    x, y = position(page, voxel, options.pop("flip", (False, False)))
    page.get_by_test_id("image").click(position={"x": x, "y": y}, **options)


def hover(page, voxel):
    x, y = position(page, voxel)
    page.get_by_test_id("image").hover(position={"x": x, "y": y})


def drag(page, first, last, key=None):
    box = page.get_by_test_id("image").bounding_box()
    places = [position(page, voxel) for voxel in (first, last)]
    if key:
        page.keyboard.down(key)
    page.mouse.move(box["x"] + places[0][0], box["y"] + places[0][1])
    page.mouse.down()
    page.mouse.move(box["x"] + places[1][0], box["y"] + places[1][1], steps=4)
    page.mouse.up()
    if key:
        page.keyboard.up(key)


@pytest.mark.parametrize("flip", [(False, False), (True, False), (False, True), (True, True)])
def test_a_click_names_the_voxel_under_it(start, flip):
    page = start(flip=list(flip))
    click(page, ARTERY, flip=flip)
    assert sent(page, "pick") == [{"do": "pick", "voxels": [list(ARTERY)], "kind": "aif", "way": "toggle"}]


def test_hovering_shows_voxel_value_and_peak_without_the_kernel(start):
    page = start()
    before = len(sent(page))
    hover(page, ARTERY)
    words = page.get_by_test_id("pointer").inner_text()
    assert words == "slice 2 of 3, 26.0 s, voxel 10 20 1: 53 HU now, peak 160 HU at 18.0 s"
    assert len(sent(page)) == before


def test_wheel_arrows_and_sliders_change_slice_and_time(start):
    page = start()
    hover(page, ARTERY)
    page.mouse.wheel(0, 100)
    assert page.get_by_test_id("slice-text").inner_text() == "3 of 3"
    page.mouse.wheel(0, -100)
    page.mouse.wheel(0, -10)  # a crumb of a touchpad is no slice yet
    assert page.get_by_test_id("slice-text").inner_text() == "2 of 3"
    page.get_by_test_id("picker").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    assert page.get_by_test_id("slice-text").inner_text() == "1 of 3"
    assert page.get_by_test_id("time-text").inner_text() == "24.0 s"
    page.get_by_test_id("slice").fill("2")
    page.get_by_test_id("time").fill("3")
    assert page.get_by_test_id("pointer").inner_text().startswith("slice 3 of 3, 6.0 s")


def test_slices_are_asked_for_once_and_ahead(start):
    page = start()
    page.get_by_test_id("picker").focus()
    for key in ("ArrowUp", "ArrowDown", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    assert sorted(m["z"] for m in sent(page, "slice")) == [0, 1, 2]
    assert sent(page, "slice")[0]["z"] == 1


def test_every_shortcut_does_what_is_written_beside_it(start):
    page = start()
    page.get_by_test_id("picker").focus()
    for key in ("v", "z", "y", "x", "n", "p", "s"):
        page.keyboard.press(key)
    page.keyboard.press("Control+z")
    page.evaluate("s => model.set('state', s)", state(saved=False, aif=[[1, 1, 1]]))
    page.keyboard.press("x")
    page.keyboard.press("Control+s")
    words = [(m["do"], m.get("by")) for m in sent(page) if m["do"] not in ("slice", "suggest")]
    assert words == [("undo", None), ("redo", None), ("go", 1), ("go", -1), ("undo", None),
                     ("clear", None), ("save", None)]  # fmt: skip
    assert page.get_by_test_id("kind-vof").get_attribute("aria-pressed") == "true"
    shown = page.get_by_test_id("keys").inner_text()
    for key in ("a / v", "z / y", "1-9", "n / p", "space", "enter"):
        assert key in shown


def test_no_key_leaves_the_widget(start):
    page = start()
    keys = [*"abcdefghijklmnopqrstuvwxyz0123456789", "ArrowUp", "ArrowDown", "Enter", "Escape", "Delete",
            "Shift+ArrowLeft", "Shift+Enter", "Control+Enter", "Control+s", "Control+b", "Tab"]  # fmt: skip
    for target in ("picker", "comment", "slice", "kind-aif", "overlay"):
        for key in keys:
            page.get_by_test_id(target).focus()
            page.keyboard.press(key)
    assert page.evaluate("() => escaped") == []
    assert page.get_by_test_id("picker").get_attribute("data-lm-suppress-shortcuts") == "true"


def test_typing_a_comment_is_no_shortcut(start):
    page = start()
    page.get_by_test_id("comment").fill("")
    page.get_by_test_id("comment").press_sequentially("vein? zyx 12")
    page.keyboard.press("Enter")
    assert [m for m in sent(page) if m["do"] not in ("slice", "suggest")] == [
        {"do": "comment", "text": "vein? zyx 12"}
    ]


def test_the_cursor_walks_and_picks_by_keys_alone(start):
    page = start(flip=[True, False])
    page.get_by_test_id("picker").focus()
    for key in ["Shift+ArrowRight"] * 3 + ["Shift+ArrowUp"] * 2 + ["v", "Enter"]:
        page.keyboard.press(key)
    # the right of the screen is the patient's left, lower x here; up is forward, higher y
    assert sent(page, "pick")[-1] == {
        "do": "pick", "voxels": [[NX // 2 - 3, NY // 2 + 2, 1]], "kind": "vof", "way": "toggle"
    }  # fmt: skip


def test_dragging_adds_a_region_and_alt_takes_it_away(start):
    page = start()
    drag(page, (10, 20, 1), (12, 21, 1))
    drag(page, (12, 21, 1), (10, 20, 1), key="Alt")
    added, removed = sent(page, "pick")
    expected = {(x, y, 1) for x in (10, 11, 12) for y in (20, 21)}
    for message, way in ((added, "add"), (removed, "remove")):
        assert {tuple(v) for v in message["voxels"]} == expected
        assert (message["kind"], message["way"]) == ("aif", way)


def test_zoom_and_pan_keep_the_pointer_on_its_voxel(start):
    page = start()
    hover(page, ARTERY)
    box = page.get_by_test_id("image").bounding_box()
    x, y = position(page, ARTERY)
    page.get_by_test_id("picker").focus()
    for _ in range(3):
        page.keyboard.press("+")
    page.mouse.move(box["x"] + x + 1, box["y"] + y)
    assert "voxel 10 20 1" in page.get_by_test_id("pointer").inner_text()
    page.keyboard.down("Shift")
    page.mouse.down()
    page.mouse.move(box["x"] + x + 31, box["y"] + y, steps=3)
    page.mouse.up()
    page.keyboard.up("Shift")
    assert sent(page, "pick") == []
    assert "voxel 10 20 1" in page.get_by_test_id("pointer").inner_text()
    page.keyboard.press("0")
    click(page, VEIN)
    assert sent(page, "pick")[-1]["voxels"] == [list(VEIN)]


COLOUR_AT = """([x, y]) => {
  const canvas = document.querySelector('[data-testid=image]'), ratio = canvas.width / canvas.clientWidth;
  return Array.from(canvas.getContext('2d').getImageData(x * ratio, y * ratio, 1, 1).data).slice(0, 3);
}"""


def test_the_window_maps_hu_to_grey(start):
    page = start()
    page.get_by_test_id("overlay").select_option("none")
    page.get_by_test_id("window").select_option("brain")  # level 40, width 80
    assert (page.get_by_test_id("level").input_value(), page.get_by_test_id("width").input_value()) == (
        "40",
        "80",
    )
    page.get_by_test_id("time").fill("0")  # no contrast: baseline 35 HU
    x, y = position(page, LATE)
    assert page.evaluate(COLOUR_AT, [x, y]) == pytest.approx([255 * 35 / 80] * 3, abs=1)
    page.get_by_test_id("level").fill("60")
    assert page.get_by_test_id("window").input_value() == "own"
    assert page.evaluate(COLOUR_AT, [x, y]) == pytest.approx([255 * 15 / 80] * 3, abs=1)
    assert page.get_by_test_id("scale").inner_text() == "CT 20 to 100 HU"


def test_time_overlays_are_bright_where_blood_is_early(start):
    page = start()
    page.get_by_test_id("opacity").fill("100")
    luminance = {}
    for overlay in ("ttp", "arrival"):
        page.get_by_test_id("overlay").select_option(overlay)
        for name, voxel in (("artery", ARTERY), ("late", LATE)):
            r, g, b = page.evaluate(COLOUR_AT, list(position(page, voxel)))
            luminance[overlay, name] = 0.2126 * r + 0.7152 * g + 0.0722 * b
        assert luminance[overlay, "artery"] > luminance[overlay, "late"] + 50
        assert "(s)" in page.get_by_test_id("scale").inner_text()


def test_rcbf_and_core_are_asked_for_once_a_pick_is_made(start):
    page = start()
    page.get_by_test_id("overlay").select_option("rcbf")
    assert "pick an AIF first" in page.get_by_test_id("scale").inner_text()
    assert sent(page, "rcbf") == []
    page.evaluate("s => model.set('state', s)", state(aif=[list(ARTERY)], key="10 20 1"))
    assert sent(page, "rcbf") == [{"do": "rcbf", "z": 1}]
    page.get_by_test_id("core").check()
    page.evaluate(
        """n => {
        const images = [100, 1].map(value => new DataView(new Uint8Array(n).fill(value).buffer));
        for (const [of, core_ml] of [['another AIF', 1], ['10 20 1', 12.34]])
          model.emit('msg:custom', { rcbf: 1, visit: 0, of, core_ml }, images);
    }""",
        NX * NY,
    )
    assert page.get_by_test_id("core-ml").inner_text().split() == ["rCBF", "<", "0.38", "(ml)", "12.3"]
    assert sent(page, "rcbf") == [{"do": "rcbf", "z": 1}]


def test_numbers_warnings_and_problems_are_shown(start):
    page = start()
    figures = dict.fromkeys(("peak", "time_to_peak", "arrival", "fwhm", "tail", "r2"), 12.34)
    figures |= {"vof_area_ratio": None, "partial_volume_factor": None, "score": 5.55}
    words = {"summary": "AIF of 1 voxel", "warnings": ["It is 26 s wide."], "quality": {"aif": figures}}
    page.evaluate("s => model.set('state', s)", state(**words, problem="The disk is full.", saved=False))
    assert page.get_by_test_id("warnings").inner_text() == "It is 26 s wide."
    assert "12.3" in page.get_by_test_id("figures").inner_text()
    assert page.get_by_test_id("summary").inner_text() == "The disk is full."
    assert page.get_by_test_id("status").inner_text() == "NOT SAVED"


def test_suggestions_are_numbered_places_to_take(start):
    page = start()
    offers = [
        {"number": n, "voxel": list(v), "voxels": [list(v)], "kind": kind, "methods": ["straka"], "score": 3,
         "why": "early", "curve": bolus(5, 100).tolist()}
        for n, v, kind in ((1, ARTERY, "aif"), (2, (5, 6, 2), "vof"))
    ]  # fmt: skip
    page.evaluate("o => model.emit('msg:custom', { suggestions: o, visit: 0 })", offers)
    page.get_by_test_id("suggestion-1").click()
    page.get_by_test_id("picker").focus()
    page.keyboard.press("2")
    assert [m["number"] for m in sent(page, "accept")] == [1, 2]
    assert page.get_by_test_id("slice-text").inner_text() == "3 of 3"
    assert "VOF" in page.get_by_test_id("suggestions").inner_text()


def test_another_case_clears_what_belonged_to_the_last(start):
    page = start()
    hover(page, ARTERY)
    page.evaluate("s => model.set('scan', s)", scan(id="case_3", visit=1, shape=[NX, NY, NZ, NT]))
    page.evaluate("s => model.set('state', s)", state())
    assert page.get_by_test_id("case").input_value() == "case_3"
    assert "voxel" not in page.get_by_test_id("pointer").inner_text()
    asked = [m["z"] for m in sent(page, "slice")]
    assert asked.count(1) == 2  # the new case's slice is asked for anew
    page.evaluate("() => model.emit('msg:custom', { suggestions: [{}], visit: 0 })")  # late, of the last case
    assert page.get_by_test_id("suggestion-1").count() == 0


def test_cases_progress_and_rater(start):
    page = start()
    options = page.get_by_test_id("case").locator("option").all_inner_texts()
    assert options == ["✓ case_1", "○ case_2", "✕ case_3"]
    page.get_by_test_id("case").select_option("case_1")
    page.get_by_test_id("rater").fill("ab")
    page.keyboard.press("Enter")
    assert [m for m in sent(page) if m["do"] in ("go", "sign")] == [
        {"do": "go", "case": "case_1"}, {"do": "sign", "rater": "ab"}
    ]  # fmt: skip
    assert page.get_by_test_id("progress").inner_text() == "1 of 3 picked"


def test_it_fits_where_a_notebook_has_room(start):
    page = start()
    for width in (560, 720, 860, 1100):
        page.evaluate("w => { document.getElementById('host').style.width = `${w}px`; }", width)
        page.wait_for_timeout(150)
        overflow = page.evaluate(
            """() => { const root = document.querySelector('.pk');
            return [root.scrollWidth - root.clientWidth, root.offsetHeight]; }"""
        )
        assert overflow[0] <= 0
        if width >= 860:
            assert overflow[1] <= 690  # the height left for a notebook at 1280 × 800


def test_closing_leaves_nothing_behind(start):
    page = start()
    page.evaluate("() => close_()")
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.evaluate("() => document.body.setAttribute('data-jp-theme-light', 'false')")
    page.evaluate("s => model.set('state', s)", state())
    assert errors == []


LOST = "No connection to the kernel"


def test_a_click_nobody_hears_is_no_pick_and_is_said(start, page):
    page.clock.install()
    start()
    page.evaluate("() => { window.deaf = true; }")
    click(page, ARTERY)
    page.clock.fast_forward(9_000)
    assert LOST not in page.get_by_test_id("summary").inner_text()  # a case takes some seconds to open
    page.clock.fast_forward(2_000)
    assert LOST in page.get_by_test_id("summary").inner_text()
    assert page.get_by_test_id("status").inner_text() == "NO CONNECTION"
    assert "pk-problem" in page.get_by_test_id("summary").get_attribute("class")
    page.get_by_test_id("comment").fill("typed in vain")
    page.keyboard.press("Enter")
    assert page.get_by_test_id("comment").input_value() == "typed in vain"
    page.evaluate("() => { window.deaf = false; }")
    click(page, ARTERY)  # asks whether anybody is there, and picks nothing
    page.wait_for_function(
        "() => !document.querySelector('[data-testid=summary]').innerText.includes('No conn')"
    )
    assert sent(page, "pick", "comment") == []
    click(page, ARTERY)
    assert len(sent(page, "pick")) == 1


@pytest.mark.parametrize(
    ("kernel", "lost"),
    [
        ({"connectionStatus": "connected", "status": "dead"}, True),
        ({"connectionStatus": "disconnected", "status": "unknown"}, True),
        ({"connectionStatus": "connected", "status": "busy"}, False),
    ],
)
def test_a_dead_kernel_is_said_at_once_a_busy_one_never(start, page, kernel, lost):
    page.clock.install()
    start()
    page.evaluate("k => { window.deaf = true; model.widget_manager = { kernel: k }; }", kernel)
    click(page, ARTERY)
    assert (LOST in page.get_by_test_id("summary").inner_text()) == lost
    page.clock.fast_forward(60_000)
    assert (LOST in page.get_by_test_id("summary").inner_text()) == lost


def test_a_closed_channel_is_found_out_without_a_click(start, page):
    page.clock.install()
    start()
    page.evaluate("() => { window.deaf = true; model.emit('comm_live_update'); }")
    page.clock.fast_forward(3_000)
    assert LOST in page.get_by_test_id("summary").inner_text()


def test_keys_work_after_the_mouse(start):
    page = start()
    page.evaluate("s => model.set('state', s)", state(aif=[[1, 1, 1]], saved=False))
    page.get_by_test_id("clear").click()
    page.evaluate("s => model.set('state', s)", state(can_undo=True))  # nothing to clear: it is disabled
    page.keyboard.press("z")
    page.get_by_test_id("overlay").select_option("ttp")
    page.keyboard.press("y")
    page.get_by_test_id("undo").focus()
    page.evaluate("s => model.set('state', s)", state(can_undo=False))
    page.keyboard.press("s")
    page.keyboard.press("n")
    assert [m["do"] for m in sent(page, "clear", "undo", "redo", "go")] == ["clear", "undo", "redo", "go"]


def test_what_is_not_saved_without_a_name_is_said_for_a_vof_and_a_comment_too(start):
    page = start()
    for held in ({"vof": [[1, 1, 1]]}, {"comment": "no artery"}):
        page.evaluate(
            "s => model.set('state', s)", state(**held, saved=False, can_save=False, can_undo=False)
        )
        assert page.get_by_test_id("status").inner_text() == "not saved: who are you?"


def test_time_scales_come_from_the_brain_and_leave_out_the_rest(start):
    page = start()
    page.get_by_test_id("overlay").select_option("ttp")
    page.get_by_test_id("opacity").fill("100")
    page.get_by_test_id("time").fill("0")
    page.evaluate(
        """([nx, ny, nt]) => {
        const curves = new Int16Array(nx * ny * nt), brain = new Uint8Array(nx * ny);
        for (let i = 0; i < nx * ny; i++) {
          const inside = i % nx >= 10 && i % nx < 30;
          brain[i] = inside;
          curves[i * nt + (inside ? 5 + (i % 5) : 29)] = 1600; // noise at the very end outside
        }
        const send = (list) => new DataView(list.buffer);
        model.emit('msg:custom', { slice: 1, visit: 0 },
          [send(curves), send(new Int16Array(nx * ny).fill(560)), send(brain)]);
    }""",
        [NX, NY, NT],
    )
    assert page.get_by_test_id("scale").inner_text().startswith("time to peak")
    shown = page.locator(".pk-scale span").all_inner_texts()
    assert shown[1:] == ["10.0", "18.0"]
    r, g, b = page.evaluate(COLOUR_AT, list(position(page, (3, 30, 1))))
    assert r == g == b
    r, g, b = page.evaluate(COLOUR_AT, list(position(page, (20, 30, 1))))
    assert not r == g == b


def test_an_emptied_level_changes_nothing_and_the_fields_say_what_they_are(start):
    page = start()
    page.get_by_test_id("overlay").select_option("none")
    before = page.get_by_test_id("scale").inner_text()
    page.get_by_test_id("level").fill("")
    assert page.get_by_test_id("scale").inner_text() == before
    labels = page.locator(".pk-bar label").all_inner_texts()
    assert {"level", "width"} <= {text.strip() for text in labels}
    help_ = page.get_by_test_id("keys").inner_text()
    for word in ("drag", "alt drag", "⇧ drag", "wheel", "ctrl wheel", "esc"):
        assert word in help_


def test_the_core_has_a_colour_of_its_own(start):
    page = start()
    page.get_by_test_id("overlay").select_option("none")
    page.evaluate("s => model.set('state', s)", state(aif=[list(ARTERY)], key="10 20 1"))
    page.get_by_test_id("core").check()
    page.evaluate(
        """n => { const images = [100, 1].map(value => new DataView(new Uint8Array(n).fill(value).buffer));
        model.emit('msg:custom', { rcbf: 1, visit: 0, of: '10 20 1', core_ml: 1 }, images); }""",
        NX * NY,
    )
    box = page.get_by_test_id("image").bounding_box()
    r, g, b = page.evaluate(COLOUR_AT, [0, box["height"] / 3])
    assert min(r, g) > 1.5 * b and g > 0.8 * r  # yellow; the AIF is orange: half as much green as red
