"""The picker in the browser: two canvases, no build step.

Python sends one slice at a time as 16-bit integers in a message, never as a synced trait: no image of a
patient ends up in a saved notebook. The browser keeps the slices it has seen and draws the curve under the
pointer without the kernel.
"""

from __future__ import annotations

from pathlib import Path

import anywidget
import numpy as np
import traitlets

from perfkit.drawing import orientation

STATIC = Path(__file__).parent / "static"
STEPS_PER_HU = 16  # our choice: 1/16 HU is far below the noise and leaves a range of ±2047 HU


class PickerView(anywidget.AnyWidget):
    """The drawing of an ``AIFPicker``; all of its state stays in the picker."""

    _esm = STATIC / "picker.js"
    _css = STATIC / "picker.css"
    scan = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, picker):
        self.picker = picker
        flip_x, flip_y, known = orientation(picker.affine)
        sides = np.linalg.norm(np.asarray(picker.affine, float)[:3, :3], axis=0)
        scan = {
            "id": picker.id,
            "rater": picker.rater,
            "shape": list(picker.concentration.shape),
            "dt": picker.dt,
            "aspect": float(sides[1] / sides[0]),
            "flip": [flip_x, flip_y],
            "sides_known": known,
            "steps_per_hu": STEPS_PER_HU,
            "start": int(picker.brain.sum(axis=(0, 1)).argmax()),
            "peak_frame": int(picker.concentration[picker.brain].mean(axis=0).argmax()),
            "can_save": picker.path is not None,
        }
        super().__init__(scan=scan, state=_state(picker))
        self.on_msg(self._answer)

    def refresh(self) -> None:
        """Show the present state of the picker."""
        self.state = _state(self.picker)

    def _answer(self, _widget, message: dict, _buffers) -> None:
        try:
            self._obey(message)
        except (ValueError, OSError) as error:
            self.state = _state(self.picker) | {"summary": str(error), "problem": True}

    def _obey(self, message: dict) -> None:
        wanted = message.get("do")
        if wanted == "slice":
            self._send_slice(int(message["z"]))
        elif wanted == "pick":
            self.picker.pick(*message["voxel"], kind=message["kind"])
        elif wanted in ("undo", "redo", "clear", "save"):
            getattr(self.picker, wanted)()

    def _send_slice(self, z: int) -> None:
        curves, baseline = (
            _as_int16(volume[:, :, z].swapaxes(0, 1))
            for volume in (self.picker.concentration, self.picker.baseline)
        )
        self.send({"slice": z}, [curves.tobytes(), baseline.tobytes()])


def _as_int16(values):
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(values * STEPS_PER_HU), limits.min, limits.max).astype("<i2")


def _state(picker) -> dict:
    curves = {"aif": picker.aif, "vof": picker.vof}
    return {
        "aif": [list(v) for v in picker.voxels],
        "vof": [list(v) for v in picker.vof_voxels],
        "curves": {k: np.round(v.curve, 2).tolist() for k, v in curves.items() if v is not None},
        "summary": picker.summary,
        "problem": False,
        "saved": picker.saved,
        "can_undo": picker.can_undo,
        "can_redo": picker.can_redo,
    }
