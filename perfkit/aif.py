"""Arterial input and venous output functions: found by a published rule, or read off picked voxels.

Every function here returns curves that were measured, averaged over voxels, in HU above baseline. They take a
prepared scan (smoothed, as all methods of a comparison should) or a ``Case`` (as measured, not smoothed:
higher and narrower peaks, more noise).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from perfkit import arteries
from perfkit import curves as _curves

VOF_DELAY = 2.0  # s; Straka 2010: the vein arrives that much after the artery
MAX_VOF_TAIL = 0.3  # of the peak; Straka 2010: above it the venous area is truncated
WEAK_PEAK = 15.0  # HU; our choice: below the 5th percentile of the arterial peaks of ISLES 2018
MIN_CONTRAST_TO_NOISE = 5.0  # our choice: of the brain's mean curve; pure noise stays below 4


@dataclass(frozen=True, eq=False, repr=False)
class AIF:
    """An input function and where it comes from.

    Parameters
    ----------
    curve : (T,), HU above baseline.
    voxels : (n, 3), array indices of the voxels averaged; (0, 3) where there are none.
    dt : s.
    method : name of the method.
    notes : what the reader should be told, in sentences.
    """

    curve: np.ndarray
    voxels: np.ndarray
    dt: float
    method: str
    notes: tuple[str, ...] = ()

    @property
    def peak(self) -> float:
        """Highest value, HU above baseline."""
        return float(self.curve.max())

    @property
    def time_to_peak(self) -> float:
        """Time of the highest value after the first frame, s."""
        return self.dt * int(self.curve.argmax())

    @property
    def area(self) -> float:
        """Area under the curve, HU s."""
        return float(self.curve.sum() * self.dt)

    @cached_property
    def fit(self):
        """Gamma variate fitted to the first pass; None where none fits."""
        try:
            return _curves.fit_gamma_variate(self.curve, self.dt)
        except (ValueError, RuntimeError):
            return None

    def __repr__(self) -> str:
        peak = f"peak {self.peak:.0f} HU at {self.time_to_peak:g} s"
        return f"AIF({self.method}, {len(self.voxels)} voxels, {peak})" + "".join(
            f"\n  {note}" for note in self.notes
        )


def select_aif(case, method: str = "straka", **options) -> AIF:
    """Find the arterial input function of a scan.

    Paper: Experiments, automatic AIF.

    Parameters
    ----------
    case : prepared scan, or Case (its curves are taken as measured).
    method : ``"straka"``.
    options : of the method; see ``straka``.

    Returns
    -------
    AIF whose curve is the mean of the measured curves at its voxels.

    Raises
    ------
    ValueError : unknown method, or a brain without any enhancement.

    Notes
    -----
    The paper used a cleared product it does not name; Straka 2010 describes the selection of RAPID.
    """
    if method not in METHODS:
        raise ValueError(
            f"The method must be one that is there: {', '.join(map(repr, METHODS))}; {method!r} came"
            + (", which is planned but not written yet." if method in PLANNED else ".")
            + " Try method='straka'."
        )
    return METHODS[method](_series(case), **options)


def select_vof(case, aif: AIF, *, percentile: float = arteries.PERCENTILE) -> AIF:
    """Find the venous output function: high, late, arriving at least 2 s after the artery.

    Parameters
    ----------
    case : prepared scan, or Case.
    aif : arterial input function of the same scan.
    percentile : of the peaks of the brain above which voxels are candidates.

    Returns
    -------
    AIF whose method is ``"vof"``.

    Notes
    -----
    Where nothing arrives 2 s after the artery, the latest high voxels are taken, and a note says so.
    """
    series = _series(case)
    smooth = arteries.filtered(aif.curve[None], aif.dt)
    earliest = float(arteries.arrival_frame(smooth, smooth.max(axis=1))[0]) * aif.dt + VOF_DELAY
    options = {"weights": arteries.VENOUS, "percentile": percentile}
    rows, relaxed = arteries.find_cluster(series, earliest=earliest, **options)
    notes = ()
    if not len(rows):
        rows, relaxed = arteries.find_cluster(series, **options)
        notes = (
            f"No vein arrives {VOF_DELAY:g} s after the artery: the latest of the high voxels were taken.",
        )
    return _from_rows(series, rows, "vof", _relaxed(relaxed) + notes)


def partial_volume_factor(aif: AIF, vof: AIF) -> float:
    """Area of the venous over the arterial curve; NaN where the venous curve ends above 30 % of its peak.

    Parameters
    ----------
    aif, vof : of the same scan.

    Notes
    -----
    Blood leaves with the area it came with, so the ratio is what partial volume took from the artery
    (Straka 2010). A truncated venous curve has lost area, and its ratio would say nothing.
    """
    tail = vof.curve[-3:].mean() / vof.peak
    return float("nan") if tail > MAX_VOF_TAIL or aif.area <= 0 else vof.area / aif.area


def compare(found: dict[str, AIF], reference=None):
    """Put input functions side by side.

    Parameters
    ----------
    found : name -> AIF, all of one scan.
    reference : (T,), HU, optional: the true curve of a phantom.

    Returns
    -------
    DataFrame, a row per name: voxels, peak (HU), time_to_peak, arrival, fwhm, first_moment (s) and, with a
    reference, correlation and rmse of the curves scaled to peak 1.
    """
    import pandas as pd

    rows = {}
    for name, aif in found.items():
        rows[name] = {
            "voxels": len(aif.voxels),
            "peak": aif.peak,
            "time_to_peak": float(_curves.time_to_peak(aif.curve, aif.dt)),
            "arrival": float(_curves.arrival_time(aif.curve, aif.dt)),
            "fwhm": _curves.full_width_half_maximum(aif.curve, aif.dt),
            "first_moment": float(_curves.first_moment(aif.curve, aif.dt)),
        }
        if reference is not None:
            a, b = aif.curve / aif.peak, np.asarray(reference) / np.max(reference)
            rows[name]["correlation"] = float(np.corrcoef(a, b)[0, 1])
            rows[name]["rmse"] = float(np.sqrt(np.mean((a - b) ** 2)))
    return pd.DataFrame(rows).T


def voxel_aif(concentration, voxels, dt: float, method: str = "voxels") -> AIF:
    """Average the curves at picked voxels.

    Parameters
    ----------
    concentration : (X, Y, Z, T), HU above baseline.
    voxels : (n, 3), array indices.
    dt : s.
    method : name to put on the result.

    Raises
    ------
    ValueError : no voxel, or one outside the volume.
    """
    voxels = np.asarray(voxels, dtype=int).reshape(-1, 3)
    shape = np.shape(concentration)
    if not len(voxels):
        raise ValueError("An AIF needs at least one voxel: none was given. Pick one in an artery.")
    outside = ((voxels < 0) | (voxels >= shape[:3])).any(axis=1)
    if outside.any():
        raise ValueError(
            f"A voxel must lie inside the volume of {tuple(shape[:3])} voxels, counted from 0: "
            f"{voxels[outside][0].tolist()} does not. Is the table 1-based, or of another scan?"
        )
    return AIF(concentration[tuple(voxels.T)].mean(axis=0), voxels, dt, method)


def expert_aif(prepared, picks, case=None) -> AIF:
    """Average the curves at the voxels an expert picked: one global AIF per scan.

    Paper: Experiments, expert AIF.

    Parameters
    ----------
    prepared : prepared scan.
    picks : case id -> pick, as ``annotations.latest`` reads them.
    case : Case of the same scan; needed only for voxels outside the brain mask, where a prepared scan is
        empty. They are then taken as measured, and a note says so.

    Raises
    ------
    ValueError : no pick for this scan, or one that does not fit it. An expert is never invented.
    """
    pick = picks.get(prepared.id)
    if pick is None or not pick.voxels:
        raise ValueError(
            f"No AIF was picked for {prepared.id}: the picks hold {_listed(picks)}. Pick one in notebook 02."
        )
    found = voxel_aif(prepared.concentration, pick.voxels, prepared.dt, "expert")
    outside = ~prepared.brain[tuple(found.voxels.T)]
    if not outside.any():
        return found
    where = f"{prepared.id}: picked outside the brain mask, {found.voxels[outside].tolist()}"
    if case is None:
        raise ValueError(f"{where}, where a prepared scan is empty. Give case= to read it as measured.")
    inside = prepared.concentration[tuple(found.voxels[~outside].T)]
    measured = case.ctp[tuple(found.voxels[outside].T)].astype(np.float32)
    measured -= measured[:, : prepared.n_baseline].mean(axis=1, keepdims=True)
    curve = np.concatenate([inside, measured]).mean(axis=0)
    return replace(found, curve=curve, notes=(f"{where}: read there as measured, not smoothed.",))


def brain_mean_aif(prepared) -> AIF:
    """Average the curves of the whole brain: the control every claim for a chosen AIF must beat.

    Parameters
    ----------
    prepared : prepared scan.
    """
    curve = prepared.concentration[prepared.brain].mean(axis=0)
    return AIF(curve, np.empty((0, 3), int), prepared.dt, "brain_mean")


def straka(series: arteries.BrainCurves, *, percentile: float = arteries.PERCENTILE) -> AIF:
    """Take the best cluster of high, early and narrow curves.

    Parameters
    ----------
    series : curves of the brain.
    percentile : of the peaks of the brain above which voxels are candidates.

    Notes
    -----
    Straka et al. 2010; ``perfkit.arteries`` gives the rule. Ours: the growth stops at voxels that arrive over
    1 s later, and ``arteries.RELAXATIONS`` say what is given up where nothing satisfies the rule.
    """
    rows, relaxed = arteries.find_cluster(series, arteries.ARTERIAL, percentile=percentile)
    found = _from_rows(series, rows, "straka", _relaxed(relaxed))
    if found.peak >= WEAK_PEAK:
        return found
    return replace(
        found, notes=(*found.notes, f"It peaks at {found.peak:.0f} HU only: look at it before you trust it.")
    )


METHODS: dict[str, Callable[..., AIF]] = {"straka": straka}
PLANNED = ("mouridsen", "murase", "peruzzo", "shi", "rausch")


def _series(case) -> arteries.BrainCurves:
    if not all(hasattr(case, name) for name in ("brain", "dt")):
        raise TypeError(
            f"An AIF is found in a Case or a prepared scan: {type(case).__name__} came. "
            "Try open_cohort(folder)[0], or preprocessing.prepare(case)."
        )
    if hasattr(case, "concentration"):
        curves = case.concentration[case.brain]
    else:
        curves = case.ctp[case.brain].astype(np.float32)
        n = _curves.n_baseline(curves.mean(axis=0), case.dt)
        curves -= curves[:, :n].mean(axis=1, keepdims=True)
    _check_enhancement(curves.mean(axis=0), case)
    return arteries.BrainCurves(curves, np.argwhere(case.brain), case.brain.shape, case.dt)


def _check_enhancement(mean, case) -> None:
    noise = np.median(np.abs(np.diff(mean, n=2))) / (0.6745 * np.sqrt(6))
    peak = arteries.filtered(mean, case.dt).max()
    if not peak > MIN_CONTRAST_TO_NOISE * noise or peak <= 0:
        raise ValueError(
            f"{case.id}: contrast must arrive for an AIF to be found, but the brain's mean curve rises "
            f"by {peak:.2g} HU over a noise of {noise:.2g} HU. Is it the perfusion series?"
        )


def _from_rows(series, rows, method: str, notes: tuple[str, ...]) -> AIF:
    return AIF(series.curves[rows].mean(axis=0), series.voxels[rows], series.dt, method, notes)


def _relaxed(what: str) -> tuple[str, ...]:
    return (f"Straka's rule had to be relaxed: {what}.",) if what else ()


def _listed(picks) -> str:
    names = list(picks)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "no case"
