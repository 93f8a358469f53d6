"""The stroke of a phantom: how severe the ischaemia is in each voxel, and what an MRI would call its core.

The constants up here were calibrated once so that an expert's AIF at the paper's settings reaches on a small
cohort what it reaches on real scans (docs/science.md §7.5: Dice .3-.5, AUC .80-.93), and cores the volumes
of ISLES 2018. That was done on the cohort of seed 0.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

# docs/science.md §7.4: severity s in [0, 1] -> delay 3 + 7 s, MTT × (1 + 1.5 s) up to 15 s, CBF × (1 − .9 s)
DELAY = (3.0, 7.0)  # s
STRETCH = 1.5
LONGEST_MTT = 15.0  # s
LOSS = 0.9
CORE_CBF = 0.30  # of healthy
PENUMBRA_DELAY = 6.0  # s
CORE_EDGE = (1 - CORE_CBF) / LOSS  # severity where CBF falls below .30
PENUMBRA_EDGE = (PENUMBRA_DELAY - DELAY[0]) / DELAY[1]  # severity where the delay passes 6 s
ONSET_SEVERITY = 0.1  # our choice: the delay grows from 0 over this severity, so that curves have no seam

# Severity field: calibrated
SEVERITY_MAX = 1.0  # our choice: CBF in the middle of the core falls to a tenth
CORE_PROFILE = (-0.8, 0.6)  # our choice, LogN between cases: below 1 the core is deep almost to its edge
PENUMBRA_PROFILE = 1.0  # our choice: above 1 most of the penumbra is mild
REACH_MM = 32.0  # our choice: how fast severity falls from the middle of the lesion
TEXTURE = ((28.0, 0.35), (9.0, 0.15))  # our choice: length in mm and strength of the level set's irregularity
LEAST_PENUMBRA_ML = 8.0  # our choice: small cores also sit in hypoperfused tissue
OLIGEMIA = 0.6  # our choice: tissue with a delay below the penumbra's, over core and penumbra
LARGEST_SHARE = 0.8  # our choice: of the territory in the slab that may be core

# Noise between the physiological core and the DWI-like label: calibrated
BOUNDARY_NOISE = (-1.0, 0.45)  # our choice, LogN between cases: sd of the boundary's error in lesion radii
BOUNDARY_LENGTH_MM = 7.0  # our choice: its correlation length
SHIFT_MM = (1.0, 3.0)  # docs/science.md §7.5: misregistration
FATE = (
    0.10,
    0.20,
)  # docs/science.md §7.5: share of the core that recovers, replaced by penumbra that does not
FATE_LENGTH_MM = 7.0  # our choice: size of such patches


def potential(q, side: int, occlusion: str, territories, textures, rng: np.random.Generator):
    """Draw where the ischaemia is deepest: a level-set function, high in the middle of the lesion.

    Parameters
    ----------
    q : three (X, Y, Z), mm, template coordinates.
    side : +1: x > 0.
    occlusion : "M1", "M2" or "ICA".
    territories : weights (X, Y, Z) of "MCA", "ACA", "PCA".
    textures : (X, Y, Z) random fields of unit variance, one per entry of ``TEXTURE``.
    rng : draws the middle of the lesion and the division of an M2 occlusion.

    Returns
    -------
    Level-set function and soft weight of the territory at risk, both (X, Y, Z) float32.
    """
    x, y, z = q
    risk = territories["MCA"] + (territories["ACA"] if occlusion == "ICA" else 0)
    low, high = float(z.min()), float(z.max())
    middle = np.array([36.0, -6.0, rng.uniform(0.7 * low + 0.3 * high, 0.3 * low + 0.7 * high)])
    if occlusion == "M2":
        front = rng.choice((-1, 1))  # superior or inferior division
        middle += (8, 16, 0) if front > 0 else (8, -26, 0)
        risk = risk * _soft(front * (y + 12) / 6)
    middle += rng.normal(0, 7, 3) * (1, 1, 0.5)
    risk = (risk * _soft(side * x / 2)).astype(np.float32)
    far = np.sqrt((x - side * middle[0]) ** 2 + ((y - middle[1]) / 1.3) ** 2 + (z - middle[2]) ** 2)
    level = -far / REACH_MM + 0.7 * np.log(risk + 0.01)
    for (_, strength), field in zip(TEXTURE, textures, strict=True):
        level = level + strength * field
    return level.astype(np.float32), risk


def severity(level, risk, tissue, voxel_ml: float, core_ml: float, mismatch: float, profile: float):
    """Turn a level-set function into severity such that the core has the asked volume where it fits.

    Parameters
    ----------
    level, risk : (X, Y, Z), from ``potential``.
    tissue : (X, Y, Z) bool, voxels that count as tissue.
    core_ml : volume of the physiological core.
    mismatch : penumbra volume over core volume.
    profile : exponent from the core's middle to its edge, see ``CORE_PROFILE``.

    Returns
    -------
    (X, Y, Z) float32 in [0, 1].
    """
    there = tissue & (risk > 0.02)
    territory_ml = voxel_ml * np.count_nonzero(tissue & (risk > 0.5))
    core = min(core_ml, LARGEST_SHARE * territory_ml)
    penumbra = min(core * mismatch + LEAST_PENUMBRA_ML, max(0.95 * territory_ml - core, 0.05 * territory_ml))
    rim = OLIGEMIA * (core + penumbra)
    ranked = np.sort(level[there])
    inside = (
        np.interp(level, ranked, voxel_ml * (len(ranked) - np.arange(len(ranked)) - 0.5))
        if len(ranked)
        else 0
    )
    to_core = np.clip(1 - inside / max(core, 1e-6), 0, 1) ** profile
    to_penumbra = np.clip(1 - (inside - core) / max(penumbra, 1e-6), 0, 1) ** PENUMBRA_PROFILE
    to_rim = np.clip(1 - (inside - core - penumbra) / max(rim, 1e-6), 0, 1)
    s = (
        to_rim * PENUMBRA_EDGE
        + to_penumbra * (CORE_EDGE - PENUMBRA_EDGE)
        + to_core * (SEVERITY_MAX - CORE_EDGE)
    )
    return np.where(risk > 0.02, s, 0).astype(np.float32)


def lesion_delay(s):
    """Delay in s that severity ``s`` adds to the artery's."""
    return (DELAY[0] + DELAY[1] * s) * np.minimum(s / ONSET_SEVERITY, 1)


def slowed(mtt, s):
    """MTT in s of tissue with healthy transit time ``mtt`` at severity ``s``."""
    return np.minimum(mtt * (1 + STRETCH * s), np.maximum(mtt, LONGEST_MTT))


def core_and_penumbra(s, delay, tissue):
    """Physiological core and penumbra, each (X, Y, Z) bool.

    Core is tissue with less than .30 of its healthy flow and a delay beyond the penumbra's; penumbra is all
    other tissue with such a delay.

    Parameters
    ----------
    s : (X, Y, Z), severity.
    delay : (X, Y, Z), s, the true one.
    tissue : (X, Y, Z) bool.
    """
    late = tissue & (delay > PENUMBRA_DELAY)
    core = late & (1 - LOSS * s < CORE_CBF)
    return core, late & ~core


def dwi_like(core, candidates, spacing, noise: float, boundary, fate, rng: np.random.Generator):
    """Draw the label that diffusion imaging would give: the core with an unsure boundary, moved.

    Parameters
    ----------
    core : (X, Y, Z) bool, physiological core.
    candidates : (X, Y, Z) bool, tissue that may be labelled.
    spacing : (3,), mm.
    noise : sd of the boundary's error in lesion radii.
    boundary, fate : (X, Y, Z), random fields of unit variance, of the lengths given above.
    rng : draws the shift and the share with another fate.

    Returns
    -------
    (X, Y, Z) bool, as many voxels as ``core`` has.
    """
    n = np.count_nonzero(core)
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(*SHIFT_MM)
    share = rng.uniform(*FATE)
    if n == 0:
        return np.zeros_like(core)
    depth = _signed_depth(core, spacing)
    slices = np.count_nonzero(core.any(axis=(0, 1)))
    radius = np.sqrt(n * spacing[0] * spacing[1] / slices / np.pi)
    score = depth + noise * radius * boundary
    recovered = core & (fate > np.quantile(fate[core], 1 - share))
    score[recovered] -= 10 * radius
    shift = (length * np.cos(angle) / spacing[0], length * np.sin(angle) / spacing[1], 0)
    score = ndimage.shift(score, shift, order=1, mode="nearest")
    score[~candidates] = -np.inf
    label = np.zeros(core.shape, bool)
    label.ravel()[np.argpartition(score.ravel(), -n)[-n:]] = True
    return label & candidates


def _signed_depth(mask, spacing):
    """Distance to the mask's boundary in mm, positive inside; computed near the mask only."""
    box = tuple(
        slice(max(0, part.start - round(40 / step)), part.stop + round(40 / step))
        for part, step in zip(ndimage.find_objects(mask.astype(np.uint8))[0], spacing, strict=True)
    )
    near = mask[box]
    depth = np.full(mask.shape, -60.0, np.float32)  # farther out than any boundary error
    depth[box] = ndimage.distance_transform_edt(near, sampling=spacing) - ndimage.distance_transform_edt(
        ~near, sampling=spacing
    )
    return depth


def _soft(value):
    return 1 / (1 + np.exp(-np.clip(value, -30, 30)))
