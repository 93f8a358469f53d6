"""When the frames of a DICOM series were scanned: which of its clocks tells, and what it says.

A header may hold the time of the scan, of the image's making, a delay from a trigger, a position in time, or
only numbers. The first that tells the images of every slice apart is taken, and which it was goes into the
notes. DICOM PS3.3, C.7.6.1, C.7.6.2.1 and C.7.6.16.2.2.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from perfkit import timing
from perfkit.dicomheaders import CLOCKS, ORDERS, Image

DISTINCT = 0.9  # our choice: a clock tells frames apart if it does so for nine in ten; the rest are doubles
_HALF_DAY = 43200.0  # s
_EXACT = ("AcquisitionDateTime", "AcquisitionTime")  # the clocks of the scan itself


def in_order(slices: list[list[Image]], name: str, dt: float | None = None):
    """Put the images of each slice in order of time.

    Parameters
    ----------
    slices : Z lists of images.
    name : folder or file that errors name.
    dt : s, taken where the headers give the order of the frames and no times.

    Returns
    -------
    frames : Z lists of T images.
    times : (Z, T), s from the first image on.
    dt : s; None where the frames keep to no interval.
    notes : sentences for the reader.

    Raises
    ------
    ValueError
        where frames are missing, two images claim one time, or nothing tells them apart.
    """
    order = next((key for key in ORDERS if _tells(slices, _values(slices, key))), None)
    for key in CLOCKS:
        values = _values(slices, key)
        still = key in _EXACT and order and not _tells(slices, values, share=1.0)
        if still and (found := _coarse(slices, values, key, order)):
            return found
        if _tells(slices, values):
            return _clocked(_sorted(slices, values, key, name), key)
    return _numbered(slices, order, name, dt)


def _numbered(slices, order: str | None, name: str, dt: float | None):
    if order is None:
        raise ValueError(
            f"{name}: frames need times (AcquisitionTime) or an order (InstanceNumber) that tells the images "
            "of a slice apart; the headers give none. Export the series again with them."
        )
    frames, _ = _sorted(slices, _values(slices, order), order, name)
    interval, whence = frames[0][0].interval or dt, "the data set's description"
    if len(frames[0]) < 2:
        return frames, np.zeros((len(frames), 1)), None, ()
    if interval is None:
        raise ValueError(
            f"{name}: frames need times; the headers give their order only ({order}). Export the series with "
            "AcquisitionTime, or convert it to NIfTI and give its dt in scans.csv."
        )
    if frames[0][0].interval:
        whence = "TemporalResolution"
    note = f"Frames have no times: they are in order of {order}, {interval:.4g} s apart by {whence}."
    return frames, _times_of(frames, interval), interval, (note,)


def _values(slices: list[list[Image]], key: str):
    """Z lists of values; None where an image has none. Clocks run on past midnight."""
    values = [[(i.clocks if key in CLOCKS else i.orders).get(key) for i in images] for images in slices]
    if any(value is None for row in values for value in row):
        return None
    if key not in CLOCKS:
        return values
    flat = [value for row in values for value in row]
    late = 2 * _HALF_DAY if max(flat) - min(flat) > _HALF_DAY else 0.0
    return [[round(v + late * (v < _HALF_DAY), 3) for v in row] for row in values]


def _tells(slices, values, share: float = DISTINCT) -> bool:
    """Whether values tell the images of each slice apart, or that share of them."""
    return values is not None and sum(len(set(row)) for row in values) >= share * sum(map(len, slices))


def _sorted(slices, values, key: str, name: str):
    """Images and values in order; raises where there are doubles or gaps."""
    ordered = [
        sorted(zip(v, i, strict=True), key=lambda pair: pair[0]) for v, i in zip(values, slices, strict=True)
    ]
    for row in ordered:
        for (a, one), (b, other) in pairwise(row):
            if a == b:
                raise ValueError(
                    f"{other.path}: a slice has one image at a time; {one.path.name} lies in the same place "
                    f"with the same {key} ({a:.10g}). Remove one of the two."
                )
    found = [[value for value, _ in row] for row in ordered]
    _check_counts(found, key, name)
    return [[image for _, image in row] for row in ordered], found


def _check_counts(found: list[list[float]], key: str, name: str) -> None:
    full = max(map(len, found))
    short = next((z for z, row in enumerate(found) if len(row) < full), None)
    if short is None:
        return
    start = min(map(min, found)) if key in CLOCKS else 0
    every = sorted(set().union(*found))
    if len(every) == full:
        lost = [value - start for value in every if value not in found[short]]
        what = "none at " + ", ".join(f"{value:.6g}" for value in lost[:5]) + " …" * (len(lost) > 5)
    else:
        row = found[short]
        t = int(np.argmax(np.diff(row))) if len(row) > 1 else 0
        what = f"the widest gap follows {row[t] - start:.6g}"
    n = sum(len(row) < full for row in found)
    unit = ", s from the first image" if key in CLOCKS else ""
    raise ValueError(
        f"{name}: every slice needs all {full} frames; slice {short} (from 0) has {len(found[short])}, "
        f"{what} ({key}{unit}). {n} of {len(found)} slices are short: copy the series again, complete."
    )


def _clocked(ordered, key: str):
    frames, values = ordered
    values = np.array(values)
    times = values - values.min()
    if times.shape[1] < 2:
        return frames, times, None, ()
    resolution = 1.0 if (values == np.floor(values)).all() else 0.0
    interval = timing.uniform_interval(times, resolution=resolution)
    note = f"Times of the frames are those of {key}"
    if key == "ContentTime":
        note += ", when images were made: where that was a later reconstruction, the interval is not right"
    if interval and resolution and timing.uniform_interval(times) is None:
        note += f"; it knows whole seconds only, which fits frames {interval:.4g} s apart"
        times = _times_of(frames, interval)
    return frames, times, interval, (note + ".",)


def _coarse(slices, values, key: str, order: str):
    """Read a clock of whole seconds; it may stand still between frames, and still gives their interval."""
    if values is None or len({len(row) for row in values}) > 1:
        return None
    numbers = _values(slices, order)
    rows = zip(numbers, values, slices, strict=True)
    ranked = [sorted(zip(*row, strict=True), key=lambda entry: entry[0]) for row in rows]
    times = np.array([[value for _, value, _ in row] for row in ranked])
    if (times != np.floor(times)).any() or (np.diff(times, axis=1) < 0).any():
        return None
    interval = timing.uniform_interval(times, resolution=1.0)
    if interval is None:
        return None
    frames = [[image for _, _, image in row] for row in ranked]
    note = f"Frames are in order of {order}, {interval:.4g} s apart: {key} knows whole seconds only."
    return frames, _times_of(frames, interval), interval, (note,)


def _times_of(frames, interval: float):
    return np.tile(interval * np.arange(len(frames[0])), (len(frames), 1))


def check_numbers(frames: list[list[Image]], times, name: str) -> None:
    """Raise where the clock leaps and numbers of images are missing: frames were lost in copying."""
    numbers = {image.orders.get("InstanceNumber") for row in frames for image in row}
    steps = np.diff(times, axis=1)
    if None in numbers or not steps.size or steps.max() < timing.GAP * np.median(steps):
        return
    lost = sorted(set(range(min(numbers), max(numbers) + 1)) - numbers)
    if lost and len(lost) % len(frames) == 0 and len(numbers) == times.size:
        t = int(steps.max(axis=0).argmax())
        raise ValueError(
            f"{name}: a series must be complete; {len(lost)} images numbered {lost[0]} … {lost[-1]} lack, "
            f"and {steps.max():.4g} s pass between frames {t} and {t + 1} (from 0). Copy it again."
        )
