"""Arterial input and venous output functions: found by a published rule, or read off picked voxels.

Every function here returns curves that were measured, averaged over voxels, in HU above baseline. They take a
prepared scan (smoothed, as all methods of a comparison should) or a ``Case`` (as measured, not smoothed:
higher and narrower peaks, more noise).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from perfkit import arteries, clusters, gammaclusters, hierarchy, quality
from perfkit import curves as _curves
from perfkit.inputfunction import AIF, corrected, judged, partial_volume_factor, voxel_aif

VOF_DELAY = 2.0  # s; Straka 2010: the vein arrives that much after the artery
MIN_CONTRAST_TO_NOISE = 5.0  # our choice: of the brain's mean curve; pure noise stays below 4
MIN_RISE = 0.5  # HU; our choice: a thirtieth, as 6 of 180 HU, of an artery's 15 HU, weak already
FEW_CHOSEN = arteries.MIN_CLUSTER  # voxels; Straka's least: fewer may be noise that stands alone
CLEAR_OF_NOISE = 10.0  # times its noise a curve of few voxels peaks at; our choice: spikes stay below
FEW_VOXELS = 50  # our choice: a tenth of the brain of the smallest phantom slice; ranks mean little below

__all__ = [
    "AIF",
    "METHODS",
    "brain_curves",
    "brain_mean_aif",
    "choose",
    "compare",
    "corrected",
    "expert_aif",
    "find_vof",
    "judged",
    "partial_volume_factor",
    "select_aif",
    "select_each",
    "select_vof",
    "voxel_aif",
]

METHODS: dict[str, Callable[..., arteries.Chosen]] = {
    "straka": arteries.straka,
    "mouridsen": clusters.mouridsen,
    "murase": clusters.murase,
    "peruzzo": hierarchy.peruzzo,
    "shi": clusters.shi,
    "rausch": gammaclusters.rausch,
}


def select_aif(case, method: str = "straka", **options) -> AIF:
    """Find the arterial input function of a scan.

    Paper: Experiments, automatic AIF.

    Parameters
    ----------
    case : prepared scan, or Case (its curves are taken as measured).
    method : ``"straka"`` (Straka 2010, the rule behind RAPID), ``"mouridsen"`` (2006, k-means), ``"murase"``
        (2001, fuzzy c-means), ``"peruzzo"`` (2011, hierarchy), ``"shi"`` (2014, affinity propagation) or
        ``"rausch"`` (2000, gamma-variate parameters).
    options : of the method, as its function in ``METHODS`` describes them.

    Returns
    -------
    AIF whose curve is the mean of the measured curves at its voxels. It is ``flagged``, and its ``notes`` say
    why, where the curve is weak, cut off, late or otherwise implausible.

    Raises
    ------
    ValueError : unknown method, a brain without any enhancement, or no candidate for an artery.
    TypeError : an option the method does not have.

    Notes
    -----
    The paper used a cleared product it does not name; Straka 2010 describes the selection of RAPID.
    """
    _check_method(method, options)
    return choose(brain_curves(case), method, **options)


def choose(series: arteries.BrainCurves, method: str, **options) -> AIF:
    """Apply a method to the curves of a brain; ``select_aif`` with the curves taken once for several methods.

    Parameters
    ----------
    series : of ``brain_curves``.
    method, options : as for ``select_aif``.
    """
    chosen = METHODS[method](series, **options)
    if not len(chosen.rows):
        raise ValueError(
            f"{method} finds no artery among {len(series.curves)} voxels: nothing rises in their first pass. "
            "Is it the perfusion series, and does the slab hold brain?"
        )
    notes = chosen.notes
    if len(series.curves) < FEW_VOXELS:
        notes += (f"The brain has {len(series.curves)} voxels only: too few to tell an artery from chance.",)
    found = AIF(
        series.curves[chosen.rows].mean(axis=0),
        series.voxels[chosen.rows],
        series.dt,
        method,
        why=chosen.why,
    )
    return judged(replace(found, notes=notes + _about_so_few(found)), series.mean)


def select_each(case, methods=tuple(METHODS)) -> tuple[dict[str, AIF], dict[str, str]]:
    """Find the arterial input function of a scan by every method.

    Parameters
    ----------
    case : prepared scan, or Case.
    methods : names of ``METHODS``.

    Returns
    -------
    found : method -> AIF, in the order asked for.
    refused : method -> the reason, for those that find no artery.

    Raises
    ------
    ValueError : unknown method, or a brain without any enhancement.
    """
    for method in methods:
        _check_method(method, {})
    series = brain_curves(case)
    found, refused = {}, {}
    for method in methods:
        try:
            found[method] = choose(series, method)
        except ValueError as reason:
            refused[method] = str(reason)
    return found, refused


def select_vof(case, aif: AIF, *, percentile: float = arteries.PERCENTILE) -> AIF:
    """Find the venous output function: high, late, arriving at least 2 s after the artery.

    Parameters
    ----------
    case : prepared scan, or Case.
    aif : arterial input function of the same scan.
    percentile : of the peaks of the brain above which voxels are candidates.

    Returns
    -------
    AIF whose method is ``"vof"``; its ``notes`` say where it is weak, cut off, or too low beside the
    artery to be a vein.

    Notes
    -----
    Where nothing arrives 2 s after the artery, the latest high voxels are taken, and a note says so.
    """
    return find_vof(brain_curves(case), aif, percentile=percentile)


def find_vof(series: arteries.BrainCurves, aif: AIF, *, percentile: float = arteries.PERCENTILE) -> AIF:
    """Find the venous output function among the curves of a brain; see ``select_vof``.

    Parameters
    ----------
    series : of ``brain_curves``.
    aif, percentile : as for ``select_vof``.
    """
    smooth = arteries.filtered(aif.curve[None], aif.dt)
    earliest = float(arteries.arrivals(smooth, smooth.max(axis=1), aif.dt)[0]) + VOF_DELAY
    options = {"weights": arteries.VENOUS, "percentile": percentile}
    rows, relaxed = arteries.find_cluster(series, earliest=earliest, **options)
    notes = ()
    if not len(rows):
        rows, relaxed = arteries.find_cluster(series, **options)
        notes = (
            f"No vein arrives {VOF_DELAY:g} s after the artery: the latest of the high voxels were taken.",
        )
    if not len(rows):
        raise ValueError(
            f"No vein is found among {len(series.curves)} voxels: nothing rises in their first pass."
        )
    why = f"{arteries.counted(rows)} that touch, high and at least {VOF_DELAY:g} s after the artery."
    relaxed = (f"Straka's rule had to be relaxed: {relaxed}.",) if relaxed else ()
    curve = series.curves[rows].mean(axis=0)
    against = quality.about_vein(curve, series.dt, aif.curve)
    return AIF(curve, series.voxels[rows], series.dt, "vof", relaxed + notes + against, why)


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


def brain_curves(case) -> arteries.BrainCurves:
    """Take the curves of a brain out of a scan, once for any number of methods.

    Parameters
    ----------
    case : prepared scan, or Case (its curves are taken as measured).

    Raises
    ------
    TypeError : what is no scan.
    ValueError : a brain without any enhancement.
    """
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
    series = arteries.BrainCurves(curves, np.argwhere(case.brain), case.brain.shape, case.dt)
    _check_enhancement(series.mean, case)
    return series


def _about_so_few(found: AIF) -> tuple[str, ...]:
    noise = quality.noise(found.curve)
    if len(found.voxels) >= FEW_CHOSEN or found.peak >= CLEAR_OF_NOISE * noise:
        return ()
    voxels = arteries.counted(found.voxels)
    return (
        f"It rests on {voxels} and peaks at {found.peak / noise:.0f} times its noise: that may be chance.",
    )


def _check_method(method, options) -> None:
    if method not in METHODS:
        raise ValueError(
            f"The method must be one that is there: {', '.join(map(repr, METHODS))}; {method!r} came. "
            "Try method='straka'."
        )
    known = [name for name in inspect.signature(METHODS[method]).parameters if name != "series"]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"{method} takes the options {', '.join(known)}; {unknown[0]!r} is none of them.")


def _check_enhancement(mean, case) -> None:
    noise = np.median(np.abs(np.diff(mean, n=2))) / (0.6745 * np.sqrt(6))
    peak = arteries.filtered(mean, case.dt).max()
    if not peak > MIN_CONTRAST_TO_NOISE * noise or not peak >= MIN_RISE:
        raise ValueError(
            f"{case.id}: contrast must arrive for an AIF to be found: the brain's mean curve must rise by "
            f"{MIN_RISE:g} HU and {MIN_CONTRAST_TO_NOISE:g} times its noise. It rises by {peak:.2g} HU over "
            f"a noise of {noise:.2g} HU. Is it the perfusion series, in HU, begun before the bolus?"
        )


def _listed(picks) -> str:
    names = list(picks)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "no case"
