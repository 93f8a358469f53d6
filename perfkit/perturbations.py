"""Changes of a scan that leave its tissue alone: another bolus, more noise, fewer frames, other slices.

A prepared scan is changed, not its series: preparing is the same for all arms, and what an arm makes of a
scan is the question. Masks, reference tissue and the level of the baseline stay those of the scan.
"""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np

from perfkit import augment, curves, phantom
from perfkit.preprocessing import Prepared
from perfkit.recipe import draw_recipe

AFTER_PEAK = 20.0  # s; our choice: the veins' first pass is over that long after the brain's mean peak
STRONG = 8000.0  # HU; our choice: of the VOF; arteries, up to thrice as high, still fit into int16
MASKS = ("brain", "tissue", "reference_tissue", "sides", "core", "final_infarct")
PERTURBATIONS: dict[str, tuple[str, dict]] = {  # label -> change and its options; issue: the asked-for table
    "bolus 8 s earlier": ("shift", {"seconds": -8.0}),
    "bolus 4 s earlier": ("shift", {"seconds": -4.0}),
    "bolus 4 s later": ("shift", {"seconds": 4.0}),
    "bolus 8 s later": ("shift", {"seconds": 8.0}),
    "contrast × 0.3": ("contrast", {"factor": 0.3}),
    "contrast × 3": ("contrast", {"factor": 3.0}),
    "bolus widened by 3 s": ("widen", {"width": 3.0}),
    "noise × 2": ("noise", {"factor": 2.0}),
    "scan ends at 45 s": ("truncate", {"seconds": 45.0}),
    "a frame every 2 s": ("interval", {"dt": 2.0}),
    "2 slices": ("slices", {"n": 2}),
    "16 slices": ("slices", {"n": 16}),
}


def perturb(prepared: Prepared, name: str, *, noise_free=None, seed: int = 0, **options) -> Prepared:
    """Change a scan in one way.

    Parameters
    ----------
    prepared : one scan
    name : the change, with its options:
        "shift" seconds= : the bolus, by whole frames and as far as it stays in the scan (``room``)
        "contrast" factor= : more or less contrast in the same noise
        "widen" width= : s, the bolus convolved with exp(−t/width)/width, in the same noise
        "noise" factor= : white noise added before smoothing, so that its standard deviation is that many
        times the scan's
        "truncate" seconds= : frames from there on are cut off
        "interval" dt= : s, every second (third, …) frame is kept; they stay smoothed as they were
        "slices" n= : that many from the middle of the stack, or slices repeated up to that many
    noise_free : (X, Y, Z, T), HU, optional: the concentration without its noise, of ``clean_contrast``
    seed : of noise that is added

    Returns
    -------
    Prepared

    Raises
    ------
    ValueError : no such change, or one that does not apply to this scan; the reason in words.
    TypeError : an option the change does not have, or one missing.

    Notes
    -----
    With ``noise_free`` a change of the bolus acts on it alone, c' = f(s) + (c − s), and the measured noise
    stays; a shift takes it along, around the ends, so that each voxel keeps the same noise under its bolus.
    Without it the whole curve is changed, and a shift repeats the first or the last frame; where the change
    lowers the noise, smoothed white noise brings it back to its level, and contrast is not raised, since the
    noise would rise with it.
    """
    check(name, options)
    shape = prepared.concentration.shape
    if noise_free is not None and np.shape(noise_free) != shape:
        raise ValueError(f"noise_free must have the scan's shape {shape}: {np.shape(noise_free)} came.")
    return _CHANGES[name](prepared, noise_free, seed, **options)


def check(name: str, options: dict) -> None:
    """Refuse a change that does not exist (ValueError), or options it does not have (TypeError)."""
    if name not in _CHANGES:
        raise ValueError(f"A change of a scan must be one of {', '.join(_CHANGES)}: {name!r} came.")
    known = list(inspect.signature(_CHANGES[name]).parameters)[3:]
    if set(options) != set(known):
        raise TypeError(f"{name!r} takes {', '.join(known)}: {', '.join(options) or 'nothing'} came.")


def room(prepared: Prepared, seconds: float) -> float:
    """Say how far the bolus can move towards ``seconds`` with all of it inside the scan: s, whole frames.

    Notes
    -----
    Earlier until the frames before the bolus (two seconds less than the onset of the brain's mean curve) are
    used up; later until the mean curve peaks 20 s before the last frame.
    """
    dt, n_frames = prepared.dt, prepared.concentration.shape[-1]
    peak = int(prepared.concentration[prepared.brain].mean(axis=0).argmax())
    latest = max(0, int(n_frames - 1 - peak - AFTER_PEAK / dt))
    return dt * float(np.clip(int(seconds / dt), -prepared.n_baseline, latest))


def clean_contrast(prepared: Prepared, seed: int, case: int, **options):
    """Make the concentration of a phantom scan without its noise, smoothed as the scan was.

    Parameters
    ----------
    prepared : the scan, prepared with default smoothing
    seed, case, options : of ``phantom.make_case``

    Returns
    -------
    (X, Y, Z, T), float32, HU: without noise, streaks, drift and motion; frame times jitter as the scan's do

    Notes
    -----
    Without noise, whole HU would make steps in weak curves: much stronger contrast is made and scaled down.
    """
    recipe = draw_recipe(seed, case, **options)
    silent = replace(recipe, vof_peak=STRONG, noise_hu=0.0, drift_hu=0.0, moved=())
    ctp = phantom.render(silent).ctp
    if ctp.shape != prepared.concentration.shape:
        raise ValueError(
            f"{prepared.id} must be scan {case} of seed {seed}: it has {prepared.concentration.shape}, "
            f"the phantom {ctp.shape} voxels and frames. Are seed, case and size those of cohort.json?"
        )
    baseline = ctp[..., : prepared.n_baseline].mean(axis=-1, dtype=np.float32)
    strong = curves.smooth(ctp, prepared.spacing, prepared.dt, mask=prepared.brain, baseline=baseline)
    return strong * np.float32(recipe.vof_peak / STRONG)


def _shift(scan, clean, seed, seconds):
    moved = room(scan, seconds)
    if not moved:
        raise ValueError(f"{scan.id}: the bolus has no room to move {'later' if seconds > 0 else 'earlier'}")
    frames = round(moved / scan.dt)
    found = _of_bolus(scan, clean, lambda c: augment.shift_bolus(c, frames), lambda n: np.roll(n, frames, -1))
    return replace(_with(scan, found), n_baseline=max(1, scan.n_baseline + frames))


def _contrast(scan, clean, seed, factor):
    _positive("The factor of contrast", factor)
    if clean is None and factor > 1:
        raise ValueError(
            f"{scan.id}: contrast × {factor:g} in the same noise needs the scan without any: give noise_free"
        )
    found = _of_bolus(scan, clean, lambda c: augment.scale_contrast(c, factor))
    if clean is None:
        found += np.float32(np.sqrt(1 - factor**2)) * _noise(scan, seed)
    return _with(scan, found)


def _widen(scan, clean, seed, width):
    _positive("The width", width)
    found = _of_bolus(scan, clean, lambda c: augment.broaden_bolus(c, width, scan.dt))
    if clean is None:
        noise = _noise(scan, seed)
        tiny = np.finfo(np.float32).tiny
        kept = augment.broaden_bolus(noise, width, scan.dt).var() / max(noise.var(), tiny)
        found += np.float32(np.sqrt(max(0.0, 1 - kept))) * noise
    return _with(scan, found)


def _add_noise(scan, clean, seed, factor):
    if not factor >= 1:
        raise ValueError(f"Noise can only be added: its factor must be at least 1, {factor!r} came.")
    added = np.float32(np.sqrt(factor**2 - 1)) * _noise(scan, seed)
    return _with(scan, scan.concentration[scan.brain] + added)


def _truncate(scan, clean, seed, seconds):
    _positive("The end of a scan", seconds)
    n_frames = int(np.ceil(seconds / scan.dt - 1e-6))
    if n_frames >= scan.concentration.shape[-1]:
        raise ValueError(f"{scan.id}: the scan has no frame after {seconds:g} s")
    return replace(scan, concentration=scan.concentration[..., :n_frames])


def _interval(scan, clean, seed, dt):
    _positive("The interval", dt)
    step = round(dt / scan.dt)
    if step < 2 or not np.isclose(step * scan.dt, dt):
        raise ValueError(f"{scan.id}: frames every {dt:g} s are no selection from frames every {scan.dt:g} s")
    kept = scan.concentration[..., ::step]
    return replace(scan, concentration=kept, dt=step * scan.dt, n_baseline=-(-scan.n_baseline // step))


def _slices(scan, clean, seed, n):
    n_slices = scan.brain.shape[2]
    if not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"A scan must have a whole number of slices, at least 1: {n!r} came.")
    if n == n_slices:
        raise ValueError(f"{scan.id}: the scan has {n} slices already")
    if n < n_slices:
        scale, first = 1.0, (n_slices - n) // 2
    else:
        scale, first = n_slices / n, (n_slices / n - 1) / 2
    kept = np.rint(first + scale * np.arange(n)).astype(int)
    to_old = np.diag([1.0, 1.0, scale, 1.0])
    to_old[2, 3] = first
    volumes = {name: getattr(scan, name) for name in ("concentration", "baseline", *MASKS)}
    volumes = {name: v if v is None else np.take(v, kept, axis=2) for name, v in volumes.items()}
    return replace(scan, affine=scan.affine @ to_old, spacing=scan.spacing * [1, 1, scale], **volumes)


_CHANGES = {
    "shift": _shift,
    "contrast": _contrast,
    "widen": _widen,
    "noise": _add_noise,
    "truncate": _truncate,
    "interval": _interval,
    "slices": _slices,
}


def _of_bolus(scan, clean, act, act_on_noise=np.asarray):
    """Change the contrast in the brain's curves, and only as told what is known to be noise: (V, T)."""
    measured = scan.concentration[scan.brain]
    if clean is None:
        return act(measured)
    signal = np.asarray(clean)[scan.brain]
    return act(signal) + act_on_noise(measured - signal)


def _noise(scan, seed):
    """Draw noise as the scan has it, smoothed and above its own baseline: (V, T), HU."""
    if not scan.tissue.any():
        raise ValueError(f"{scan.id}: there is no tissue to estimate the noise in")
    rng = np.random.default_rng([seed, *scan.id.encode()])
    white = rng.standard_normal(scan.concentration.shape, dtype=np.float32)
    made = curves.smooth(white, scan.spacing, scan.dt, mask=scan.brain)
    n, dt = scan.n_baseline, scan.dt
    level = [curves.noise_before_smoothing(c, scan.tissue, n, dt) for c in (scan.concentration, made)]
    noise = made[scan.brain] * np.float32(level[0] / level[1])
    return noise - noise[:, :n].mean(axis=1, keepdims=True)


def _with(scan, inside):
    concentration = np.zeros_like(scan.concentration)
    concentration[scan.brain] = inside
    return replace(scan, concentration=concentration)


def _positive(what, value):
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{what} must be positive: {value!r} came.")
