"""Frame times that a JSON file beside a series gives, as BIDS and the converters of DICOM write it.

    {"RepetitionTime": 1.5}                                 s, one interval
    {"FrameTimesStart": [0, 1.5, 3.1, …]}                   s; also FrameTimes, VolumeTiming
    {"AcquisitionTime": ["10:11:12.5", "101214.0", …]}      clock times, in both ways of writing

Times of single frames win over the interval, and both over the header of the series.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perfkit import nifti, timing

_LISTS = ("FrameTimes", "FrameTimesStart", "VolumeTiming", "AcquisitionTime")
_CLOCK = re.compile(r"(\d{2}):?(\d{2}):?(\d{2}(?:\.\d*)?)$")
_DAY = 86400.0  # s
_LONGEST = 60.0  # s; as in nifti: a longer interval is in milliseconds


@dataclass(frozen=True)
class Timing:
    """What a sidecar says: the interval ``dt`` in s, and the ``times`` (T,) in s where it is but a median."""

    dt: float | None = None
    times: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()


def beside(series: Path) -> Path | None:
    """Find the JSON file of a series: the same name with ``.json``."""
    path = series.with_name(nifti.stem(series) + ".json")
    return path if path.is_file() else None


def read(path: Path, n_frames: int) -> Timing:
    """Read what a sidecar says of the frames' times.

    Parameters
    ----------
    path : JSON file
    n_frames : frames of the series

    Returns
    -------
    Timing, empty where the file says nothing of time. ``timing.uniform_interval`` says what is uniform.

    Raises
    ------
    ValueError : the file is no JSON object, or its times are no rising numbers, one for each frame.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as problem:
        raise ValueError(f"{path}: a sidecar must be JSON; {problem}. Correct it, or delete it.") from None
    if not isinstance(facts, dict):
        raise ValueError(f"{path}: a sidecar must be a JSON object, {{…}}; it is {type(facts).__name__}.")
    for key in _LISTS:
        if isinstance(facts.get(key), list):
            return _of_times(_times(path, key, facts[key], n_frames), key, path)
    if "RepetitionTime" in facts:
        return _of_interval(path, facts["RepetitionTime"])
    return Timing()


def _of_interval(path: Path, value) -> Timing:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(
            f"{path}: RepetitionTime must be a positive number of seconds; it is {value!r}. Correct it."
        )
    if value > _LONGEST:
        note = f"{path.name} gives a frame interval of {value:g}: milliseconds are assumed."
        return Timing(value / 1000, notes=(note,))
    return Timing(float(value))


def _times(path: Path, key: str, values: list, n_frames: int):
    """(T,), s, from the first frame on."""
    if len(values) != n_frames:
        raise ValueError(
            f"{path}: {key} needs a time for each of the {n_frames} frames; it has {len(values)}. Correct it."
        )
    try:
        times = np.array([_seconds(value) for value in values])
    except (TypeError, ValueError):
        raise ValueError(
            f"{path}: {key} must hold seconds or clock times (HH:MM:SS.f); it holds {values[0]!r} …"
        ) from None
    if all(isinstance(value, str) for value in values):  # the clock starts again at midnight
        times += _DAY * np.cumsum(np.diff(times, prepend=times[0]) < -_DAY / 2)
    times -= times[0]
    if n_frames > 1 and not (np.diff(times) > 0).all():  # NaN fails as well
        worst = int(np.argmin(np.diff(times) > 0)) + 1
        raise ValueError(
            f"{path}: {key} must rise from frame to frame; frame {worst} (from 0) comes {times[worst]:g} s "
            f"after the first, the one before it {times[worst - 1]:g} s. Sort the frames, or correct it."
        )
    return times


def _seconds(value) -> float:
    if isinstance(value, str):
        match = _CLOCK.match(value.strip())
        if not match:
            raise ValueError(value)
        hours, minutes, seconds = match.groups()
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    if isinstance(value, bool):
        raise TypeError(value)
    return float(value)


def _of_times(times, key: str, path: Path) -> Timing:
    if len(times) < 2:
        return Timing()
    if times[-1] / (len(times) - 1) > _LONGEST:
        times = times / 1000
    # a clock of whole seconds tells no tenths
    resolution = 1.0 if key == "AcquisitionTime" and not (times % 1).any() else 0.0
    dt = timing.uniform_interval(times, resolution=resolution)
    if dt is not None:
        return Timing(dt)
    dt = float(f"{np.median(np.diff(times)):.6g}")
    note = f"{path.name} ({key}): {timing.describe(times)}"
    return Timing(dt, tuple(float(t) for t in times), (note,))
