"""A cohort of digital stroke patients whose truth is known: ISLES 2018 look-alikes with realistic boluses.

A recipe (``recipe``) says what is drawn; here it becomes voxels. Each voxel's curve is mixed from those of
grey matter, white matter, arteries and veins by volume, made by the forward model of ``forward`` and never by
the deconvolution under test. The scanner's blur acts on the volume fractions, which is the same for a linear
mixture whose flows vary slowly over a pixel.
"""

from __future__ import annotations

import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from perfkit import anatomy, forward, layout, lesion, parallel, scanner
from perfkit.case import Case
from perfkit.recipe import SIZES, Recipe, draw_recipe

VERSION = 1  # of what a seed means; a change here makes other phantoms
FLOW_FIELD = (40.0, 0.10)  # docs/science.md §7.2: low-frequency field; length in mm: our choice
ARTERIAL_DELAY = (0.0, 1.5)  # s; docs/science.md §7.3


def make_case(
    seed: int,
    case: int = 1,
    *,
    size: str = "small",
    n_slices: int | None = None,
    n_frames: int | None = None,
    dt: float = 1.0,
    noise: bool = True,
) -> Case:
    """Make one phantom scan in memory, with its truth.

    Parameters
    ----------
    seed : of the cohort.
    case : number of the scan in the cohort, from 1.
    size : "tiny" (48 × 48, for tests), "small" (128 × 128) or "full" (256 × 256).
    n_slices, n_frames, dt : instead of the drawn acquisition; dt in s.
    noise : False leaves out noise, streaks, drift, motion and frame-time jitter.

    Returns
    -------
    Case with ``core`` = the DWI-like label and ``truth``: aif, vof (T,) HU; frame_times (T,) s; cbf, cbv,
    mtt, delay (X, Y, Z) of the tissue in a voxel; core (physiological) and penumbra (X, Y, Z) bool;
    rater_voxels and rater_vof_voxels (n, 3), what a simulated rater picked.

    Examples
    --------
    >>> make_case(0, size="tiny").ctp.shape[:2]
    (48, 48)
    """
    recipe = draw_recipe(
        *_checked(seed, case, size, n_slices, n_frames, dt),
        size=size,
        n_slices=n_slices,
        n_frames=n_frames,
        dt=dt,
    )
    if not noise:
        recipe = replace(recipe, noise_hu=0.0, drift_hu=0.0, moved=(), jitter=0.0)
    return render(recipe)


def _checked(seed, case, size, n_slices, n_frames, dt, what="case"):
    if not isinstance(size, str) or size not in SIZES:
        raise ValueError(f"A phantom's size is one of {', '.join(SIZES)}; {size!r} came.")
    for name, value, least in (
        ("seed", seed, 0),
        (what, case, 1),
        ("n_slices", n_slices, 1),
        ("n_frames", n_frames, 10),
    ):
        if value is None and name.startswith("n_"):
            continue
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} must be a whole number; {value!r} came.")
        if value < least:
            raise ValueError(f"{name} must be at least {least}; {value} came.")
    if isinstance(dt, bool) or not isinstance(dt, int | float | np.number):
        raise TypeError(f"dt must be a number of seconds; {dt!r} came.")
    if not 0.1 <= dt <= 5:
        raise ValueError(f"dt must lie between 0.1 and 5 s, as in a perfusion scan; {dt:g} came.")
    return int(seed), int(case)


@dataclass(frozen=True)
class _Blood:
    """Vessels and perfusion of a scan, all (X, Y, Z) float32."""

    artery: np.ndarray
    artery_delay: np.ndarray
    vein: np.ndarray
    vein_delay: np.ndarray
    gm_flow: np.ndarray  # ml/100 g/min times volume fraction
    wm_flow: np.ndarray
    gm_mtt: np.ndarray
    wm_mtt: np.ndarray
    delay: np.ndarray
    severity: np.ndarray


def render(recipe: Recipe) -> Case:
    """Compute the scan a recipe describes."""
    head = anatomy.Head(np.random.default_rng(recipe.head_seed))
    fields = np.random.default_rng((*recipe.head_seed, 1))  # of the patient, equal in both slabs
    rng = np.random.default_rng(recipe.scan_seed)
    grid = _grid(recipe)
    thickness = recipe.spacing[2]
    tissue = anatomy.tissue_fractions(head, *grid, thickness)
    tissue = anatomy.Tissue(*(_blurred(part, recipe) for part in vars(tissue).values()))
    brain = tissue.envelope > 0.5
    blood, risk = _blood(recipe, head, tissue, brain, grid, fields)
    solid = brain & (tissue.gm + tissue.wm > 0.5)
    core, penumbra = lesion.core_and_penumbra(blood.severity, blood.delay, solid)
    boundary, fate = (
        anatomy.SmoothField(fields, length).grid(*grid)
        for length in (lesion.BOUNDARY_LENGTH_MM, lesion.FATE_LENGTH_MM)
    )
    unsure = np.exp(lesion.BOUNDARY_NOISE[0] + lesion.BOUNDARY_NOISE[1] * recipe.label_z)
    label = lesion.dwi_like(core, solid & (risk > 0.02), recipe.spacing, unsure, boundary, fate, rng)
    times = _frame_times(recipe, rng)
    aif, vof = _bolus_curves(recipe, times)
    picks = _picks(recipe, blood, brain, rng)
    ctp = _series(recipe, tissue, blood, aif, vof, times, rng)
    affine = np.diag([*recipe.spacing, 1.0])
    affine[:3, 3] = [axis[0] for axis in grid]
    at_frames = [np.interp(times, forward.STEP * np.arange(len(c)), c).astype(np.float32) for c in (aif, vof)]
    return Case(
        id=f"case_{recipe.case}",
        patient=f"patient_{recipe.patient}",
        ctp=ctp,
        dt=recipe.dt,
        affine=affine,
        brain=brain,
        core=label,
        truth={
            "aif": at_frames[0],
            "vof": at_frames[1],
            "frame_times": times,
            **_truth_maps(blood, brain),
            "core": core,
            "penumbra": penumbra,
            "rater_voxels": picks[0],
            "rater_vof_voxels": picks[1],
        },
        notes=("This is a phantom: every number was drawn, none was measured.",),
    )


def _grid(recipe):
    return [
        o + step * (np.arange(n) - (n - 1) / 2)
        for o, step, n in zip(recipe.offset, recipe.spacing, recipe.shape, strict=True)
    ]


def _blurred(volume, recipe):
    """Blur in the plane by the scanner's point spread function."""
    sigma = recipe.psf_px
    return ndimage.gaussian_filter(volume, (sigma, sigma, 0), truncate=3, mode="nearest")


def _blood(recipe, head, tissue, brain, grid, fields):
    thickness = recipe.spacing[2]
    vessels = []
    for veins in (False, True):
        fraction, delay = anatomy.vessel_fractions(head, *grid, thickness, veins=veins)
        amount = _blurred(fraction, recipe)
        vessels += [amount, _blurred(fraction * delay, recipe) / np.maximum(amount, 1e-6)]
    artery, artery_delay, vein, vein_delay = vessels
    q = head.to_template(*grid)
    lesion_rng = np.random.default_rng((*recipe.head_seed, 2))
    textures = [anatomy.SmoothField(fields, length).grid(*grid) for length, _ in lesion.TEXTURE]
    level, risk = lesion.potential(
        q, recipe.side, recipe.occlusion, anatomy.territory(*q), textures, lesion_rng
    )
    solid = brain & (tissue.gm + tissue.wm > 0.5)
    voxel_ml = np.prod(recipe.spacing) / 1000
    profile = np.exp(lesion.CORE_PROFILE[0] + lesion.CORE_PROFILE[1] * recipe.severity_z)
    s = lesion.severity(level, risk, solid, voxel_ml, recipe.core_ml, recipe.mismatch, profile)
    s = s * brain
    flow = 1 + FLOW_FIELD[1] * np.clip(anatomy.SmoothField(fields, FLOW_FIELD[0]).grid(*grid), -2.5, 2.5)
    flow = flow * (1 - lesion.LOSS * s) * (1 - np.minimum(artery + vein, 1)) * brain
    late = np.clip(0.5 + 0.25 * anatomy.SmoothField(fields, FLOW_FIELD[0]).grid(*grid), 0, 1)
    low, high = ARTERIAL_DELAY
    healthy_mtt = [60 * cbv / cbf for cbf, cbv in (recipe.gm, recipe.wm)]
    blood = _Blood(
        artery=artery,
        artery_delay=artery_delay + recipe.collateral_delay * np.minimum(s / lesion.PENUMBRA_EDGE, 1),
        vein=vein,
        vein_delay=vein_delay,
        gm_flow=tissue.gm * flow * np.float32(recipe.gm[0]),
        wm_flow=tissue.wm * flow * np.float32(recipe.wm[0]),
        gm_mtt=lesion.slowed(healthy_mtt[0], s),
        wm_mtt=lesion.slowed(healthy_mtt[1], s),
        delay=((low + (high - low) * late + lesion.lesion_delay(s)) * brain).astype(np.float32),
        severity=s,
    )
    return blood, risk


def _truth_maps(blood, brain):
    cbf = blood.gm_flow + blood.wm_flow
    cbv = (blood.gm_flow * blood.gm_mtt + blood.wm_flow * blood.wm_mtt) / 60
    mtt = np.where(cbf > 0.5, 60 * cbv / np.maximum(cbf, 0.5), 0)
    maps = {"cbf": cbf, "cbv": cbv, "mtt": mtt, "delay": blood.delay}
    return {name: (volume * brain).astype(np.float32) for name, volume in maps.items()}


def _frame_times(recipe, rng):
    times = recipe.dt * np.arange(recipe.n_frames)
    times[1:] += recipe.jitter * rng.uniform(-1, 1, recipe.n_frames - 1)
    return np.maximum(times, 0)


def _bolus_curves(recipe, times):
    """AIF and VOF in HU on the fine grid, the sampled VOF peaking at the drawn height."""
    bolus = forward.Bolus(**recipe.bolus())
    n = round((times[-1] + 1.5) / forward.STEP) + 1  # veins may run 1 s ahead
    aif = forward.arterial_input(bolus, n)
    vof = forward.venous_output(bolus, aif)
    scale = recipe.vof_peak / np.interp(times, forward.STEP * np.arange(n), vof).max()
    return scale * aif, scale * vof


def _series(recipe, tissue, blood, aif, vof, times, rng):
    """The series (X, Y, Z, T) int16, slice by slice; each slice has its own stream of noise."""
    table = forward.CurveTable(times)
    residue = (recipe.residue, recipe.residue_shape)
    first = {
        "healthy": table.add(forward.tissue_curves(aif, table.MTT, *residue)),
        "ill": table.add(forward.tissue_curves(aif, table.MTT, *residue, recipe.dispersion)),
        "artery": table.add(aif[None]),
        "vein": table.add(vof[None]),
    }
    x, y, z = recipe.shape
    out = np.empty((recipe.n_frames, z, y, x), np.int16)  # its transpose is what a NIfTI file holds
    drift = np.linspace(0, recipe.drift_hu, recipe.n_frames, dtype=np.float32)
    for k in range(z):
        noise = np.random.default_rng((*recipe.scan_seed, 100 + k))
        frames = _contrast(k, table, first, blood, recipe)
        slice_ = {name: part[:, :, k].T for name, part in vars(tissue).items()}
        blood_volume = np.minimum(blood.artery + blood.vein, 1)[:, :, k].T
        frames += scanner.baseline(slice_, blood_volume, recipe.hu, recipe.skull_hu)
        frames += drift[:, None, None]
        for frame, *motion in recipe.moved:
            frames[frame] = scanner.moved(frames[frame], motion, recipe.spacing)
        scanner.add_noise(frames, slice_, recipe.noise_hu, recipe.spacing[0], noise)
        out[:, k] = np.rint(frames, out=frames)
    return out.T


def _contrast(k, table, first, blood, recipe):
    """Enhancement of slice k: (T, Y, X)."""
    part = {name: np.ascontiguousarray(volume[:, :, k].T).ravel() for name, volume in vars(blood).items()}
    frames = np.zeros((len(table.times), recipe.shape[1] * recipe.shape[0]), np.float32)
    wet = np.flatnonzero(part["gm_flow"] + part["wm_flow"] > 0)
    p = {name: values[wet] for name, values in part.items()}
    block = np.where(p["severity"] > 0, first["ill"], first["healthy"])
    terms = []
    for kind in ("gm", "wm"):
        index, weight = table.lookup(block, p["delay"], p[f"{kind}_mtt"])
        terms.append((index, weight * p[f"{kind}_flow"][:, None]))
    frames[:, wet] = table.mix(terms).T
    for kind in ("artery", "vein"):
        wet = np.flatnonzero(part[kind] > 1e-3)
        index, weight = table.lookup(first[kind], part[f"{kind}_delay"][wet])
        frames[:, wet] += table.mix([(index, weight * part[kind][wet][:, None])]).T
    return frames.reshape(-1, recipe.shape[1], recipe.shape[0])


def _picks(recipe, blood, brain, rng):
    artery = np.where(brain & (blood.severity < 0.3), blood.artery, 0)
    if not artery.any():  # none in this slab: the earliest and best perfused tissue will do
        artery = (blood.gm_flow + blood.wm_flow) * np.exp(-blood.delay) / 1000
    vein = blood.vein * (blood.vein_delay > -0.4)
    return scanner.simulated_rater(artery, blood.artery_delay, vein, recipe.partial_volume, rng)


def write_cohort(
    folder: str | Path,
    n: int,
    seed: int = 0,
    *,
    size: str = "small",
    n_slices: int | None = None,
    n_frames: int | None = None,
    dt: float = 1.0,
    compress: bool = True,
    five_d: float = 0.0,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Write a phantom cohort in the ISLES 2018 layout, its truth beside it; take up an interrupted run.

    Parameters
    ----------
    folder : where; new, empty, or holding the same cohort.
    n : number of scans; a finished cohort grows when n does. About half of the patients have two.
    seed, size, n_slices, n_frames, dt : as in ``make_case``.
    compress : write .nii.gz; False: .nii.
    five_d : share of the series stored as (X, Y, Z, 1, T), as some of ISLES 2018 are.
    workers : cases made at the same time; default: one per core, at most 4.
    progress : show a bar.

    Returns
    -------
    The folder. Its files do not depend on ``workers``.
    """
    _checked(seed, n, size, n_slices, n_frames, dt, what="n")
    if not 0 <= five_d <= 1:
        raise ValueError(f"five_d is a share between 0 and 1; {five_d} came.")
    workers = min(parallel.usable_cores(), parallel.MOST_WORKERS) if workers is None else workers
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers must be a whole number of at least 1; {workers!r} came.")
    acquisition = {"size": size, "n_slices": n_slices, "n_frames": n_frames, "dt": float(dt)}
    options = {"seed": int(seed), **acquisition, "compress": bool(compress), "five_d": float(five_d)}
    folder = layout.open_for(folder, n, {"made_by": "perfkit.phantom", "version": VERSION, **options})
    recipes = [draw_recipe(seed, case, **acquisition) for case in range(1, n + 1)]
    anatomy.template()  # once, before the threads ask for it
    anatomy.vessel_tree()
    picks = _write_cases(folder, recipes, compress, five_d, workers, progress)
    layout.write_patients(folder, [(f"case_{r.case}", f"patient_{r.patient}", r.slab) for r in recipes])
    _write_picks(folder / "aif" / "simulated-rater.csv", picks)
    layout.write_json(
        folder / "cohort.json",
        {"made_by": "perfkit.phantom", "version": VERSION, **options, "n": n, "finished": True},
    )
    return folder


def _write_cases(folder, recipes, compress, five_d, workers, progress):
    """Make and write the cases that are not there yet; return case id -> rater's voxels of all."""
    from tqdm.auto import tqdm

    def work(recipe):
        drawn = json.loads(json.dumps(asdict(recipe)))
        truth = layout.finished(folder, f"case_{recipe.case}", drawn)
        if truth is None:
            stored_5d = np.random.default_rng((*recipe.scan_seed, 3)).uniform() < five_d
            truth = layout.write_case(folder, render(recipe), recipe.case, drawn, compress, stored_5d)
        return f"case_{recipe.case}", truth

    # Threads, not processes: the heavy steps release the interpreter and all share one template.
    pool = ThreadPoolExecutor(workers)
    try:
        done = pool.map(work, recipes)
        bar = tqdm(done, total=len(recipes), desc="phantom", unit="scan", disable=not progress)
        return {case: (truth["rater_voxels"], truth["rater_vof_voxels"]) for case, truth in bar}
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the cases in hand, not for the whole cohort


def _write_picks(path, picks):
    from perfkit.annotations import Pick, append

    path.parent.mkdir(exist_ok=True)
    # A folder of its own takes the lock of the draft away as well.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        draft = Path(folder) / path.name
        for case, (voxels, vof_voxels) in picks.items():
            append(
                draft,
                Pick(
                    case=case,
                    voxels=tuple(map(tuple, voxels)),
                    vof_voxels=tuple(map(tuple, vof_voxels)),
                    time="2020-10-04T00:00:00+00:00",  # fixed, so that the same seed gives the same bytes
                    comment="simulated",
                ),
            )
        os.replace(draft, path)
