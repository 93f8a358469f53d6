"""Masks: brain, CSF, vessels, hemispheres, and the reference tissue that normalises CBF.

Everything is found from the scan alone, without an AIF and without the ground truth: lateness of the
bolus stands in for Tmax wherever docs/science.md's conventions ask for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from perfkit.brain import brain_mask
from perfkit.midline import find_midline

CSF_HU = 15.0  # docs/science.md §2: below is CSF
VESSEL_RATIO = 2.5  # docs/science.md §2: area under the curve relative to its median
LATE_S = 3.0  # s; our choice: Tmax > 6 s minus the 2.5-3 s Tmax of healthy tissue (docs/science.md §1.6)
EARLY_S = 1.5  # s; our choice: Tmax < 4 s likewise
REGION_MM = 10.0  # docs/science.md §2: mirrored 1 cm region
CERTAIN = 0.02  # our choice: heads without a lesion reach .011, phantoms with one start at .027
CONVENTIONS = ("contralateral", "early", "mirrored", "contralateral-central")

__all__ = [
    "CONVENTIONS",
    "Reference",
    "bolus_delay",
    "brain_mask",
    "csf_mask",
    "find_reference",
    "hemispheres",
    "lesion_side",
    "reference_tissue",
    "side_evidence",
    "vessel_mask",
]


def csf_mask(baseline, brain):
    """Return the voxels of the brain whose 3×3 mean lies below 15 HU before contrast.

    Parameters
    ----------
    baseline : (X, Y, Z), HU.
    brain : (X, Y, Z), bool.

    Returns
    -------
    (X, Y, Z), bool.
    """
    brain = np.asarray(brain, bool)
    inside = np.where(brain, baseline, 0).astype(np.float32)
    mean = ndimage.uniform_filter(inside, (3, 3, 1), mode="constant")
    weight = ndimage.uniform_filter(brain.astype(np.float32), (3, 3, 1), mode="constant")
    return brain & (mean < CSF_HU * weight)


def vessel_mask(area, brain):
    """Return the voxels of the brain whose area under the curve is above 2.5× the brain's median.

    Parameters
    ----------
    area : (X, Y, Z), area under the concentration curve or CBV: the ratio is the same.
    brain : (X, Y, Z), bool.

    Returns
    -------
    (X, Y, Z), bool.
    """
    brain = np.asarray(brain, bool)
    if not brain.any():
        return brain
    return brain & (np.asarray(area) > VESSEL_RATIO * np.median(np.asarray(area)[brain]))


def hemispheres(baseline, brain, spacing):
    """Split the brain at the estimated midline.

    Parameters
    ----------
    baseline : (X, Y, Z), HU; the first axis runs from one side of the head to the other.
    brain : (X, Y, Z), bool.
    spacing : (3,), mm.

    Returns
    -------
    (X, Y, Z), int8: −1 on the side of small x, +1 on that of large x, 0 outside the brain.
    """
    brain = np.asarray(brain, bool)
    return find_midline(baseline, brain, spacing).sides(brain, spacing)


def bolus_delay(concentration, brain, dt):
    """Return how much later than the early tissue the bolus passes each voxel, without an AIF.

    Parameters
    ----------
    concentration : (X, Y, Z, T), HU above baseline, smoothed.
    brain : (X, Y, Z), bool.
    dt : s.

    Returns
    -------
    (X, Y, Z), s; 0 is the 25th percentile of the brain, 0 outside it.

    Notes
    -----
    The lag, −8 s to 16 s, at which the brain's mean curve correlates best with the voxel's: a
    matched filter uses the whole curve, where time to peak and first moment hang on a few noisy or
    truncated frames. A long transit counts as late as well, as it does in Tmax. The 25th percentile
    is healthy even where a lesion takes one hemisphere.
    """
    brain = np.asarray(brain, bool)
    curves = np.asarray(concentration)[brain].astype(np.float32, copy=False)
    out = np.zeros(brain.shape, np.float32)
    if curves.size:
        lag = _best_lag(curves, curves.mean(axis=0, dtype=float), dt)
        out[brain] = lag - np.percentile(lag, 25)
    return out


def _best_lag(curves, template, dt):
    frames = np.arange(len(template))
    lags = np.arange(-round(8 / dt), round(16 / dt) + 1)
    shifted = np.stack([np.interp(frames - lag, frames, template, left=0) for lag in lags], axis=1)
    shifted -= shifted.mean(axis=0)
    shifted /= np.maximum(np.linalg.norm(shifted, axis=0), 1e-12)
    match = curves @ shifted.astype(np.float32)
    best = np.clip(match.argmax(axis=1), 1, len(lags) - 2)[:, None]
    left, top, right = (np.take_along_axis(match, best + i, 1)[:, 0] for i in (-1, 0, 1))
    bend = left - 2 * top + right
    vertex = np.divide(left - right, 2 * bend, where=bend < 0, out=np.zeros_like(top))
    return (lags[best[:, 0]] + np.clip(vertex, -1, 1)) * dt


def lesion_side(delay, area, sides, tissue) -> int:
    """Return the side whose tissue is later and less enhanced.

    Parameters
    ----------
    delay : (X, Y, Z), s, of ``bolus_delay``.
    area : (X, Y, Z), area under the concentration curve.
    sides : (X, Y, Z), −1 and +1, of ``hemispheres``.
    tissue : (X, Y, Z), bool, brain without vessels and CSF.

    Returns
    -------
    −1 or +1; see ``side_evidence`` for how sure that is.
    """
    return 1 if side_evidence(delay, area, sides, tissue) >= 0 else -1


def side_evidence(delay, area, sides, tissue) -> float:
    """Return how much more ischaemic the +1 side looks than the −1 side, in −1…1.

    Notes
    -----
    A voxel scores its lateness beyond 3 s, as a share of 6 s, and one third more where its area is
    below 40 % of the tissue's median, since the middle of a core may enhance too little to be timed.
    The evidence is the difference of the sides' mean scores, so that one side with more voxels in
    the scan has no advantage.
    """
    delay, area, sides, tissue = map(np.asarray, (delay, area, sides, tissue))
    if not tissue.any():
        return 0.0
    late = np.clip((delay[tissue] - LATE_S) / 6, 0, 1)
    low = area[tissue] < 0.4 * np.median(area[tissue])
    score, side = late + low / 3, sides[tissue]
    mean = [score[side == s].mean() if (side == s).any() else 0.0 for s in (1, -1)]
    return float(mean[0] - mean[1])


@dataclass(frozen=True, eq=False)
class Reference:
    """Reference tissue and how it was found.

    ``mask``, ``tissue`` (brain without vessels and CSF), ``sides`` and ``delay`` (s) are (X, Y, Z);
    ``lesion_side`` is −1, +1 or, where no side stands out, 0; ``notes`` are sentences for the reader.
    """

    mask: np.ndarray
    tissue: np.ndarray
    sides: np.ndarray
    delay: np.ndarray
    lesion_side: int
    notes: tuple[str, ...] = ()


def reference_tissue(concentration, baseline, brain, spacing, dt, *, convention: str = "contralateral"):
    """Return the "healthy" voxels whose mean CBF normalises the map; the arguments of ``find_reference``.

    Returns
    -------
    (X, Y, Z), bool, never empty.
    """
    return find_reference(concentration, baseline, brain, spacing, dt, convention=convention).mask


def find_reference(
    concentration, baseline, brain, spacing, dt, *, convention: str = "contralateral"
) -> Reference:
    """Find reference tissue from the scan alone, by one of four conventions.

    Parameters
    ----------
    concentration : (X, Y, Z, T), HU above baseline, smoothed.
    baseline : (X, Y, Z), HU.
    brain : (X, Y, Z), bool.
    spacing : (3,), mm.
    dt : s.
    convention : always without vessels and CSF.
        ``"contralateral"``: the side opposite the lesion, without late tissue (a);
        ``"early"``: both sides, without tissue that is even slightly late (b);
        ``"mirrored"``: a disc 1 cm across, opposite the worst spot (c);
        ``"contralateral-central"``: like the first, in the middle half of the slices, late or not (d).

    Returns
    -------
    Reference. Where no side stands out, (a), (c) and (d) take early tissue of both sides, since a
    guessed side would be the wrong one half of the time; where a convention leaves less than 1 % of
    the tissue, the next wider one is taken. The notes say so.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}: {convention!r} came.")
    brain = np.asarray(brain, bool)
    if not brain.any():
        raise ValueError("Reference tissue needs a brain: the mask is empty. Try masks.brain_mask.")
    line = find_midline(baseline, brain, spacing)
    sides = line.sides(brain, spacing)
    area = concentration.sum(axis=-1, dtype=np.float32)
    tissue = brain & ~vessel_mask(area, brain) & ~csf_mask(baseline, brain)
    if not tissue.any():
        tissue = brain
    delay = bolus_delay(concentration, brain, dt)
    evidence = side_evidence(delay, area, sides, tissue)
    side = 0 if abs(evidence) < CERTAIN else int(np.sign(evidence))
    early = tissue & (delay < EARLY_S)
    if side == 0 and convention != "early":
        notes = ("No side of the brain is later than the other: early tissue of both is the reference.",)
        wanted = early
    else:
        notes = ()
        wanted = _by_convention(convention, tissue, sides, side, delay, line, spacing)
    mask, more = _wide_enough(wanted, early, tissue, convention)
    return Reference(mask, tissue, sides, delay, side, notes + more)


def _by_convention(convention, tissue, sides, side, delay, line, spacing):
    opposite = tissue & (sides == -side)
    if convention == "early":
        return tissue & (delay < EARLY_S)
    if convention == "contralateral":
        return opposite & (delay < LATE_S)
    if convention == "contralateral-central":
        n = tissue.shape[2]
        central = np.zeros(n, bool)
        central[n // 4 : n - n // 4] = True
        return opposite & central
    return opposite & _mirrored_disc(tissue & (sides == side), delay, line, spacing)


def _mirrored_disc(tissue, delay, line, spacing):
    """Return the disc of 1 cm in the slice of the worst spot, mirrored."""
    in_plane = np.asarray(spacing, float)[:2]
    sigma = (*(REGION_MM / 2 / in_plane), 0)
    weight = ndimage.gaussian_filter(tissue.astype(np.float32), sigma)
    late = ndimage.gaussian_filter(np.where(tissue, delay, 0).astype(np.float32), sigma)
    solid = weight > 0.5 * weight.max()
    worst = np.unravel_index(
        np.argmax(np.where(solid, late / np.maximum(weight, 1e-6), -np.inf)), solid.shape
    )
    centre = line.mirrored(np.array(worst[:2]) * in_plane)
    x, y = (np.arange(n) * d for n, d in zip(tissue.shape, in_plane, strict=False))
    disc = np.hypot(x[:, None] - centre[0], y - centre[1]) <= max(REGION_MM / 2, *in_plane)
    out = np.zeros(tissue.shape, bool)
    out[..., worst[2]] = disc
    return out


def _wide_enough(wanted, early, tissue, convention):
    enough = 0.01 * tissue.sum() if convention != "mirrored" else 1
    if wanted.sum() >= enough:
        return wanted, ()
    wide = early.sum() >= enough
    mask, words = (early, "early tissue of both sides") if wide else (tissue, "all tissue")
    return mask, (
        f"The {convention} convention leaves {int(wanted.sum())} voxels: {words} is the reference.",
    )
