"""What a phantom is made of: every number drawn for a case, before any voxel is computed.

The distributions are those of 93 real arterial and venous curves and 94 scans of ISLES 2018
(docs/science.md §7). Whatever belongs to the patient (anatomy, vessels, tissue, lesion side and occlusion)
is equal in both slabs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# (slices, frames), patients with one slab, patients with two: the 63 patients of ISLES 2018 (data/reference).
ACQUISITIONS = (
    ((2, 43), 3, 6),
    ((2, 45), 0, 1),
    ((2, 46), 1, 14),
    ((2, 49), 1, 2),
    ((4, 43), 3, 4),
    ((4, 44), 8, 0),
    ((8, 49), 1, 4),
    ((16, 53), 9, 0),
    ((16, 64), 4, 0),
    ((22, 61), 2, 0),
)
# our choice: fewer slices where time is short, the longest scans still among them
SMALL_ACQUISITION = {(16, 53): (8, 53), (16, 64): (8, 60), (22, 61): (8, 60)}
TINY_ACQUISITION = ((2, 36), (3, 36), (2, 40))  # our choice: enough for a test

SIZES = {"tiny": 48, "small": 128, "full": 256}  # pixels per side
# our choice: a larger pixel averages neighbours whose noise is correlated by about .36
NOISE_SCALE = {"tiny": 0.4, "small": 0.68, "full": 1.0}

VOF_PEAK = (5.06, 0.50)  # LogN, HU; docs/science.md §7
AIF_FWHM = (2.49, 0.27)  # LogN, s
ONSET = (7.6, 3.7, 3.0, 15.0)  # mean, sd, limits, s
ONSET_FWHM_CORRELATION = 0.61
RISE = (8.7, 2.0)  # s, onset to peak
RISE_FWHM_CORRELATION = 0.85  # our choice: a gamma-variate's rise is .5-.9 of its width
VENOUS_LAG = (6.5, 1.8)  # s, VOF peak behind AIF peak
VENOUS_WIDENING = (0.165, 0.167)  # LogN, FWHM ratio
PARTIAL_VOLUME = (-1.23, 0.62)  # LogN, area of the measured AIF over the VOF's
LESION_ML = (2.81, 1.09)  # LogN through the observed 2.7/16.6/97 ml
SMALLEST_LESION_ML = 0.78  # ISLES 2018
RESIDUES = (("exponential", 0.40), ("gamma", 0.30), ("box", 0.15), ("linear", 0.15))
OCCLUSIONS = (("M1", 0.60), ("M2", 0.25), ("ICA", 0.15))
OCCLUSION_LIMITS = (-0.674, 1.036)  # normal quantiles of .25 and .85
VOLUME_OCCLUSION = (
    0.7  # our choice: correlation; a large lesion has a proximal occlusion and room to be large
)
MOTION_RATE = 0.05
SCAN_SHARE = 0.5  # our choice: share of the lesion volume's (log) variance between the slabs of one patient
# Penumbra over core, LogN; our choice: median mismatch ratio 2.5, most cases above DEFUSE 3's 1.8.
MISMATCH = (0.9, 0.45)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All drawn numbers of one scan; ``head_seed`` and ``scan_seed`` give what is drawn per voxel."""

    case: int
    patient: int
    slab: str
    size: str
    head_seed: tuple[int, ...]
    scan_seed: tuple[int, ...]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]  # mm
    offset: tuple[float, float, float]  # mm, patient coordinates of the grid's middle
    n_frames: int
    dt: float  # s
    vof_peak: float  # HU, as sampled
    fwhm: float
    onset: float
    rise: float
    lag: float
    widening: float
    second: float
    second_lag: float
    plateau: float
    jitter: float  # s, half-width of the frame times' uniform error
    residue: str
    residue_shape: float
    dispersion: float  # s, in the affected territory
    gm: tuple[float, float]  # CBF, CBV of healthy tissue, ml/100 g/min and ml/100 g
    wm: tuple[float, float]
    hu: tuple[float, float, float]  # baseline of GM, WM, CSF
    skull_hu: float
    side: int  # +1: the lesion lies at x > 0
    occlusion: str
    core_ml: float
    mismatch: float
    severity_z: float  # depth of the core among cases, standard normal
    label_z: float  # noise of the DWI-like label among cases, standard normal
    collateral_delay: float  # s, of distal arteries in the lesion
    partial_volume: float  # of the rater's artery
    psf_px: float
    noise_hu: float
    drift_hu: float
    moved: tuple[tuple[int, float, float, float], ...]  # frame, shift x and y in mm, turn in degrees

    def bolus(self) -> dict:
        """The arguments of ``forward.Bolus``."""
        names = ("vof_peak", "fwhm", "onset", "rise", "lag", "widening", "second", "second_lag", "plateau")
        return {name: getattr(self, name) for name in names}


def draw_recipe(
    seed: int,
    case: int = 1,
    *,
    size: str = "small",
    n_slices: int | None = None,
    n_frames: int | None = None,
    dt: float = 1.0,
) -> Recipe:
    """Draw one scan of the cohort ``seed``; the same arguments give the same recipe, whatever else is drawn.

    Parameters
    ----------
    seed : of the cohort.
    case : number of the scan, from 1; the cohort of 94 has exactly the 63 patients of ISLES 2018.
    size : "tiny", "small" or "full".
    n_slices, n_frames, dt : instead of the drawn acquisition; dt in s.
    """
    patient, slab, two_slabs, (slices, frames) = _acquisition(seed, case, size)
    slices, drawn_frames = n_slices or slices, frames
    frames = n_frames or max(10, round(drawn_frames / dt))
    ours = np.random.default_rng([seed, patient, 0])
    scan = np.random.default_rng([seed, patient, 1 + slab])
    volume_z = ours.standard_normal()
    patient_values = _draw_patient(ours, volume_z)
    volume_z = np.sqrt(1 - SCAN_SHARE) * volume_z + np.sqrt(SCAN_SHARE) * scan.standard_normal()
    core_ml = max(SMALLEST_LESION_ML, np.exp(LESION_ML[0] + LESION_ML[1] * volume_z))
    return Recipe(
        case=case,
        patient=patient,
        slab="AB"[slab],
        size=size,
        head_seed=(seed, patient, 10),
        scan_seed=(seed, patient, 20 + slab),
        n_frames=frames,
        dt=float(dt),
        core_ml=float(core_ml),
        **_draw_grid(ours, size, slices, slab, two_slabs),
        **patient_values,
        **_draw_bolus(scan, frames * dt),
        **_draw_scanner(scan, size, frames),
    )


def _acquisition(seed: int, case: int, size: str):
    """Patient, slab, whether there are two, (slices, frames) of a scan: blocks of 63 shuffled patients."""
    patients = [(scan, two) for scan, one, pairs in ACQUISITIONS for two in [False] * one + [True] * pairs]
    block, position = divmod(case - 1, sum(1 + two for _, two in patients))
    order = np.random.default_rng([seed, block, 77]).permutation(len(patients))
    first = 0
    number = 0
    while position > first + patients[order[number]][1]:
        first += 1 + patients[order[number]][1]
        number += 1
    scan, two = patients[order[number]]
    patient = block * len(patients) + number + 1
    if size == "tiny":
        scan = TINY_ACQUISITION[patient % len(TINY_ACQUISITION)]
    elif size == "small":
        scan = SMALL_ACQUISITION.get(scan, scan)
    return patient, position - first, two, scan


def _draw_grid(rng, size, slices, slab, two_slabs):
    side = SIZES[size]
    pixel = rng.uniform(0.8, 1.0) * 256 / side  # mm; docs/science.md §7.1
    thickness = rng.uniform(10, 12) if slices < 4 else 5.0 if slices < 22 else rng.uniform(5, 6)
    cover = slices * thickness
    # our choice: the only or lower slab lies over the basal ganglia, a large one a little higher
    middle = (
        rng.normal(8 + max(0.0, 0.25 * (cover - 24)), 5) + (cover if slab else 0) - (4 if two_slabs else 0)
    )
    offset = (rng.normal(0, 3), -18 + rng.normal(0, 3), middle)
    return {
        "shape": (side, side, slices),
        "spacing": (float(pixel), float(pixel), float(thickness)),
        "offset": tuple(float(v) for v in offset),
    }


def _draw_patient(rng, volume_z: float):
    flow = rng.lognormal(0, 0.15)  # docs/science.md §7.2: global factor
    side = int(rng.choice((-1, 1)))
    occlusion_z = VOLUME_OCCLUSION * volume_z + np.sqrt(1 - VOLUME_OCCLUSION**2) * rng.standard_normal()
    proximal = sum(occlusion_z > np.array(OCCLUSION_LIMITS))
    residues, residue_shares = zip(*RESIDUES, strict=True)

    def tissue(cbf, cbf_sd, cbv, cbv_sd):
        return (
            float(flow * cbf + flow * cbf_sd * np.clip(rng.standard_normal(), -2, 2)),
            float(flow * cbv + flow * cbv_sd * np.clip(rng.standard_normal(), -2, 2)),
        )

    return {
        "gm": tissue(53, 8, 3.3, 0.5),
        "wm": tissue(25, 4, 1.9, 0.3),
        "hu": tuple(float(m + np.clip(rng.normal(0, 3), -5, 5)) for m in (35, 29, 12)),
        "skull_hu": float(rng.uniform(650, 1150)),
        "side": side,
        "occlusion": ("M2", "M1", "ICA")[proximal],
        "residue": str(rng.choice(residues, p=residue_shares)),
        "residue_shape": float(rng.uniform(2, 3)),
        "dispersion": float(rng.uniform(0, 2)),
        "mismatch": float(rng.lognormal(*MISMATCH)),
        "severity_z": float(np.clip(rng.standard_normal(), -2, 2)),
        "label_z": float(np.clip(rng.standard_normal(), -2, 2)),
        "collateral_delay": float(rng.uniform(2, 6)),
    }


def _draw_bolus(rng, duration: float):
    width_z, onset_z, rise_z = rng.standard_normal(3)
    fwhm = np.exp(AIF_FWHM[0] + AIF_FWHM[1] * width_z)
    r = ONSET_FWHM_CORRELATION
    onset = np.clip(ONSET[0] + ONSET[1] * (r * width_z + np.sqrt(1 - r**2) * onset_z), *ONSET[2:])
    r = RISE_FWHM_CORRELATION
    rise = RISE[0] + RISE[1] * (r * width_z + np.sqrt(1 - r**2) * rise_z)
    fwhm = min(fwhm, 0.45 * duration)  # our choice: in a short scan a bolus that still fits
    onset = min(onset, 0.35 * duration)
    return {
        "vof_peak": float(np.exp(VOF_PEAK[0] + VOF_PEAK[1] * np.clip(rng.standard_normal(), -2.5, 2.5))),
        "fwhm": float(fwhm),
        "onset": float(onset),
        "rise": float(np.clip(rise, 0.5 * fwhm, 0.86 * fwhm)),  # what gamma-variates can do
        "lag": float(max(2.0, rng.normal(*VENOUS_LAG))),
        "widening": float(max(1.03, np.exp(VENOUS_WIDENING[0] + VENOUS_WIDENING[1] * rng.standard_normal()))),
        "second": float(rng.uniform(0.15, 0.30)),
        "second_lag": float(rng.uniform(12, 18)),
        "plateau": float(rng.uniform(0.05, 0.10)),
    }


def _draw_scanner(rng, size, frames):
    moved = ()
    if rng.uniform() < MOTION_RATE:
        # our choice: motion comes late, when the patient feels the contrast
        start = int(rng.integers(frames // 3, frames - 4))
        moved = tuple(
            (start + k, *(float(v) for v in rng.uniform(-1, 1, 3) * (1.4, 1.4, 2.0)))
            for k in range(rng.integers(1, 5))
        )
    return {
        "jitter": 0.1,  # s; docs/science.md §7.7
        "partial_volume": float(
            min(0.95, np.exp(PARTIAL_VOLUME[0] + PARTIAL_VOLUME[1] * rng.standard_normal()))
        ),
        "psf_px": float(rng.uniform(0.5, 0.8)),
        "noise_hu": float(NOISE_SCALE[size] * rng.uniform(2, 5)),
        "drift_hu": float(rng.uniform(-1, 1)),
        "moved": moved,
    }
