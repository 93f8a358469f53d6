"""Masks on heads drawn here, whose brain, midline and lesion are known."""

import numpy as np
import pytest
from scipy import ndimage

from perfkit import curves, masks
from perfkit.metrics import dice
from perfkit.midline import find_midline

CROSS = ndimage.generate_binary_structure(2, 1)[..., None]


def draw_head(n=96, pixel=2.2, slices=2, *, skull=True, outside=-1000.0, tilt=0.0, shift=(0, 0), noise=4.0):
    """An elliptic head in mm: scalp, fat, muscle, skull, sulcal CSF, grey and white matter, ventricles."""
    x = (np.arange(n) - (n - 1) / 2) * pixel
    a = np.radians(tilt)
    x, y = np.meshgrid(x - shift[0], x - shift[1], indexing="ij")
    u, v = x * np.cos(a) + y * np.sin(a), y * np.cos(a) - x * np.sin(a)

    def inside(grow, scale=1.0):
        return np.hypot(u / (scale * 65 + grow), v / (scale * 80 + grow)) < 1

    head = np.full((n, n), float(outside))
    if skull:
        for grow, hu in ((14, 45), (12, -80), (10, 40), (7, 900)):
            head[inside(grow)] = hu
    brain = inside(0)
    head[brain] = 13
    head[inside(-3)] = 35
    head[inside(0, 0.8)] = 29
    head[np.hypot((abs(u) - 12) / 6, v / 25) < 1] = 10
    head, brain = np.repeat(head[..., None], slices, 2), np.repeat(brain[..., None], slices, 2)
    noisy = head + np.random.default_rng(0).normal(0, noise, head.shape)
    if not skull:
        noisy = np.where(brain, noisy, outside)
    centre = np.array(shift) + (n - 1) / 2 * pixel
    return noisy.astype(np.float32), brain, (pixel, pixel, 5.0), centre


def perfused(side, *, radius=22.0, tilt=5.0, seed=0, frames=40):
    """The head with a bolus; within ``radius`` mm of a spot on one side it is late, broad and low."""
    rng = np.random.default_rng(seed)
    still, brain, spacing, _ = draw_head(64, 3.2, tilt=tilt, shift=(4, -6), noise=0)
    x = (np.arange(64) - 31.5) * 3.2
    a = np.radians(tilt)
    spot = np.array([4, -6]) + side * 36 * np.array([np.cos(a), np.sin(a)]) + [0, rng.uniform(-20, 20)]
    severity = np.clip(1.5 - np.hypot(x[:, None] - spot[0], x - spot[1]) / radius, 0, 1) if radius else 0 * x
    severity = np.round(np.broadcast_to(severity, (64, 64))[..., None] * brain, 1)
    flow = np.select([still == 35, still == 29], [7.0, 4.0], 0.3) * brain * (1 - 0.8 * severity)
    t, series = np.arange(float(frames)), np.repeat(still[..., None], frames, -1)
    for q in np.unique(severity):
        bolus = curves.gamma_variate(t, 8 + 7 * q, 18 + 10 * q, 13 * (1 + 0.4 * q), 1)
        series += np.where((severity == q)[..., None], flow[..., None] * bolus, 0).astype(np.float32)
    series += rng.normal(0, 2, series.shape).astype(np.float32)
    mask = masks.brain_mask(series[..., :5].mean(-1), spacing)
    concentration, baseline = curves.enhancement(series, 6)
    concentration = curves.smooth(concentration, spacing, 1, mask=mask)
    return (
        dict(concentration=concentration, baseline=baseline, brain=mask, spacing=spacing, dt=1.0),
        flow,
        severity,
    )


# --- brain ---

HEADS = {
    "skull in air": dict(),
    "skull, background 0": dict(outside=0.0),
    "stripped, background 0": dict(skull=False, outside=0.0),
    "stripped, background -1000": dict(skull=False),
    "stripped, background inside the window": dict(skull=False, outside=24.0),
}


@pytest.mark.parametrize("tilt, shift", [(0, (0, 0)), (-10, (7, -5))])
@pytest.mark.parametrize("n, pixel", [(48, 4.3), (96, 2.2), (256, 0.85)])
@pytest.mark.parametrize("kind", HEADS)
def test_brain_is_found_with_and_without_skull(kind, n, pixel, tilt, shift):
    head, brain, spacing, _ = draw_head(n, pixel, tilt=tilt, shift=shift, **HEADS[kind])
    found = masks.brain_mask(head, spacing)
    assert dice(found, ndimage.binary_erosion(brain, CROSS)) >= 0.95
    assert not found[~brain].any()  # neither scalp nor outside


def test_brain_reaches_the_border_pixel_at_a_fine_grid():
    head, brain, spacing, _ = draw_head(256, 0.85)
    assert dice(masks.brain_mask(head, spacing), brain) >= 0.98


def test_slices_without_brain_stay_empty():
    head, _, spacing, _ = draw_head(96, 2.2, slices=4)
    head[..., 0] = -1000
    scalp, _, _, _ = draw_head(96, 2.2, slices=1)
    head[..., 3] = np.where(scalp[..., 0] > 500, -80, np.where(scalp[..., 0] < 20, scalp[..., 0], 900))
    found = masks.brain_mask(head, spacing)
    assert found[..., 1].any() and found[..., 2].any()
    assert not found[..., 0].any() and not found[..., 3].any()


def test_holes_are_filled():
    head, _, spacing, _ = draw_head(96, 2.2)
    head[45:50, 40:44] = 400  # a calcification, or a clip
    found = masks.brain_mask(head, spacing)
    assert found[45:50, 40:44].all()


@pytest.mark.parametrize(
    "volume, words",
    [
        (np.full((32, 32, 2), -1000.0), r"No brain found.*\. 0% of the baseline.*-1000"),
        (draw_head(48, 4.3)[0] + 1024, "No brain found.*rescale"),
        (np.random.default_rng(0).uniform(9, 36, (32, 32, 2)), "100% of the baseline.*air around the head"),
        (np.full((32, 32, 2), 40.0), "100% of the baseline.*air around the head"),
        (np.zeros((32, 32)), r"\(X, Y, Z\)"),
        (np.full((8, 8, 2), np.nan), "NaN"),
    ],
)
def test_no_brain_is_an_error_in_words(volume, words):
    with pytest.raises(ValueError, match=words):
        masks.brain_mask(volume, (1, 1, 5))


# --- CSF and vessels ---


def test_csf_is_the_ventricles_and_the_rim():
    head, brain, _, _ = draw_head(128, 1.6, noise=2)
    found = masks.csf_mask(head, brain)
    x = (np.arange(128) - 63.5) * 1.6
    ventricles = (np.hypot((abs(x[:, None]) - 12) / 4, x / 23) < 1)[..., None]
    assert (found | ~ventricles).all()
    deep = (np.hypot(x[:, None] / 60, x / 75) < 1) & (np.hypot((abs(x[:, None]) - 12) / 10, x / 30) >= 1)
    assert found[deep].mean() < 0.01


def test_vessels_are_above_two_and_a_half_medians():
    brain = np.zeros((6, 6, 1), bool)
    brain[1:5, 1:5] = True
    area = np.where(brain, 2.0, 100.0)
    area[2, 2], area[3, 3] = 5.1, 4.9
    expected = np.zeros_like(brain)
    expected[2, 2] = True
    np.testing.assert_array_equal(masks.vessel_mask(area, brain), expected)
    assert not masks.vessel_mask(area, np.zeros_like(brain)).any()


# --- hemispheres ---


@pytest.mark.parametrize("n, pixel", [(48, 4.3), (128, 1.6)])
@pytest.mark.parametrize("shift", [(0, 0), (9, -7)])
@pytest.mark.parametrize("tilt", [-10, -3.3, 0, 6, 10])
def test_midline_of_a_turned_head(n, pixel, shift, tilt):
    head, brain, spacing, centre = draw_head(n, pixel, tilt=tilt, shift=shift)
    line = find_midline(head, brain, spacing)
    assert line.tilt == pytest.approx(tilt, abs=2)
    assert abs(np.dot(line.normal, centre) - line.offset) <= 2 * pixel
    sides = masks.hemispheres(head, brain, spacing)
    assert sides.dtype == np.int8
    assert ((sides != 0) == brain).all()
    assert (sides == 1).sum() == pytest.approx(brain.sum() / 2, rel=0.05)
    assert sides[:, n // 2].argmax(axis=0).min() > sides[:, n // 2].argmin(axis=0).min()  # + lies at large x


def test_midline_of_a_brain_cut_on_one_side():
    head, brain, spacing, centre = draw_head(128, 1.6, tilt=4)
    brain[:35] = False  # a slab cut by the field of view
    line = find_midline(head, brain, spacing)
    assert line.tilt == pytest.approx(4, abs=3)
    assert abs(np.dot(line.normal, centre) - line.offset) <= 5  # mm


def test_mirroring_twice_is_nothing():
    line = find_midline(*draw_head(48, 4.3, tilt=7)[:3])
    point = np.array([31.0, 77.0])
    np.testing.assert_allclose(line.mirrored(line.mirrored(point)), point)
    assert line.mirrored(point) @ line.normal + point @ line.normal == pytest.approx(2 * line.offset)


# --- lateness and side ---


@pytest.mark.parametrize("dt", [0.7, 1.0, 2.0])
def test_delay_is_the_lag_between_curves(dt):
    t = np.arange(0, 60, dt)
    lags = np.array([0, 0, 0, 0, 0, 0, 1.3, 3.0, 4.4, 8.0])
    c = np.stack(
        [a * curves.gamma_variate(t, 8 + d, 18 + d, 12, 6) for d, a in zip(lags, range(1, 11), strict=True)]
    )
    got = masks.bolus_delay(c.reshape(10, 1, 1, -1), np.ones((10, 1, 1), bool), dt)
    np.testing.assert_allclose(got[:, 0, 0], lags, atol=0.35)


def test_delay_does_not_know_the_scale_and_is_zero_outside():
    scan, _, _ = perfused(1)
    delay = masks.bolus_delay(scan["concentration"], scan["brain"], 1.0)
    twice = masks.bolus_delay(2 * scan["concentration"], scan["brain"], 1.0)
    np.testing.assert_allclose(delay, twice, atol=1e-3)
    assert (delay[~scan["brain"]] == 0).all()
    assert np.percentile(delay[scan["brain"]], 25) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("radius", [14, 22, 40])
@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("seed", range(3))
def test_reference_lies_opposite_the_lesion_in_healthy_tissue(side, radius, seed):
    scan, flow, severity = perfused(side, radius=radius, seed=seed, tilt=(-8, 3, 7)[seed])
    found = masks.find_reference(**scan)
    assert found.lesion_side == side
    assert found.notes == ()
    assert found.mask.any() and not (found.mask & ~found.tissue).any()
    assert set(np.unique(found.sides[found.mask])) == {-side}
    healthy = found.tissue & (severity == 0)
    assert flow[found.mask].mean() == pytest.approx(flow[healthy].mean(), rel=0.1)


def test_mirrored_scan_gives_the_mirrored_reference():
    scan, _, _ = perfused(1)
    mirrored = {k: v[::-1].copy() if isinstance(v, np.ndarray) else v for k, v in scan.items()}
    one, other = masks.find_reference(**scan), masks.find_reference(**mirrored)
    assert one.lesion_side == -other.lesion_side
    assert dice(one.mask[::-1], other.mask) > 0.97


@pytest.mark.parametrize("convention", masks.CONVENTIONS)
def test_conventions_keep_their_word(convention):
    scan, _, severity = perfused(-1, radius=24)
    found = masks.find_reference(**scan, convention=convention)
    mask = masks.reference_tissue(**scan, convention=convention)
    np.testing.assert_array_equal(mask, found.mask)
    assert mask.any() and (severity[mask] < 0.5).mean() > 0.97
    sides = set(np.unique(found.sides[mask]))
    assert sides == ({-1, 1} if convention == "early" else {1})
    if convention == "mirrored":
        x, y, z = np.argwhere(mask).T * np.array(scan["spacing"])[:, None]
        assert np.ptp(x) <= 12 and np.ptp(y) <= 12 and np.ptp(z) == 0


def test_central_convention_takes_the_middle_half_of_the_slices():
    scan, _, _ = perfused(-1, radius=24)
    for name in ("concentration", "baseline", "brain"):
        scan[name] = np.concatenate([scan[name]] * 4, axis=2)  # 8 slices
    mask = masks.reference_tissue(**scan, convention="contralateral-central")
    np.testing.assert_array_equal(np.flatnonzero(mask.any(axis=(0, 1))), [2, 3, 4, 5])


@pytest.mark.parametrize("convention", masks.CONVENTIONS)
def test_without_a_lesion_both_sides_are_the_reference_and_the_reader_is_told(convention):
    scan, flow, _ = perfused(1, radius=0)
    found = masks.find_reference(**scan, convention=convention)
    assert found.lesion_side == 0
    assert (found.notes == ()) == (convention == "early")
    assert set(np.unique(found.sides[found.mask])) == {-1, 1}
    assert flow[found.mask].mean() == pytest.approx(flow[found.tissue].mean(), rel=0.1)


def test_reference_is_never_empty():
    scan, _, _ = perfused(1)
    scan["concentration"] = np.zeros_like(scan["concentration"])
    assert masks.reference_tissue(**scan).any()
    scan["brain"] = np.zeros_like(scan["brain"])
    scan["brain"][30, 30, 0] = True
    assert masks.reference_tissue(**scan).sum() == 1


def test_lesion_side_prefers_late_then_low():
    sides = np.repeat(np.array([-1, 1], np.int8), 50).reshape(10, 10, 1)
    tissue, delay, area = np.ones((10, 10, 1), bool), np.zeros((10, 10, 1)), np.ones((10, 10, 1))
    delay[:2] = 8
    assert masks.lesion_side(delay, area, sides, tissue) == -1
    assert masks.lesion_side(delay[::-1], area, sides, tissue) == 1
    area[-2:] = 0.1  # low but on time
    assert masks.lesion_side(0 * delay, area, sides, tissue) == 1
    assert masks.lesion_side(delay, area, sides, tissue) == -1


def test_wrong_conventions_and_empty_brains_are_refused():
    scan, _, _ = perfused(1)
    with pytest.raises(ValueError, match="contralateral, early"):
        masks.reference_tissue(**scan, convention="ipsilateral")
    scan["brain"] = np.zeros_like(scan["brain"])
    with pytest.raises(ValueError, match="mask is empty"):
        masks.reference_tissue(**scan)
