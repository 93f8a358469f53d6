"""Arteries by the parameters of gamma variates fitted to every candidate (Rausch et al. 2000)."""

from __future__ import annotations

import numpy as np

from perfkit import curves
from perfkit.arteries import BrainCurves, Chosen, check_count, check_percentages, counted
from perfkit.clusters import kmeans_labels, sensible_count
from perfkit.gamma import width_of_shape

PERCENTILE = 95.0  # of the peaks above which voxels are candidates; our choice, as Straka's
CLUSTERS = 8  # our choice: with 5 the arterial one holds the veins' early neighbours as well
SHAPES = np.geomspace(0.6, 30.0, 24)  # α of the grid; our choice: FWHM from .4 to 3 times the rise
MOST_FITS = 4000  # our choice: half a second


def rausch(series: BrainCurves, *, clusters: int = CLUSTERS, percentile: float = PERCENTILE) -> Chosen:
    """Cluster the candidates by peak, arrival and width of their gamma variates, and keep the arterial ones.

    Parameters
    ----------
    series : curves of the brain.
    clusters : of the k-means.
    percentile : of the peaks of the brain above which voxels are candidates.

    Notes
    -----
    Rausch et al. 2000, Magn Reson Imaging 18:1235. Fits with R² < .8 or a FWHM above 25 s go. Ours: what
    ``perfkit.clusters`` says of all methods; k-means on the standardised logarithm of the peak, arrival and
    FWHM; the AIF is the mean of the measured curves, not of the fits.
    """
    check_count("clusters", clusters, 2)
    check_percentages(percentile=percentile)
    rows = series.early(series.above(series.height, percentile))
    if len(rows) > MOST_FITS:
        rows = np.sort(rows[np.argsort(-series.height[rows], kind="stable")[:MOST_FITS]])
    candidates = len(rows)
    peak, arrival, fwhm, r2 = fit_many(series.bolus[rows], series.dt)
    fits = (r2 >= curves.PLAUSIBLE_R2) & (fwhm <= curves.PLAUSIBLE_FWHM)
    if not fits.any():
        raise ValueError(
            f"Rausch's rule needs curves that a gamma variate fits: none of {candidates} candidates is one. "
            "Look at the series, or try method='straka'."
        )
    rows = rows[fits]
    features = np.stack([np.log(peak), arrival, fwhm], axis=1)[fits]
    labels = _clustered(features, sensible_count(clusters, len(rows)))
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    means = np.array([series.first_pass[rows[group]].mean(axis=0) for group in groups])
    rows = rows[groups[series.most_arterial(means)]]
    why = (
        f"{counted(rows)} of the highest of the earliest of {len(groups)} clusters by peak, arrival and "
        f"width of {int(fits.sum())} gamma variates, fitted to {candidates} candidates with a high peak."
    )
    return Chosen(rows, why)


def fit_many(first_passes, dt: float):
    """Fit a gamma variate through the peak time and the arrival of each curve.

    Parameters
    ----------
    first_passes : (n, T), HU above baseline.
    dt : s.

    Returns
    -------
    peak (HU), arrival (s, the rise through 20 % of the peak), fwhm (s), r2 : (n,) each; R² is −inf where the
    curve has no peak after its arrival.

    Notes
    -----
    The time of the peak and the arrival fix a gamma variate of each shape α; the least squares over a grid of
    α, the peak being linear, is exact within the grid and has no start to depend on. ``curves`` fits one
    curve freely; here thousands are due. Frames up to the fall below 35 % of the peak take part.
    """
    c = np.asarray(first_passes, float)
    top = c.argmax(axis=1)
    height = np.take_along_axis(c, top[:, None], 1)
    time, arrival = curves.time_to_peak(c, dt), curves.arrival_time(c, dt)
    frames = np.arange(c.shape[1])
    fallen = (c <= curves.FIT_DOWN_TO * height) & (frames > top[:, None])
    last = np.where(fallen.any(axis=1), fallen.argmax(axis=1), c.shape[1] - 1)
    weight = (frames <= last[:, None]).astype(float)
    n = weight.sum(axis=1)
    spread = (weight * c**2).sum(axis=1) - (weight * c).sum(axis=1) ** 2 / n
    rises = np.isfinite(arrival) & (time > arrival) & (height[:, 0] > 0) & (spread > 0)
    best = np.full((3, len(c)), -np.inf)  # R², peak, FWHM
    lead = np.where(rises, time - arrival, 1.0)
    for shape, start in zip(SHAPES, _starts(), strict=True):
        rise = lead / (1 - start)
        x = np.maximum(frames * dt - (time - rise)[:, None], 0) / rise[:, None]
        model = weight * (x * np.exp(1 - x)) ** shape
        peak = (model * c).sum(axis=1) / np.maximum((model**2).sum(axis=1), 1e-12)
        r2 = 1 - (weight * (c - peak[:, None] * model) ** 2).sum(axis=1) / np.where(spread > 0, spread, 1)
        better = rises & (r2 > best[0])
        best[:, better] = np.stack([r2, peak, width_of_shape(shape) * rise])[:, better]
    r2, peak, fwhm = best
    return np.where(rises, peak, np.nan), arrival, np.where(rises, fwhm, np.inf), r2


def _starts():
    """x < 1 at which (x exp(1 − x))^α is 20 %, for each shape of the grid."""
    from scipy.special import lambertw

    return -lambertw(-np.exp(np.log(curves.ARRIVAL_FRACTION) / SHAPES - 1), 0).real


def _clustered(features, k: int):
    """Labels (n,) of the k-means of standardised features, started from equal groups by early and high."""
    spread = features.std(axis=0)
    scores = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    order = np.argsort(scores @ (1.0, -1.0, -1.0), kind="stable")  # high, early and narrow come last
    return kmeans_labels(scores, [scores[group].mean(axis=0) for group in np.array_split(order, k)])
