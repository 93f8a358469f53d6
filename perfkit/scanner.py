"""What a scanner and a human hand add to the truth: noise, streaks, motion, and the voxel a rater clicks."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

AIR_HU = -1000.0
VESSEL_HU = 40.0  # docs/science.md §7.2
SCALP_HU = 20.0  # our choice: skin, muscle and fat together
NEIGHBOUR = (
    0.193  # weight of the next pixel in the noise: autocorrelation .36 there, as a Gaussian of σ .7 px
)
STREAKS = (2, 5)  # our choice: number per slice
STREAK_HU = 4.0  # our choice: sd of their height beside the skull
STREAK_MM = (2.5, 50.0)  # our choice: half-width and reach
STREAK_FLICKER = 0.25  # our choice: how much they change from frame to frame
# Two raters of ISLES 2018 (supplement of AIFNet, 2021): a third of the picks identical, median 1.4 px apart.
SAME_VOXEL, SAME_ARTERY = 0.32, 0.46


def baseline(fractions, vessel, brain_hu, skull_hu: float):
    """HU of one slice without contrast: (Y, X) float32.

    Parameters
    ----------
    fractions : "gm", "wm", "csf", "bone" and "soft" (Y, X); the rest is air.
    vessel : (Y, X), share of the brain that is blood in large vessels.
    brain_hu : HU of GM, WM and CSF.
    skull_hu : HU.
    """
    gm, wm, csf, bone, soft = (fractions[name] for name in ("gm", "wm", "csf", "bone", "soft"))
    brain = gm + wm + csf
    tissue = gm * brain_hu[0] + wm * brain_hu[1] + csf * brain_hu[2]
    tissue = tissue * (1 - vessel) + vessel * VESSEL_HU * brain
    air = np.clip(1 - brain - bone - soft, 0, 1)
    return (tissue + bone * skull_hu + soft * SCALP_HU + air * AIR_HU).astype(np.float32)


def moved(image, motion, spacing):
    """Shift (mm) and turn (degrees) an image (Y, X) as a head that moved."""
    dx, dy, angle = motion
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    matrix = np.array([[c, -s], [s, c]])
    middle = (np.array(image.shape) - 1) / 2
    shift = np.array([dy / spacing[1], dx / spacing[0]])
    offset = middle - matrix @ (middle + shift)
    return ndimage.affine_transform(image, matrix, offset, order=1, mode="constant", cval=AIR_HU)


def add_noise(frames, fractions, noise_hu: float, pixel_mm: float, rng: np.random.Generator):
    """Add correlated noise and streaks to one slice, in place; air stays at the scanner's floor.

    Parameters
    ----------
    frames : (T, Y, X), HU, float32.
    fractions : "bone", "soft" and "envelope" (inside of the skull), (Y, X).
    noise_hu : HU, standard deviation; 0 leaves out the streaks as well.
    pixel_mm : mm.
    rng : of this slice.
    """
    bone, brain = fractions["bone"], fractions["envelope"]
    head = bone + fractions["soft"] + brain > 0.5
    if noise_hu and head.any():
        ys, xs = (np.flatnonzero(head.any(axis=axis)) for axis in (1, 0))
        box = (slice(None), slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1))
        noise = correlated_noise(rng, frames[box].shape)
        noise *= np.float32(noise_hu) * head[box[1:]]
        frames[box] += noise
        streak = _streaks(bone, pixel_mm, rng) * brain
        flicker = (1 + STREAK_FLICKER * rng.standard_normal(len(frames))).astype(np.float32)
        frames += flicker[:, None, None] * streak
    np.maximum(frames, AIR_HU, out=frames)


def correlated_noise(rng, shape):
    """Unit-variance noise (T, Y, X) whose neighbours in the plane correlate by .36."""
    t, y, x = shape
    white = rng.standard_normal((t, y + 2, x + 2), dtype=np.float32)
    b = np.float32(NEIGHBOUR)
    rows = white[:, :-2] + white[:, 2:]
    rows *= b
    rows += white[:, 1:-1]
    noise = rows[..., :-2] + rows[..., 2:]
    noise *= b
    noise += rows[..., 1:-1]
    noise *= 1 / (1 + 2 * b * b)
    return noise


def _streaks(bone, pixel_mm, rng):
    """Dark and bright lines from dense bone into the head: (Y, X), HU."""
    image = np.zeros(bone.shape, np.float32)
    ys, xs = np.nonzero(bone > 0.9)
    if not len(ys):
        return image
    y, x = pixel_mm * np.arange(bone.shape[0])[:, None], pixel_mm * np.arange(bone.shape[1])[None]
    for _ in range(rng.integers(*STREAKS)):
        start = rng.integers(len(ys))
        angle = rng.uniform(0, 2 * np.pi)
        dy, dx = y - pixel_mm * ys[start], x - pixel_mm * xs[start]
        across, along = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        image += rng.normal(0, STREAK_HU) * np.exp(
            -((across / STREAK_MM[0]) ** 2) - np.abs(along) / STREAK_MM[1]
        )
    return image


def simulated_rater(artery, artery_delay, vein, wish: float, rng: np.random.Generator):
    """Pick one arterial and one venous voxel as a human would.

    The artery is the one whose partial volume comes nearest to the wished one; then the hand slips, or
    another artery is taken, as often as between real raters.

    Parameters
    ----------
    artery : (X, Y, Z), volume fraction of the arteries that fill normally.
    artery_delay : (X, Y, Z), s.
    vein : (X, Y, Z), volume fraction of the sinuses.
    wish : partial volume of the measured AIF, in (0, 1].
    rng : draws slip and choice.

    Returns
    -------
    AIF voxels and VOF voxels, each (1, 3) int.
    """
    slip = rng.uniform()
    voxels = np.argwhere(artery > min(0.05, 0.3 * artery.max()))
    at = tuple(voxels.T)
    dislike = (
        np.abs(np.log(artery[at] / wish)) + 0.3 * artery_delay[at] + 0.1 * rng.standard_normal(len(voxels))
    )
    ideal = voxels[np.argmin(dislike)]
    away = np.hypot(*(voxels - ideal)[:, :2].T) + np.where(voxels[:, 2] == ideal[2], 0, np.inf)
    if slip < SAME_VOXEL:
        near = away == 0
    elif slip < SAME_VOXEL + SAME_ARTERY:
        near = (away >= 1) & (away < 3.5)
    else:
        near = (away > 0.06 * artery.shape[0]) & np.isfinite(away)
    pick = voxels[near][np.argmin(dislike[near])] if near.any() else ideal
    best = np.argsort(vein, axis=None)[-3:]
    vof = np.unravel_index(rng.choice(best), vein.shape)
    return pick[None].astype(int), np.array(vof)[None].astype(int)
