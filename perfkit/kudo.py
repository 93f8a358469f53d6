"""The Kudo-compatible phantom: a grid of tiles with known delay, transit time and blood volume.

After Kudo et al., Radiology 2013 (docs/science.md §7): the test object on which commercial software was
compared. Rows differ in delay, columns in MTT, slices in CBV.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perfkit import forward
from perfkit.case import Case

TILE = 32  # px
DELAYS = np.arange(7) * 0.5  # s, rows
MTTS = np.array([24, 12, 8, 6, 4.8, 4, 24 / 7])  # s, columns
CBVS = (1.0, 2.0, 3.0, 4.0, 5.0)  # ml/100 g, slices
T0, ALPHA, BETA = 12.0, 3.0, 1.5  # s, -, s; of the AIF
PEAK = 465.0  # HU above baseline, after rescaling by the VOF
BASELINE = 40.0  # HU
AIF_PATCH, VOF_PATCH = 8, 16  # px
PARTIAL_VOLUME = 0.5  # our choice: of the AIF patch; rescaling by the VOF must undo it
VENOUS_DELAY = 6.0  # s; our choice: late, and whole in 60 s
BACKGROUND = -1000.0  # HU; our choice: air
RESIDUES = {"exponential": "exponential", "linear": "linear", "box": "pure box"}
SIDE = 256  # px: seven tiles and a band for the vessels
AIF_CORNER, VOF_CORNER = (48, 236), (144, 232)  # our choice: in the band


def kudo_phantom(
    cbv: float | Sequence[float] = CBVS,
    residue: str = "exponential",
    *,
    dt: float = 2.0,
    n_frames: int = 30,
    noise_hu: float = 0.0,
    seed: int = 0,
) -> Case:
    """Make the grid phantom with its true maps.

    Parameters
    ----------
    cbv : ml/100 g, one slice each.
    residue : "exponential", "linear" or "box".
    dt : s.
    n_frames : number of frames.
    noise_hu : HU, standard deviation of white noise.
    seed : of the noise.

    Returns
    -------
    Case (256, 256, len(cbv), n_frames), HU as float32, MTT changing along x and delay along y, with ``brain``
    = the tiles and ``truth``: aif, vof (T,) HU; cbf, cbv, mtt, delay (X, Y, Z); rater_voxels and
    rater_vof_voxels, all voxels of the AIF patch (partial-volumed) and of the VOF patch.
    """
    values = _checked(cbv, residue, dt, n_frames, noise_hu)
    times = dt * np.arange(n_frames)
    aif, vof = (PEAK * forward.gamma_variate(times, start, ALPHA, BETA) for start in (T0, T0 + VENOUS_DELAY))
    truth = _true_maps(values)
    ctp = np.full((SIDE, SIDE, len(values), n_frames), BACKGROUND, np.float32)
    unit = _unit_curves(times, RESIDUES[residue])  # (column, row, T) per ml/100 g/min
    for z, volume in enumerate(values):
        flow = 60 * volume / MTTS
        curves = (unit * flow[:, None, None]).repeat(TILE, axis=0).repeat(TILE, axis=1)
        ctp[: curves.shape[0], : curves.shape[1], z] = BASELINE + curves
    patches = [_patch(AIF_CORNER, AIF_PATCH, len(values)), _patch(VOF_CORNER, VOF_PATCH, len(values))]
    for voxels, curve in zip(patches, (PARTIAL_VOLUME * aif, vof), strict=True):
        ctp[tuple(voxels.T)] = (BASELINE + curve).astype(np.float32)
    if noise_hu:
        inside = ctp[..., 0] > BACKGROUND
        noise = np.random.default_rng(seed).standard_normal((inside.sum(), n_frames), dtype=np.float32)
        ctp[inside] += np.float32(noise_hu) * noise
    return Case(
        id=f"kudo_{residue}",
        ctp=ctp,
        dt=dt,
        affine=np.diag([1.0, 1.0, 5.0, 1.0]),  # our choice: the original states no voxel size
        brain=truth["cbf"] > 0,
        truth={"aif": aif, "vof": vof, **truth, "rater_voxels": patches[0], "rater_vof_voxels": patches[1]},
        notes=("This is the Kudo-compatible grid phantom, not an anatomy.",),
    )


def _checked(cbv, residue, dt, n_frames, noise_hu):
    values = np.atleast_1d(np.asarray(cbv, float))
    if values.ndim != 1 or not len(values) or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"cbv must be one or more positive numbers in ml/100 g; {cbv!r} came.")
    if residue not in RESIDUES:
        raise ValueError(f"The residue function is one of {', '.join(RESIDUES)}; {residue!r} came.")
    if not (np.isfinite(dt) and dt > 0):
        raise ValueError(f"dt must be a positive number of seconds; {dt!r} came.")
    if isinstance(n_frames, bool) or not isinstance(n_frames, int | np.integer) or n_frames < 10:
        raise ValueError(f"n_frames must be a whole number of at least 10; {n_frames!r} came.")
    if not (np.isfinite(noise_hu) and noise_hu >= 0):
        raise ValueError(f"noise_hu must be a standard deviation in HU, 0 or more; {noise_hu!r} came.")
    return values


def _unit_curves(times, family):
    """Tissue curves at the frame times per unit of flow: (columns, rows, T)."""
    fine = forward.STEP * np.arange(round(times[-1] / forward.STEP) + 2)
    rows = []
    for delay in DELAYS:
        aif = PEAK * forward.gamma_variate(fine, T0 + delay, ALPHA, BETA)
        curves = forward.tissue_curves(aif, MTTS, family)
        rows.append(np.stack([np.interp(times, fine, curve) for curve in curves]))
    return np.stack(rows, axis=1)


def _true_maps(values):
    shape = (SIDE, SIDE, len(values))
    maps = {name: np.zeros(shape, np.float32) for name in ("cbf", "cbv", "mtt", "delay")}
    extent = slice(0, TILE * len(MTTS))
    tiles = (extent, extent)
    maps["mtt"][tiles] = MTTS.repeat(TILE)[:, None, None]
    maps["delay"][tiles] = DELAYS.repeat(TILE)[None, :, None]
    maps["cbv"][tiles] = values
    maps["cbf"][tiles] = 60 * maps["cbv"][tiles] / maps["mtt"][tiles]
    return maps


def _patch(corner, side, n_slices):
    """All voxels (N, 3) of a square patch in every slice."""
    x, y, z = np.meshgrid(np.arange(side), np.arange(side), np.arange(n_slices), indexing="ij")
    return np.stack([x.ravel() + corner[0], y.ravel() + corner[1], z.ravel()], axis=1)
