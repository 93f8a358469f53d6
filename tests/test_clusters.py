"""Each published method finds the artery of a hand-made scan, and its clustering is the one it names."""

from types import SimpleNamespace

import numpy as np
import pytest

from perfkit import clusters, gammaclusters, hierarchy
from perfkit.aif import METHODS, brain_curves, select_aif
from perfkit.arteries import BrainCurves
from perfkit.curves import arrival_time

T = np.arange(60.0)
ARTERY, VEIN = (slice(10, 14), slice(8, 10), 0), (slice(10, 14), slice(13, 17), slice(0, None))


def bolus(t, onset, rise, peak, alpha=3.0):
    """Gamma variate with its peak ``rise`` s after ``onset``, written out to owe nothing to the package."""
    x = np.clip(np.asarray(t, float) - onset, 0, None) / rise
    return peak * (x * np.exp(1 - x)) ** alpha


def make_scan(shape=(24, 24, 2), times=T, seed=0, noise=0.3, vein=True):
    """A brain of one tissue with an artery and a later, higher vein around the middle."""
    random = np.random.default_rng(seed)
    brain = np.zeros(shape, bool)
    brain[2:-2, 2:-2] = True
    concentration = random.normal(0, noise, (*shape, len(times)))
    level = random.uniform(0.6, 1.4, shape)[..., None]
    concentration[brain] += (level * bolus(times, 9, 11, 6))[brain]
    level = random.uniform(0.9, 1.1, (4, 2, 1))
    concentration[ARTERY] = level * bolus(times, 6, 7, 80) + random.normal(0, noise, (4, 2, len(times)))
    if vein:
        concentration[VEIN] += bolus(times, 11, 9, 150)
    dt = float(times[1] - times[0])
    return SimpleNamespace(id="scan", concentration=concentration.astype(np.float32), brain=brain, dt=dt)


@pytest.fixture(scope="module")
def scan():
    return make_scan()


def inside(voxels, region, shape=(24, 24, 2)):
    mask = np.zeros(shape, bool)
    mask[region] = True
    return mask[tuple(voxels.T)]


@pytest.mark.parametrize("method", METHODS)
def test_the_artery_is_found_and_not_the_higher_vein(scan, method):
    found = select_aif(scan, method)
    assert inside(found.voxels, ARTERY).all()
    assert np.corrcoef(found.curve, bolus(T, 6, 7, 80))[0, 1] > 0.999
    measured = scan.concentration[tuple(found.voxels.T)].mean(axis=0)
    np.testing.assert_allclose(found.curve, measured, rtol=1e-5, atol=1e-4)
    assert found.method == method and not found.flagged and found.notes == ()
    assert found.score > 10 and str(len(found.voxels)) in found.why


@pytest.mark.parametrize("method", METHODS)
def test_the_choice_ignores_the_gain(scan, method):
    voxels = select_aif(scan, method).voxels
    for gain in (0.25, 8.0, 3.7):
        louder = SimpleNamespace(**vars(scan) | {"concentration": scan.concentration * np.float32(gain)})
        np.testing.assert_array_equal(select_aif(louder, method).voxels, voxels)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shift", [4.0, 12.0])
def test_the_choice_ignores_when_the_bolus_comes(method, shift):
    quiet = {"noise": 0.0}
    early, late = make_scan(**quiet), make_scan(times=T - shift, **quiet)
    a, b = (select_aif(s, method) for s in (early, late))
    np.testing.assert_array_equal(a.voxels, b.voxels)
    assert b.time_to_peak - a.time_to_peak == pytest.approx(shift, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_the_choice_ignores_how_long_the_scanner_waited(method, seed):
    """Frames of noise before the bolus, however many, change no method's voxels."""
    scan = make_scan(times=T - 6, seed=seed, noise=1.0)
    whole = select_aif(scan, method).voxels
    for lost in (2, 6):
        later = SimpleNamespace(**vars(scan) | {"concentration": scan.concentration[..., lost:]})
        np.testing.assert_array_equal(select_aif(later, method).voxels, whole)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dt", [2.0, 3.0])
def test_arteries_are_found_between_long_frames_in_noise(method, dt):
    """Wherever the bolus falls between two frames."""
    shape = (24, 24, 2) if method == "peruzzo" else (64, 64, 2)  # it looks around the middle alone
    missed = []
    for seed in range(12):
        scan = make_scan(shape, times=np.arange(0, 60, dt) - seed * dt / 12, seed=seed, noise=1.0)
        if inside(select_aif(scan, method).voxels, ARTERY, shape).mean() <= 0.5:
            missed.append(seed)
    assert len(missed) <= (0 if method in ("straka", "rausch") else 1), missed


@pytest.mark.parametrize(("dt", "wins"), [(1.0, False), (3.0, True)])
def test_arrival_is_known_to_a_frame_so_less_than_that_decides_nothing(dt, wins):
    """A curve of tissue that seems to arrive 2 s before the artery."""
    times = np.arange(0, 60, dt)
    means = np.stack([bolus(times, 8, 14, 8), bolus(times, 12, 8, 100)])
    lead = np.diff(arrival_time(means, dt))[0]
    assert 1.5 < lead < 3
    series = BrainCurves(means, np.zeros((2, 3), int), (1, 1, 1), dt)
    assert (series.most_arterial(means) == 1) is wins


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "dt"), [(100, 0.5), (30, 2.0), (15, 4.0)])
def test_any_frame_interval(method, n, dt):
    found = select_aif(make_scan(times=dt * np.arange(n)), method)
    assert inside(found.voxels, ARTERY).mean() > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_the_same_scan_gives_the_same_voxels(scan, method):
    first, again = select_aif(scan, method), select_aif(scan, method)
    np.testing.assert_array_equal(first.voxels, again.voxels)
    np.testing.assert_array_equal(first.curve, again.curve)


@pytest.mark.parametrize("method", METHODS)
def test_a_slab_without_artery_is_never_passed_off_for_one(method):
    slab = make_scan((40, 40, 2))
    slab.concentration[ARTERY] = make_scan((40, 40, 2), seed=1, vein=False).concentration[20:24, 30:32, 0]
    try:
        found = select_aif(slab, method)
    except ValueError as refusal:
        assert "rule" in str(refusal)
    else:
        assert found.flagged


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("frames", [10, 12, 14])
def test_a_truncated_bolus_is_never_passed_off_for_a_whole_one(scan, method, frames):
    cut = SimpleNamespace(**vars(scan) | {"concentration": scan.concentration[..., :frames]})
    try:
        found = select_aif(cut, method)
    except ValueError as refusal:
        assert "contrast must arrive" in str(refusal) or "rule" in str(refusal)
    else:
        assert found.flagged


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(12))
def test_what_is_odd_is_flagged_or_refused_in_words(method, seed):
    """Brains of 3 to 600 voxels, short and noisy series, constant and empty ones: no library traceback."""
    random = np.random.default_rng(seed)
    shape = [(3, 1, 1), (2, 2, 2), (5, 5, 1), (20, 30, 1)][seed % 4]
    n = int(random.choice([10, 11, 40]))
    dt, gain = float(random.choice([0.5, 1, 4])), float(random.choice([1e-3, 1]))
    curves = random.normal(0, random.choice([0, 0.2, 5]), (*shape, n)) + bolus(dt * np.arange(n), 5, 8, 6)
    if seed == 5:
        curves[:] = curves[0, 0, 0]
    if seed == 6:
        curves[:] = 3.0
    odd = SimpleNamespace(
        id="odd", concentration=(gain * curves).astype(np.float32), brain=np.ones(shape, bool), dt=dt
    )
    try:
        found = select_aif(odd, method)
    except ValueError as refusal:
        assert "contrast must arrive" in str(refusal) or "rule" in str(refusal)
    else:
        assert found.flagged and np.isfinite(found.curve).all() and len(found.voxels)


def lloyd(points, starts):
    """k-means by the book, one point at a time."""
    centres = [np.array(start, float) for start in starts]
    labels = None
    for _ in range(200):
        new = [int(np.argmin([((p - c) ** 2).sum() for c in centres])) for p in points]
        if new == labels:
            break
        labels = new
        for k in range(len(centres)):
            mine = [p for p, label in zip(points, labels, strict=True) if label == k]
            if mine:
                centres[k] = np.mean(mine, axis=0)
    return np.array(labels)


def test_kmeans_is_the_one_of_the_book():
    random = np.random.default_rng(1)
    points = np.concatenate([random.normal(m, 0.5, (20, 3)) for m in (0, 2, 5)])
    starts = points[[3, 25, 48]]
    np.testing.assert_array_equal(clusters.kmeans_labels(points, starts), lloyd(points, starts))


def test_mouridsen_step_by_step(scan):
    """The published recipe once more, in loops."""
    series = brain_curves(scan)
    first_pass = series.first_pass.astype(float)
    area = first_pass.sum(axis=1)
    mean = scan.concentration[scan.brain].mean(axis=0)
    limit = arrival_time(np.median([mean[:-2], mean[1:-1], mean[2:]], axis=0), 1.0) + 1
    kept = [i for i in range(len(area)) if area[i] >= np.percentile(area, 90)]
    kept = [i for i in kept if arrival_time(first_pass[i], 1.0) <= limit]
    unit = {i: first_pass[i] / area[i] for i in kept}
    rough = {
        i: sum((u[t - 1] - 2 * u[t] + u[t + 1]) ** 2 for t in range(1, len(u) - 1)) for i, u in unit.items()
    }
    limit = np.percentile(list(rough.values()), 75)
    kept = [i for i in kept if rough[i] <= limit]
    a, b = round(series.onset - 1.5), round(series.onset + 18)
    part = {i: unit[i][max(0, a) : b + 1] for i in kept}

    def moment(c):
        return sum(t * v for t, v in enumerate(c)) / sum(c)

    for _ in range(2):
        order = sorted(kept, key=lambda i: moment(part[i]))
        groups = np.array_split(np.array(order), min(5, len(kept) // 5))
        labels = lloyd([part[i] for i in kept], [np.mean([part[i] for i in g], axis=0) for g in groups])
        means = {
            k: np.mean([part[i] for i, l in zip(kept, labels, strict=True) if l == k], axis=0)
            for k in set(labels)
        }
        best = min(means, key=lambda k: moment(means[k]))
        kept = [i for i, label in zip(kept, labels, strict=True) if label == best]
    np.testing.assert_array_equal(clusters.mouridsen(series).rows, kept)


@pytest.mark.parametrize("seed", range(6))
def test_one_tree_serves_all_cuts_of_peruzzo(seed):
    """Clustering the kept branch again, as published, by another implementation of Ward's method."""
    from sklearn.cluster import AgglomerativeClustering

    random = np.random.default_rng(seed)
    curves = np.concatenate(
        [bolus(T, o, 8, p) * random.uniform(0.8, 1.2, (15, 1)) for o, p in ((5, 60), (9, 30), (9, 61))]
    )
    curves = curves + random.normal(0, 1, curves.shape)
    rows = np.arange(len(curves))
    while len(rows) > 6:
        labels = AgglomerativeClustering(2, linkage="ward").fit_predict(curves[rows])
        parts = [rows[labels == k] for k in (0, 1)]
        means = [curves[part].mean(axis=0) for part in parts]
        high = int(means[1].max() > means[0].max())
        if abs(means[0].max() - means[1].max()) < 0.04 * means[high].max():
            high = int(means[1].argmax() < means[0].argmax())
        if len(parts[high]) < 4 <= len(parts[1 - high]):
            high = 1 - high
        rows = parts[high]
    np.testing.assert_array_equal(hierarchy._branch(curves), np.sort(rows))
    assert 4 <= len(rows) <= 6


def test_the_ellipse_lies_in_the_middle_of_the_slice_longer_from_front_to_back():
    x, y = (a.ravel() for a in np.meshgrid(np.arange(10, 51), np.arange(20, 81), indexing="ij"))
    inside_ = hierarchy._in_ellipse(x, y, (0.15, 0.35))
    for i in np.flatnonzero(inside_):
        assert ((x[i] - 30) / 6) ** 2 + ((y[i] - 50) / 21) ** 2 <= 1
    assert x[inside_].min() == 24 and x[inside_].max() == 36
    assert y[inside_].min() == 29 and y[inside_].max() == 71


def test_murase_takes_the_voxels_of_a_converged_partition(scan):
    """Fuzzy c-means iterated in plain loops of its two equations, from the same start."""
    series = brain_curves(scan)
    rows = series.early(np.flatnonzero(series.area >= np.percentile(series.area, 80)))
    k_all = min(6, len(rows) // 5)
    x = series.first_pass[rows].astype(float)
    x = x / x.max()
    order = np.argsort(np.argsort(series.m_values(series.first_pass[rows].astype(float)), kind="stable"))
    u = np.eye(k_all)[order * k_all // len(rows)].T
    for _ in range(100):
        centres = (u**2 @ x) / (u**2).sum(axis=1, keepdims=True)
        d = np.array([[np.linalg.norm(p - c) for p in x] for c in centres])
        new = np.array(
            [
                [1 / sum((d[k, i] / d[j, i]) ** 2 for j in range(k_all)) for i in range(len(x))]
                for k in range(k_all)
            ]
        )
        done, u = np.linalg.norm(new - u) < 1e-3, new
        if done:
            break
    assert k_all >= 3
    best = max(range(k_all), key=lambda k: centres[k].max() if centres[k].argmax() <= 15 else 0)
    np.testing.assert_array_equal(clusters.murase(series, area=80).rows, rows[u[best] > 0.5])


def test_affinity_propagation_finds_hand_made_groups():
    random = np.random.default_rng(0)
    centres = [bolus(T, 5, 7, 1), bolus(T, 12, 9, 1), 0.3 * bolus(T, 9, 12, 1)]
    points = np.concatenate([c + random.normal(0, 0.01, (9, 60)) for c in centres])
    groups = clusters._affinity_groups(points, seed=0)
    assert sorted(map(tuple, groups)) == [tuple(range(9 * k, 9 * k + 9)) for k in range(3)]


@pytest.mark.parametrize(("alpha", "rise"), [(1.0, 6.0), (3.0, 8.0), (8.0, 12.0)])
@pytest.mark.parametrize("dt", [0.5, 1.0, 2.0])
def test_many_gamma_variates_are_fitted_as_they_were_made(alpha, rise, dt):
    t = np.arange(0, 60, dt)
    fine = np.arange(0, 60, 0.001)
    curves = np.array([bolus(t, onset, rise, peak, alpha) for onset, peak in ((4, 20), (9, 80), (12.3, 5))])
    peak, arrival, fwhm, r2 = gammaclusters.fit_many(curves, dt)
    assert (r2 > 0.995).all()
    np.testing.assert_allclose(peak, [20, 80, 5], rtol=0.03)
    width = np.ptp(fine[bolus(fine, 4, rise, 1, alpha) >= 0.5])
    np.testing.assert_allclose(fwhm, width, rtol=0.12)
    early = fine[(bolus(fine, 4, rise, 1, alpha) <= 0.2) & (fine < 4 + rise)][-1]
    np.testing.assert_allclose(arrival, early + np.array([0, 5, 8.3]), atol=0.35 * dt)


def test_what_has_no_peak_has_no_fit():
    curves = np.array([np.zeros(20), -np.ones(20), np.linspace(5, 0, 20), bolus(np.arange(20), 2, 5, 9)])
    r2 = gammaclusters.fit_many(curves, 1.0)[3]
    assert (r2[:3] == -np.inf).all() and r2[3] > 0.99


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("mouridsen", {"clusters": 1}, "clusters must be a whole number of at least 2: 1 came"),
        ("murase", {"fuzzifier": 1.0}, "fuzzifier must be above 1"),
        ("murase", {"area": 101}, "area is in per cent and lies between 0 and 100: 101 came"),
        ("straka", {"percentile": -1}, "percentile is in per cent"),
        ("rausch", {"clusters": 2.5}, "clusters must be a whole number"),
        ("shi", {"most": 1}, "most must be a whole number of at least 3"),
        ("peruzzo", {"ellipse": (0, 0.3)}, "ellipse is two shares"),
    ],
)
def test_options_out_of_range_are_refused_in_words(scan, method, options, words):
    with pytest.raises(ValueError, match=words):
        select_aif(scan, method, **options)


def test_an_option_of_another_method_is_refused(scan):
    with pytest.raises(TypeError, match="straka takes the options percentile; 'clusters' is none of them"):
        select_aif(scan, clusters=3)


def test_early_is_within_a_second_of_the_earliest():
    series = BrainCurves(np.zeros((1, 60), np.float32), np.zeros((1, 3), int), (1, 1, 1), 1.0)
    means = np.array([bolus(T, 6, 7, 50), bolus(T, 6.6, 7, 70), bolus(T, 9, 7, 200), bolus(T, 6, 7, 10)])
    assert series.most_arterial(means) == 1
    assert series.most_arterial(np.zeros((2, 60))) == 0
