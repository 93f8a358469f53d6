"""How good an input function is: its figures, how arterial it is, and what speaks against it, in sentences.

One function judges a curve whoever proposed it, a rule, a rater or a network. It looks at the curve, at the
brain's mean curve and at the venous curve, and never refuses: what is wrong becomes a warning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfkit import arteries, curves
from perfkit.gamma import GammaVariate

WEAK_PEAK = 15.0  # HU; our choice: below the 5th percentile of the arterial peaks of ISLES 2018
MAX_TAIL = 0.3  # of the peak; Straka 2010: above it the area is truncated
MAX_FWHM = curves.PLAUSIBLE_FWHM  # s
MIN_FWHM = 3.0  # s; our choice: no bolus given in an arm is that narrow, the 5th percentile is 8.8 s
FLAT_LEVEL = 0.99  # of the peak
FLAT_SHARE = 0.2  # of the FWHM; our choice: gamma variates spend .12 of it within 1 % of their peak
FLAT_FRAMES = 3  # our choice: two equal samples are chance
MIN_SCORE = 2.0  # our choice: the better half of a brain scores 1.1-1.9, arteries of phantoms 4 and more
LATE_SIGMAS = 2.0  # our choice: of the arrival's own error, which noise over slope gives
MIN_VEIN = 0.5  # of the artery's peak; our choice, see ``about_vein``
END_FRAMES = 3  # frames whose mean is the tail, as in the partial-volume factor


@dataclass(frozen=True, eq=False)
class Quality:
    """What there is to say about one curve.

    Parameters
    ----------
    peak : HU above baseline.
    arrival : s, the last rise through 20 % of the peak; NaN without a peak.
    time_to_peak : s from the first frame.
    fwhm : s, full width at half maximum; NaN where a side does not come down to one half.
    area : HU s.
    tail : mean of the last three frames over the peak.
    score : how many times more arterial than the mean curve of the brain; see ``assess``.
    vof_area_ratio : area of this curve over the area of the VOF; NaN without one.
    partial_volume_factor : its inverse, what partial volume took; NaN where the VOF ends above 30 %.
    fit : gamma variate of the first pass; None where there is no peak to fit.
    warnings : what speaks against the curve, in sentences.
    """

    peak: float
    arrival: float
    time_to_peak: float
    fwhm: float
    area: float
    tail: float
    score: float
    vof_area_ratio: float
    partial_volume_factor: float
    fit: GammaVariate | None
    warnings: tuple[str, ...] = ()

    @property
    def plausible(self) -> bool:
        """True without warnings."""
        return not self.warnings


def assess(curve, dt: float, *, tissue=None, vof=None) -> Quality:
    """Judge an input function by its own figures, the brain's mean curve and the venous curve.

    Parameters
    ----------
    curve : (T,), HU above baseline.
    dt : s.
    tissue : (T,), HU above baseline, mean curve of the brain; without it there is no score.
    vof : (T,), HU above baseline.

    Returns
    -------
    Quality; for every finite curve, however poor.

    Raises
    ------
    ValueError : a curve that is not finite or not (T,), or curves of different length.

    Notes
    -----
    The score is M(curve) / M(tissue) with M = peak / (time to peak × FWHM), which Yin et al. 2014 (PLoS ONE
    9:e85884) compared AIFs with. Ours: the time to peak is counted from the earlier onset of the two, and the
    ratio makes it a number without a unit that means the same for every scan, injection and method.
    """
    curve, tissue, vof = _checked(curve, tissue, vof)
    peak = float(curve.max())
    with np.errstate(all="ignore"):  # a curve without a peak has no times, a flat one no widths
        arrival = float(curves.arrival_time(curve, dt))
        figures = {
            "peak": peak,
            "arrival": arrival,
            "time_to_peak": float(curves.time_to_peak(curve, dt)),
            "fwhm": float(curves.full_width_half_maximum(curve, dt)),
            "area": float(curve.sum() * dt),
            "tail": tail(curve),
        }
        fit = curves.fit_gamma_variate(curve, dt) if peak > 0 and curve.argmax() > 0 else None
        score = arterial_score(curve, tissue, dt)
        ratio = float("nan") if vof is None or not vof.sum() else figures["area"] / float(vof.sum() * dt)
        factor = float("nan") if vof is None else area_factor(curve, vof)
        found = (
            *_about_the_peak(peak),
            *_about_the_width(figures["fwhm"]),
            *_about_the_shape(curve, dt),
            *_about_the_fit(fit),
            *_about_the_baseline(dt, tissue),
            *_about_the_times(curve, dt, tissue, vof),
            *_about_the_score(score),
        )
    return Quality(
        **figures,
        score=score,
        vof_area_ratio=ratio,
        partial_volume_factor=factor,
        fit=fit,
        warnings=found,
    )


def tail(curve) -> float:
    """Mean of the last three frames over the peak; NaN without a peak above 0."""
    curve = np.asarray(curve, float)
    return _ratio(float(curve[-END_FRAMES:].mean()), float(curve.max()))


def area_factor(curve, vof) -> float:
    """Area of the venous over the arterial curve; NaN where the venous one ends above 30 % of its peak.

    Parameters
    ----------
    curve, vof : (T,), HU above baseline, of one scan.

    Notes
    -----
    Blood leaves with the area it came with, so the ratio is what partial volume took from the artery
    (Straka 2010). A truncated venous curve has lost area, and its ratio would say nothing.
    """
    area = float(np.sum(curve))
    if not tail(vof) <= MAX_TAIL or not area > 0:
        return float("nan")
    return float(np.sum(vof)) / area


def arterial_score(curve, tissue, dt: float) -> float:
    """How many times more arterial a curve is than the mean curve of the brain.

    Parameters
    ----------
    curve, tissue : (T,), HU above baseline; NaN comes back where ``tissue`` is None or has no peak.
    dt : s.
    """
    if tissue is None or not np.max(tissue) > 0 or not np.max(curve) > 0:
        return float("nan")
    onset = min(curves.bolus_onset(curve, dt), curves.bolus_onset(tissue, dt))
    return _ratio(_m_value(curve, onset, dt), _m_value(tissue, onset, dt))


def flat_top(curve, dt: float) -> float:
    """Time around the peak spent within 1 % of it, s; 0 where fewer than three frames are.

    Parameters
    ----------
    curve : (T,), HU above baseline.
    dt : s.
    """
    high = curve >= FLAT_LEVEL * curve.max()
    top = int(curve.argmax())
    left = top - int(np.argmin(high[top::-1])) if not high[: top + 1].all() else -1
    right = top + int(np.argmin(high[top:])) if not high[top:].all() else len(curve)
    frames = right - left - 1
    return (frames - 1) * dt if frames >= FLAT_FRAMES else 0.0


def about_vein(curve, dt: float, artery=None) -> tuple[str, ...]:
    """Say what speaks against a venous output function, in sentences.

    Parameters
    ----------
    curve : (T,), HU above baseline.
    dt : s.
    artery : (T,), HU above baseline, the arterial curve of the same scan.

    Notes
    -----
    Ours: blood comes out of a vein hardly wider than it went in (the FWHM of ISLES 2018 grows by a fifth, by
    two thirds at most), so what stays below half of the artery's peak is tissue.
    """
    curve = np.asarray(curve, float)
    peak = float(curve.max())
    found = [*_about_the_peak(peak), *_about_the_shape(curve, dt)]
    if artery is not None and 0 < peak < MIN_VEIN * np.max(artery):
        found.append(f"It is no vein: it peaks at {peak:.0f} HU, its artery at {np.max(artery):.0f} HU.")
    return tuple(found)


def truncation(curve) -> tuple[str, ...]:
    """Say that a curve (T,) ends before its first pass has come down; empty where it has."""
    curve = np.asarray(curve, float)
    if not curve.max() > 0:
        return ()
    if curve.argmax() >= len(curve) - 2:
        return ("It is truncated: it still rises in the last frames.",)
    end = tail(curve)
    return (f"It is truncated: it ends at {end:.0%} of its peak.",) if end > MAX_TAIL else ()


def _about_the_peak(peak):
    if not peak > 0:
        yield "It never rises above its baseline."
    elif peak < WEAK_PEAK:
        shown = min(peak, WEAK_PEAK - 0.1)  # 14.98 must not read as 15
        yield f"It is weak: it peaks at {shown:.3g} HU, below {WEAK_PEAK:g} HU."


def _about_the_width(fwhm):
    if fwhm > MAX_FWHM:
        yield f"It is too wide: {fwhm:.0f} s at half its peak, an artery below {MAX_FWHM:g} s."
    if fwhm < MIN_FWHM:
        yield f"It is too narrow: {fwhm:.1f} s at half its peak is a spike, no bolus."


def _about_the_shape(curve, dt):
    if not curve.max() > 0:
        return
    flat = flat_top(curve, dt)
    if flat > FLAT_SHARE * _width(curve, dt):
        yield f"It is flat at the top for {flat:.1f} s, as if the scanner had clipped it."
    yield from truncation(curve)
    if max(curve[:2]) > curves.ARRIVAL_FRACTION * curve.max():
        yield "It has no baseline: it starts high."


def _about_the_fit(fit):
    if fit is None or not fit.peak > 0:
        return
    if fit.r2 < curves.PLAUSIBLE_R2:
        yield f"Its first pass is no gamma variate: R² is {fit.r2:.2f}, below {curves.PLAUSIBLE_R2:g}."
    elif fit.curve(0.0) > curves.ONSET_FRACTION * fit.peak:  # t0 < 0 alone says little: the foot is flat
        yield "It has no baseline: by its fit the bolus arrives before the first frame."


def _about_the_baseline(dt, tissue):
    """Judge the scan by the brain's mean curve: an artery cut at its foot may look whole."""
    if tissue is None or not tissue.max() > 0 or curves.n_baseline(tissue, dt) > 1:
        return
    if curves.bolus_onset(tissue, dt) <= curves.BASELINE_GUARD:
        yield "No frame before the bolus: the scan starts inside it."
    else:
        yield "One frame alone before the bolus: the baseline is as noisy as that frame."


def _about_the_times(curve, dt, tissue, vof):
    if tissue is not None and _arrives_after(curve, tissue, dt):
        yield "It arrives after the tissue."
    if vof is not None and _arrives_after(curve, vof, dt):
        yield "It arrives after the vein."


def _about_the_score(score):
    if score <= 1:
        yield f"It is no more arterial than the mean curve of the brain (score {score:.2g})."
    elif score < MIN_SCORE:
        yield f"It is hardly more arterial than the mean curve of the brain (score {score:.2g})."


def _arrives_after(curve, other, dt) -> bool:
    """True where a curve arrives later than another by more than the noise of both can make it."""
    times, errors = zip(*(_arrival_and_error(c, dt) for c in (curve, other)), strict=True)
    return bool(times[0] - times[1] > LATE_SIGMAS * np.hypot(*errors))


def _arrival_and_error(curve, dt):
    """Arrival of the median-filtered curve and its standard error, noise over slope; s."""
    smooth = arteries.filtered(curve, dt)
    time = float(curves.arrival_time(smooth, dt))
    if not np.isfinite(time):
        return time, np.inf
    i = min(int(time / dt), len(curve) - 2)
    slope = (smooth[i + 1] - smooth[i]) / dt
    return time, noise(curve) / slope if slope > 0 else dt


def noise(curve) -> float:
    """Standard deviation of white noise on a smooth curve (T,), from its second differences."""
    return float(np.median(np.abs(np.diff(curve, n=2))) / (0.6745 * np.sqrt(6))) if len(curve) > 2 else 0.0


def _m_value(curve, onset, dt):
    rise = max(
        float(curves.time_to_peak(curve, dt)) - onset, dt
    )  # a peak at the onset would be infinitely good
    return float(curve.max()) / (rise * _width(curve, dt))


def _width(curve, dt):
    """FWHM in s; where a side stays above one half, what was seen of it."""
    width = float(curves.full_width_half_maximum(curve, dt))
    return width if width > 0 else max(1, int((curve > curve.max() / 2).sum())) * dt


def _ratio(a, b):
    return a / b if b > 0 else float("nan")


def _checked(curve, tissue, vof):
    given = [None if c is None else np.asarray(c, float) for c in (curve, tissue, vof)]
    for name, c in zip(("curve", "tissue", "vof"), given, strict=True):
        if c is None:
            continue
        if c.ndim != 1 or len(c) < 2 or not np.isfinite(c).all():
            raise ValueError(
                f"{name} must be one finite curve (T,) of at least two frames: shape {c.shape} with "
                f"{int((~np.isfinite(c)).sum())} non-finite values came."
            )
        if len(c) != len(given[0]):
            raise ValueError(f"{name} must have the {len(given[0])} frames of the curve: {len(c)} came.")
    return given
