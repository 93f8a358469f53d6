"""Arteries by clustering curves: k-means, fuzzy c-means and affinity propagation.

Each method narrows the brain down to candidates, has a library cluster their curves, and keeps the cluster
that is most arterial. All look at the first pass only (``arteries.BrainCurves.bolus``), all thresholds are
ranks or ratios, and nothing is drawn at random: neither the gain of the contrast nor the time of the
injection changes what is chosen, as long as some seconds lie before the bolus.

Ours in all of them, because the publications are for MR, where a vein is no higher than an artery, and in CT
it is: curves that arrive after the mean curve of the brain are no candidates; and where a publication keeps
the highest cluster, or leaves the rule open, it is the highest of those that arrive within 1 s of the
earliest. Numbers not known to us from the publication are said to be ours.
"""

from __future__ import annotations

import warnings

import numpy as np

from perfkit.arteries import SLOW_FRAMES, BrainCurves, Chosen, check_count, check_percentages, counted

FEWEST_PER_CLUSTER = 5  # voxels a cluster must have on average; our choice: fewer are split by their noise

# Mouridsen et al. 2006, Magn Reson Med 55:524
AREA = 90.0  # percentile of the areas under the curve above which voxels are candidates
ROUGHNESS = 75.0  # percentile of the roughness up to which candidates stay
KMEANS = 5
# s around the bolus onset; our choice: 1 frame before and 12 after it, as published, at the 1.5 s of MR. With
# 12 frames of 1 s a CT bolus has just peaked, and curves that never wash out have the lowest first moment.
WINDOW = (-1.5, 18.0)

# Murase et al. 2001, J Magn Reson Imaging 13:797
UPTAKE = 95.0  # percentile of the areas above which voxels are candidates; our choice
FUZZY = 6  # clusters; docs/science.md §5: 5-8
FUZZIFIER = 2.0
MEMBERSHIP = 0.5  # our choice: more to the arterial cluster than to all others together
FUZZY_ERROR, FUZZY_STEPS = 1e-3, 150  # our choice: of the memberships; it settles in 50-100

# Shi et al. 2014, J Magn Reson Imaging 39:1327
SIGMAS = 1.2  # standard deviations of the peaks by which a candidate's peak exceeds their mean
SMALL_AREAS, LARGE_AREAS, LOW_PEAKS = 40.0, 2.0, 40.0  # per cent that go; our choice: published by experience
MOST_POINTS = 500  # our choice: affinity propagation costs their square in each of some hundred steps
DAMPING = 0.9  # our choice: with .5 it may swing for ever
FEWEST_MEMBERS = 3  # our choice: one or two voxels are noise


def mouridsen(
    series: BrainCurves,
    *,
    clusters: int = KMEANS,
    area: float = AREA,
    roughness: float = ROUGHNESS,
    window: tuple[float, float] = WINDOW,
) -> Chosen:
    """Cluster curves of equal area by k-means, twice, and keep the earliest cluster.

    Parameters
    ----------
    series : curves of the brain.
    clusters : of each k-means.
    area : percentile of the areas above which voxels are candidates.
    roughness : percentile of the roughness, the sum of the squared second differences, up to which they stay.
    window : s around the bolus onset in which the curves are compared.

    Notes
    -----
    Mouridsen et al. 2006: the cluster with the lowest first moment is clustered once more. scikit-learn's
    ``KMeans`` starts from the means of equal groups by first moment. Ours: the window in seconds, and the
    roughness of curves of equal area, which does not punish height.
    """
    check_count("clusters", clusters, 2)
    check_percentages(area=area, roughness=roughness)
    rows = _some(series.early(series.above(series.area, area)), series, "Mouridsen")
    if series.dt <= SLOW_FRAMES:  # in longer frames an artery is as rough as noise
        rough = roughness_of(series.bolus[rows])
        rows = rows[rough <= np.percentile(rough, roughness)]
    first, last = (int(series.onset / series.dt) + round(edge / series.dt) for edge in window)
    first = min(max(0, first), series.first_pass.shape[1] - 3)
    areas = series.area[rows, None].astype(float)
    compared = series.first_pass[rows, first : max(last, first + 2) + 1] / areas
    inside = np.arange(len(rows))
    for _ in range(2):
        inside = inside[_earliest_cluster(compared[inside], clusters)]
    why = (
        f"{counted(inside)} of the earliest cluster, found by k-means inside the earliest of {clusters}, "
        f"of {len(rows)} smooth candidates with much contrast."
    )
    return Chosen(rows[inside], why)


def murase(
    series: BrainCurves, *, clusters: int = FUZZY, area: float = UPTAKE, fuzzifier: float = FUZZIFIER
) -> Chosen:
    """Cluster curves by fuzzy c-means and keep the voxels that belong to the arterial cluster.

    Parameters
    ----------
    series : curves of the brain.
    clusters : number of them.
    area : percentile of the areas above which voxels are candidates.
    fuzzifier : above 1, the limit of k-means.

    Notes
    -----
    Murase et al. 2001. scikit-fuzzy's ``cmeans`` starts from equal groups by M (Yin et al. 2014). Ours: the
    thresholds, the rule for the arterial cluster, and the plain mean over the voxels whose membership is
    above one half instead of a mean over all, so that the AIF can be had again from its voxels.
    """
    from skfuzzy.cluster import cmeans
    from threadpoolctl import threadpool_limits

    check_count("clusters", clusters, 2)
    check_percentages(area=area)
    if not fuzzifier > 1:
        raise ValueError(f"fuzzifier must be above 1: {fuzzifier!r} came. Murase used 2.")
    rows = _some(series.early(series.above(series.area, area)), series, "Murase")
    curves = series.bolus[rows].astype(float)
    k = sensible_count(clusters, len(rows))
    if k < 2:
        return Chosen(rows, f"All {len(rows)} candidates with much contrast: too few to be clustered.")
    rank = np.argsort(np.argsort(series.m_values(series.first_pass[rows]), kind="stable"))
    start = np.zeros((k, len(rows)))
    start[rank * k // len(rows), np.arange(len(rows))] = 1
    with threadpool_limits(1):  # many small products: threads wait for each other, on a busy machine long
        centres, membership, *_ = cmeans(
            curves.T / curves.max(), k, fuzzifier, FUZZY_ERROR, FUZZY_STEPS, init=start
        )
    own = membership[series.most_arterial(centres)]
    inside = np.flatnonzero(own > min(MEMBERSHIP, 0.9 * own.max()))
    why = (
        f"{counted(inside)} with a membership above one half in the highest of the earliest of {k} fuzzy "
        f"clusters, of {len(rows)} candidates with much contrast."
    )
    return Chosen(rows[inside], why)


def shi(
    series: BrainCurves,
    *,
    sigmas: float = SIGMAS,
    small: float = SMALL_AREAS,
    large: float = LARGE_AREAS,
    low: float = LOW_PEAKS,
    most: int = MOST_POINTS,
    seed: int = 0,
) -> Chosen:
    """Cluster curves by affinity propagation and keep the arterial cluster.

    Parameters
    ----------
    series : curves of the brain.
    sigmas : standard deviations of the brain's peaks by which a candidate's peak exceeds their mean.
    small, large, low : per cent of the smallest and largest areas and of the lowest peaks that go.
    most : candidates that are clustered, those of the highest M (Yin et al. 2014).
    seed : of the tiny noise with which scikit-learn breaks ties.

    Notes
    -----
    Shi et al. 2014: the message passing finds the number of clusters; the similarity is −‖Δ‖² of the curves,
    the preference its median, and the AIF the mean over the cluster. Published for two kinds of DCE-MRI with
    shares set by experience. Ours: the shares, the limit, and the rule for the arterial cluster.
    """
    check_percentages(small=small, large=large, low=low)
    check_count("most", most, FEWEST_MEMBERS)
    height = series.height
    rows = np.flatnonzero((height > height.mean() + sigmas * height.std()) & (height > 0))
    rows = _some(series.early(rows), series, "Shi")
    area = series.area[rows]
    rows = rows[(area >= np.percentile(area, small)) & (area <= np.percentile(area, 100 - large))]
    rows = _some(rows, series, "Shi")
    rows = rows[height[rows] >= np.percentile(height[rows], low)]
    if len(rows) > most:
        order = np.argsort(-series.m_values(series.first_pass[rows]), kind="stable")
        rows = np.sort(rows[order[:most]])
    curves = series.bolus[rows].astype(float)
    groups = _affinity_groups(curves / curves.max(), seed)
    groups = [group for group in groups if len(group) >= FEWEST_MEMBERS] or groups
    inside = groups[series.most_arterial(np.array([curves[group].mean(axis=0) for group in groups]))]
    why = (
        f"{counted(inside)} of the highest of the earliest of {len(groups)} clusters that affinity "
        f"propagation found among {len(rows)} candidates with a high peak."
    )
    return Chosen(rows[inside], why)


def kmeans_labels(points, starts):
    """Cluster points by scikit-learn's k-means from given centres.

    Parameters
    ----------
    points : (n, d).
    starts : (k, d).

    Returns
    -------
    (n,), the cluster of each point; some of the k may be empty where points coincide.
    """
    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct points than clusters is no fault here
        return KMeans(len(starts), init=np.asarray(starts), n_init=1, tol=0).fit(points).labels_


def sensible_count(clusters: int, n: int) -> int:
    """How many clusters n points make: as many as wanted, of at least five points on average, or 1."""
    return max(1, min(clusters, n // FEWEST_PER_CLUSTER))


def _some(rows, series, whose):
    if len(rows):
        return rows
    raise ValueError(
        f"{whose}'s rule finds no candidate among {len(series.curves)} voxels: none stands out by its first "
        "pass. Look at the series, or try method='straka'."
    )


def _of_equal_area(curves):
    """Curves (n, T) over their sums, float64; those without area are 0 throughout."""
    area = curves.sum(axis=1, keepdims=True, dtype=float)
    return np.divide(curves, area, where=area > 0, out=np.zeros(curves.shape))


def roughness_of(curves):
    """Sum of the squared second differences of curves (n, T) of equal area; infinite without area."""
    rough = (np.diff(_of_equal_area(curves), n=2, axis=1) ** 2).sum(axis=1)
    return np.where(curves.sum(axis=1) > 0, rough, np.inf)


def _moments(curves):
    """First moment (n,) of curves (n, T), in frames; late where there is no area."""
    area = curves.sum(axis=1)
    moment = curves @ np.arange(curves.shape[1], dtype=curves.dtype)
    return np.divide(moment, area, where=area > 0, out=np.full(len(area), np.inf, curves.dtype))


def _earliest_cluster(curves, k: int):
    """Positions of the curves (n, T) in the k-means cluster whose mean has the lowest first moment."""
    k = sensible_count(k, len(curves))
    groups = np.array_split(np.argsort(_moments(curves), kind="stable"), k)
    labels = kmeans_labels(curves, [curves[group].mean(axis=0) for group in groups])
    means = {label: curves[labels == label].mean(axis=0) for label in np.unique(labels)}
    earliest = min(means, key=lambda label: _moments(means[label][None])[0])
    return np.flatnonzero(labels == earliest)


def _affinity_groups(points, seed):
    from sklearn.cluster import AffinityPropagation

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may not settle; what it has then is a clustering as well
        labels = AffinityPropagation(damping=DAMPING, random_state=seed).fit(points).labels_
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]
