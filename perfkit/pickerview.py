"""The picker in the browser: two canvases, no build step.

Python sends one slice at a time as 16-bit integers in a message, never as a synced trait: no image of a
patient ends up in a saved notebook. The browser keeps the slices it has seen, derives enhancement, time to
peak and arrival from them, and draws the curve under the pointer without the kernel. What costs more than
a blink (suggestions, the next case) is computed in the background, and only once a browser has asked.
"""

from __future__ import annotations

import threading
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from perfkit.curves import ARRIVAL_FRACTION
from perfkit.drawing import orientation, window_of
from perfkit.paper import RCBF_THRESHOLD

STATIC = Path(__file__).parent / "static"
STEPS_PER_HU = 16  # our choice: 1/16 HU is far below the noise and leaves a range of ±2047 HU
STEPS_PER_RCBF = 100  # our choice: a byte then reaches 2.5 times healthy flow
OUTSIDE = 255  # the byte of a voxel outside the brain
QUIET = ("slice", "rcbf", "suggest", "ping")  # the browser asks by itself: what was said stays


class PickerView(anywidget.AnyWidget):
    """The drawing of an ``AIFPicker``, of one case or of a session; all of its state stays there."""

    _esm = STATIC / "picker.js"
    _css = STATIC / "picker.css"
    scan = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, picker, session=None):
        self.picker, self.session = picker, session
        self._visit = 0  # counts cases: what was computed for an earlier one is not shown
        self._said = ""
        super().__init__(scan=_scan(picker, 0), state=self._state())
        picker._view = self
        if session is not None:
            session._view = self
        self.on_msg(self._answer)

    def refresh(self, said: str = "") -> None:
        """Show the present state of the picker, and what is to be said of the latest action."""
        self._said = said
        self.state = self._state()

    def show(self, picker) -> None:
        """Show another case, or the same one with another rater."""
        if picker is self.picker:
            return self.refresh()
        self.picker._view, self.picker = None, picker
        picker._view = self
        self._visit += 1
        with self.hold_sync():
            self.scan = _scan(picker, self._visit)
            self.state = self._state()
        return None

    def _answer(self, _widget, message: dict, buffers) -> None:
        if "n" in message:  # the browser wants to know that somebody listens
            self.send({"heard": message["n"]})
        wanted = str(message.get("do"))
        notes = [] if self.session is None else self.session.notes
        before, said = len(notes), ""
        try:
            getattr(self, "_do_" + wanted, self._ignore)(message)
        except (ValueError, OSError, RuntimeError, TypeError) as error:
            said = str(error)
        except Exception as error:  # a defect of ours must not look like a click that was heard
            said = f"That did not work, and should have: {type(error).__name__}: {error}. Look at the status."
        said = " ".join(dict.fromkeys([*notes[before:], *filter(None, [said])]))
        if said or (self._said and wanted not in QUIET):
            self.refresh(said)

    def _ignore(self, message: dict) -> None:
        """A browser that is newer or older than this kernel asks for what is not known."""

    def _do_slice(self, message: dict) -> None:
        z = int(message["z"])
        arrays = self.picker.slice_curves(z), self.picker.baseline[:, :, z]
        buffers = [_as_int16(array.swapaxes(0, 1)).tobytes() for array in arrays]
        buffers.append(self.picker.brain[:, :, z].astype(np.uint8).swapaxes(0, 1).tobytes())
        self.send({"slice": z, "visit": self._visit}, buffers)

    def _do_suggest(self, _message: dict) -> None:
        threading.Thread(target=self._suggest, args=(self.picker, self._visit), daemon=True).start()
        if self.session is not None:
            self.session.prefetch()

    def _suggest(self, picker, visit: int) -> None:
        from perfkit.suggestions import iter_suggestions

        try:
            for found in iter_suggestions(picker.case):
                if visit != self._visit:
                    return
                picker.suggestions = found
                self.send({"suggestions": [_described(s, picker) for s in found], "visit": visit})
        except (ValueError, OSError) as error:
            self.send({"suggestions": [], "reason": str(error), "visit": visit})

    def _do_rcbf(self, message: dict) -> None:
        z, picker = int(message["z"]), self.picker
        rcbf = picker.rcbf
        answer = {"rcbf": z, "visit": self._visit, "of": _key(picker)}
        if rcbf is None:
            return self.send(answer)
        shown = np.clip(np.rint(rcbf[:, :, z] * STEPS_PER_RCBF), 0, OUTSIDE - 1)
        shown = np.where(picker.brain[:, :, z], shown, OUTSIDE).astype(np.uint8)
        core = picker.core[:, :, z].astype(np.uint8)
        answer["core_ml"] = round(picker.core_ml, 2)
        return self.send(answer, [image.swapaxes(0, 1).tobytes() for image in (shown, core)])

    def _do_pick(self, message: dict) -> None:
        self.picker.pick_roi(message["voxels"], message["kind"], way=message.get("way", "toggle"))

    def _do_accept(self, message: dict) -> None:
        self.picker.accept(int(message["number"]))

    def _do_undo(self, _message: dict) -> None:
        self.picker.undo()

    def _do_redo(self, _message: dict) -> None:
        self.picker.redo()

    def _do_clear(self, _message: dict) -> None:
        self.picker.clear()

    def _do_comment(self, message: dict) -> None:
        self.picker.note(str(message["text"]))

    def _do_save(self, _message: dict) -> None:
        self.picker.save()

    def _do_sign(self, message: dict) -> None:
        if self.session is not None:
            self.session.sign(" ".join(str(message["rater"]).split()))
            self.refresh()

    def _do_go(self, message: dict) -> None:
        if self.session is None:
            return
        if "case" in message:
            self.session.go(message["case"])
        else:
            self.session.next() if message["by"] > 0 else self.session.previous()

    def _state(self) -> dict:
        state = _state(self.picker) | {"problem": self._said}
        if self.session is not None:
            picked = self.session.picked
            state["cases"] = [
                [name, name in picked, name in self.session.problems] for name in self.session.cohort.ids
            ]
            state |= {"progress": self.session.progress, "rater": self.session.rater}
        return state


def _scan(picker, visit: int) -> dict:
    """What stays the same while a case is open."""
    flip_x, flip_y, known = orientation(picker.affine)
    sides = np.linalg.norm(np.asarray(picker.affine, float)[:3, :3], axis=0)
    return {
        "id": picker.id,
        "visit": visit,
        "shape": list(picker.concentration.shape),
        "dt": picker.dt,
        "aspect": float(sides[1] / sides[0]),
        "flip": [flip_x, flip_y],
        "sides_known": known,
        "window": list(window_of(picker.brain.any(axis=2))),
        "steps_per_hu": STEPS_PER_HU,
        "steps_per_rcbf": STEPS_PER_RCBF,
        "outside": OUTSIDE,
        "arrival_fraction": ARRIVAL_FRACTION,
        "threshold": RCBF_THRESHOLD,
        "has_maps": picker.has_maps,
        "start": int(picker.brain.sum(axis=(0, 1)).argmax()),
        "peak_frame": int(picker.tissue.argmax()),
        "tissue": _rounded(picker.tissue),
    }


def _state(picker) -> dict:
    """What a pick changes."""
    found = {"aif": picker.aif, "vof": picker.vof}
    quality = {"aif": picker.aif_quality, "vof": picker.vof_quality}
    return {
        "aif": [list(v) for v in picker.voxels],
        "vof": [list(v) for v in picker.vof_voxels],
        "key": _key(picker),
        "curves": {k: _rounded(v.curve) for k, v in found.items() if v is not None},
        "quality": {k: _figures(v) for k, v in quality.items() if v is not None},
        "fit": _fitted(quality["aif"], picker),
        "warnings": [*_warnings(found["aif"], quality["aif"]), *(f"VOF: {w}" for w in picker.vof_warnings)],
        "summary": picker.summary,
        "comment": picker.comment,
        "saved": not picker.unsaved,
        "can_save": picker.path is not None,
        "can_undo": picker.can_undo,
        "can_redo": picker.can_redo,
        "rater": picker.rater,
    }


def _key(picker) -> str:
    """Name of the present AIF: maps that were made with another one are told by it."""
    return ";".join(" ".join(map(str, voxel)) for voxel in picker.voxels)


def _figures(found) -> dict:
    names = ("peak", "time_to_peak", "arrival", "fwhm", "tail", "vof_area_ratio", "partial_volume_factor")
    values = {name: float(getattr(found, name)) for name in (*names, "score")}
    values["r2"] = float(found.fit.r2) if found.fit is not None else float("nan")
    return {name: round(value, 3) if np.isfinite(value) else None for name, value in values.items()}


def _warnings(aif, quality) -> list[str]:
    return [] if aif is None else [*quality.warnings, *aif.notes]


def _fitted(quality, picker) -> list[float]:
    if quality is None or quality.fit is None or not np.isfinite(quality.fit.peak):
        return []
    times = picker.dt * np.arange(picker.concentration.shape[-1])
    return _rounded(quality.fit.curve(times))


def _described(suggestion, picker) -> dict:
    curve = picker.mean_curve(suggestion.voxels)
    return {
        "number": int(suggestion.number),
        "voxel": [int(i) for i in suggestion.voxel],
        "voxels": np.asarray(suggestion.voxels).tolist(),
        "kind": suggestion.kind,
        "methods": list(suggestion.methods),
        "score": round(float(suggestion.score), 2) if np.isfinite(suggestion.score) else None,
        "why": suggestion.why,
        "curve": _rounded(curve),
    }


def _rounded(curve) -> list[float]:
    return np.round(np.asarray(curve, float), 2).tolist()


def _as_int16(values):
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(values * STEPS_PER_HU), limits.min, limits.max).astype("<i2")
