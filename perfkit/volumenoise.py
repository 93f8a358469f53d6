"""From the noise of maps to that of relative flow and of volumes below a threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfkit.curves import SIGMA_MM

TERMS = 24  # of Mehler's series; our choice: within 1 % of the bivariate normal up to a correlation of .95


def relative_cbf_sd(cbf, cbf_sd, reference_tissue, *, alike: float = 1.0):
    """Carry the uncertainty of CBF to rCBF, the normaliser's own included.

    Parameters
    ----------
    cbf, cbf_sd : (...,), ml/100 g/min
    reference_tissue : (...,) bool
    alike : voxels that share one noise, ``voxels_alike`` of the smoothing

    Returns
    -------
    sd : (...,), of rCBF
    normaliser : float, relative standard deviation of the mean over the reference tissue

    Notes
    -----
    The mean over n voxels of which ``alike`` share their noise has the variance alike · Σ sd² / n²; with
    thousands of voxels that is some tenths of a per cent, far below a voxel's own.
    """
    inside = _checked_mask(reference_tissue, np.shape(cbf), "reference tissue")
    if not inside.any():
        raise ValueError("The reference tissue must hold at least one voxel: it is empty.")
    mean = np.mean(np.asarray(cbf, float)[inside])
    spread = np.asarray(cbf_sd, float)
    of_mean = np.sqrt(alike * np.nansum(spread[inside] ** 2)) / inside.sum()
    return np.sqrt(spread**2 + (np.asarray(cbf) / mean * of_mean) ** 2) / mean, float(of_mean / mean)


def voxels_alike(spacing, sigma_mm: float = SIGMA_MM) -> float:
    """Count the voxels that share one noise after smoothing in the plane: the sum of its autocorrelation.

    Parameters
    ----------
    spacing : (3,), mm
    sigma_mm : mm, of the Gaussian

    Returns
    -------
    float, at least 1. White noise after a Gaussian of σ correlates by exp(−d²/(4σ²)) at the distance d.
    """
    return float(np.prod([_autocorrelation(step, sigma_mm, 1).sum() for step in spacing[:2]]))


@dataclass(frozen=True)
class VolumeEstimate:
    """A volume as noise leaves it: expected value and standard deviation in ml; voxels that count alone."""

    expected_ml: float
    sd_ml: float
    effective_voxels: float


def volume_below(
    values, sd, mask, spacing, threshold: float, *, sigma_mm: float = SIGMA_MM, shared: float = 0.0
) -> VolumeEstimate:
    """Estimate a volume from the probability that each voxel lies below a threshold.

    Parameters
    ----------
    values, sd : (X, Y, Z), a map and its standard deviations: rCBF for the core; −Tmax and −6 for Tmax > 6 s
    mask : (X, Y, Z) bool, where the volume may be
    spacing : (3,), mm
    threshold : in the unit of the map
    sigma_mm : mm, Gaussian smoothing in the plane; it makes the noise of neighbours alike
    shared : relative standard deviation of a factor that all voxels share, as rCBF's normaliser

    Returns
    -------
    VolumeEstimate. Where sd is 0 or not known, a voxel counts as it is read.

    Notes
    -----
    p = Φ((θ − x)/sd), the probability given what was measured and nothing known before; expected volume Σ p.
    The covariance of two voxels' indicators is Σ_n ρⁿ/n! He_{n−1}(a) φ(a) He_{n−1}(b) φ(b) (Mehler) with
    a, b their distances to the threshold and ρ = exp(−d²/(4σ²)) within a slice. ρⁿ is a Gaussian as well, so
    each term is one separable convolution. ``effective_voxels`` is the number of voxels that would give the
    same standard deviation if their noise were independent. What the estimator does to all voxels alike,
    its bias, is not in it.
    """
    from scipy import ndimage, stats

    inside = _checked_mask(mask, np.shape(values))
    values, sd = np.where(inside, values, 0.0), np.where(inside, sd, np.nan)
    known = np.isfinite(sd) & (sd > 0)
    a = np.divide(threshold - values, sd, out=np.zeros(values.shape), where=known)
    p = np.where(known, stats.norm.cdf(a), inside & (values < threshold))
    density = np.where(known, stats.norm.pdf(a), 0.0)
    alone = float((p * (1 - p)).sum())
    variance = alone
    hermite, before = np.ones_like(a), np.zeros_like(a)
    for n in range(1, TERMS + 1):
        term = hermite * density / np.sqrt(n)
        spread = term
        for axis in range(2):
            kernel = _autocorrelation(spacing[axis], sigma_mm, n)
            spread = ndimage.convolve1d(spread, kernel, axis=axis, mode="constant")
        variance += float((term * (spread - term)).sum())
        hermite, before = (a * hermite - np.sqrt(n - 1) * before) / np.sqrt(n), hermite
    slope = np.divide(density * values, sd, out=np.zeros_like(a), where=known).sum()  # ml per relative change
    voxel_ml = float(np.prod(spacing)) / 1000
    sd_ml = voxel_ml * np.sqrt(max(variance, 0) + (shared * slope) ** 2)
    effective = inside.sum() * alone / variance if variance > 0 else float(inside.sum())
    return VolumeEstimate(voxel_ml * float(p.sum()), float(sd_ml), float(effective))


def _autocorrelation(step_mm, sigma_mm, power):
    """The autocorrelation of smoothed noise along one axis, to a power: odd length, 1 in the middle."""
    if sigma_mm <= 0:
        return np.ones(1)
    reach = int(np.ceil(6 * sigma_mm / step_mm))
    distance = step_mm * np.arange(-reach, reach + 1)
    return np.exp(-power * distance**2 / (4 * sigma_mm**2))


def _checked_mask(mask, shape, name="mask"):
    mask = np.asarray(mask)
    if mask.shape != shape:
        raise ValueError(f"The {name} must have the shape of the voxels, {shape}: {mask.shape} came.")
    return mask.astype(bool)
