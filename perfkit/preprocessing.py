"""From a case to what every arm starts with: smoothed concentration, masks and reference tissue."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

import perfkit
from perfkit import brain, curves, gamma, masks, midline, parallel
from perfkit.case import Case

FEW_BASELINE_FRAMES = 3  # our choice: below, the baseline's own noise is over half a frame's
MEAN_CURVE_VOXELS = (
    20_000  # our choice: their mean has 1/140 of a voxel's noise, all brain costs 5 times more
)


@dataclass(frozen=True, eq=False)
class Prepared:
    """One scan, ready for AIFs and maps; the same for all arms.

    ``concentration`` is (X, Y, Z, T), float32, HU above ``baseline``, smoothed inside ``brain`` and 0
    outside. ``tissue`` is the brain without vessels and CSF; ``sides`` is −1 and +1 for the
    hemispheres, 0 outside; ``lesion_side`` is the estimated one, 0 where no side stands out.
    ``core`` and ``final_infarct`` are the case's, None where unknown; the infarct at follow-up is no core.
    """

    id: str
    patient: str
    concentration: np.ndarray
    baseline: np.ndarray
    brain: np.ndarray
    tissue: np.ndarray
    reference_tissue: np.ndarray
    sides: np.ndarray
    lesion_side: int
    dt: float
    spacing: np.ndarray
    affine: np.ndarray
    core: np.ndarray | None
    n_baseline: int
    notes: tuple[str, ...] = ()
    final_infarct: np.ndarray | None = None

    @property
    def times(self):
        """(T,), s: time of each frame, the first being 0."""
        return self.dt * np.arange(self.concentration.shape[-1])

    @property
    def frame_noise(self) -> float | None:
        """HU, white noise of the frames in tissue (``curves``); None with fewer than 2 before the bolus."""
        if self.n_baseline < 2:
            return None
        return curves.noise_before_smoothing(self.concentration, self.tissue, self.n_baseline, self.dt)


def prepare(
    case: Case,
    *,
    sigma_mm: float = curves.SIGMA_MM,
    sigma_s: float = curves.SIGMA_S,
    reference: str = "contralateral",
) -> Prepared:
    """Smooth a case in space and time and find its tissue and reference tissue, without any AIF.

    Paper: Experiments, preprocessing.

    Parameters
    ----------
    case : one scan.
    sigma_mm, sigma_s : standard deviations of the in-plane and the temporal Gaussian; 0 for none.
    reference : a convention of ``masks.find_reference``.

    Returns
    -------
    Prepared. Nothing else in it depends on the core or the infarct.
    """
    ctp, spacing = case.ctp, case.spacing
    mean = mean_curve(ctp, case.brain)
    n = curves.n_baseline(mean, case.dt)
    notes = case.notes
    if n < FEW_BASELINE_FRAMES:
        notes += (f"The bolus comes early: the baseline rests on {n} frame{'s' if n > 1 else ''}.",)
    baseline = ctp[..., :n].mean(axis=-1, dtype=np.float32)
    concentration = curves.smooth(
        ctp, spacing, case.dt, mask=case.brain, baseline=baseline, sigma_mm=sigma_mm, sigma_s=sigma_s
    )
    found = masks.find_reference(concentration, baseline, case.brain, spacing, case.dt, convention=reference)
    return Prepared(
        id=case.id,
        patient=case.patient,
        concentration=concentration,
        baseline=baseline,
        brain=case.brain,
        tissue=found.tissue,
        reference_tissue=found.mask,
        sides=found.sides,
        lesion_side=found.lesion_side,
        dt=case.dt,
        spacing=spacing,
        affine=case.affine,
        core=case.core,
        n_baseline=n,
        notes=notes + found.notes,
        final_infarct=case.final_infarct,
    )


def mean_curve(ctp, mask):
    """Return the mean curve over an even sample of a mask's voxels.

    Parameters
    ----------
    ctp : (X, Y, Z, T).
    mask : (X, Y, Z), bool, not empty.

    Returns
    -------
    (T,), float64.
    """
    voxels = np.flatnonzero(mask)
    sample = voxels[:: max(1, len(voxels) // MEAN_CURVE_VOXELS)]
    return ctp[np.unravel_index(sample, mask.shape)].mean(axis=0, dtype=float)


@dataclass
class PreparedCohort:
    """Prepared scans and what could not be prepared.

    Attributes
    ----------
    scans : dict from case id to Prepared
    failures : dict from case id to the reason
    kept : dict from case id to what ``keep`` made of the scan
    """

    scans: dict[str, Prepared] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    kept: dict[str, object] = field(default_factory=dict)


def prepare_cohort(cohort, *, cache=None, tell=None, keep=None, **options) -> PreparedCohort:
    """Prepare every scan; a broken one is reported and the others go on.

    Parameters
    ----------
    cohort : datasets.Cohort
    cache : folder for the prepared scans; None: prepare anew, which is as fast as reading them back
    tell : called with the case id after each scan
    keep : called with each Case and its Prepared while the series is in memory, in several threads; what it
        returns stands in ``kept``, so that no series is read twice; where it fails, the scan's notes say so
    options : as for ``preprocessing.prepare``

    Returns
    -------
    PreparedCohort
    """

    def prepared(scan):
        try:
            case = scan.load()
            found = prepare_cached(case, cache, **options) if cache else prepare(case, **options)
        except (OSError, ValueError) as error:
            return str(error), None
        try:
            return found, keep(case, found) if keep else None
        except (OSError, ValueError) as error:  # the scan itself is sound
            return replace(found, notes=(*found.notes, f"Nothing was kept of it: {error}")), None

    result = PreparedCohort()
    for scan, (found, kept) in zip(cohort.scans, parallel.each(prepared, cohort.scans), strict=True):
        if isinstance(found, str):
            result.failures[scan.id] = found
        else:
            result.scans[scan.id] = found
            if kept is not None:
                result.kept[scan.id] = kept
        if tell:
            tell(scan.id)
    return result


def prepare_cached(case: Case, folder, **options) -> Prepared:
    """Prepare a case, or read it back where the same was prepared before.

    Parameters
    ----------
    case, options : as for ``prepare``.
    folder : where the files lie; made if missing.

    Returns
    -------
    Prepared.

    Notes
    -----
    The file's name holds a hash of the case's arrays, the options, the package's version and the
    code that prepares, so a stale one is never read; a damaged one is made again. It appears under
    its name only when it is whole.
    """
    folder = Path(folder)
    path = folder / f"{case.id}-{_key(case, options)}.npz"
    try:
        return _load(path)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        pass  # not there, or not whole
    prepared = prepare(case, **options)
    folder.mkdir(parents=True, exist_ok=True)
    _save(path, prepared)
    return prepared


def _key(case, options) -> str:
    digest = hashlib.sha256()
    facts = (case.id, case.patient, case.dt, case.affine.tolist(), case.notes, sorted(options.items()))
    digest.update(repr((perfkit.__version__, facts)).encode())
    for role in ("ctp", "brain", "core", "final_infarct"):
        if (array := getattr(case, role)) is not None:
            # NIfTI series are stored time slowest: the transpose is then contiguous, and not copied.
            stored = array.T if array.flags.f_contiguous else array
            digest.update(f"{role}{array.shape}{array.dtype}{array.flags.f_contiguous}".encode())
            digest.update(np.ascontiguousarray(stored).data)
    for module in (brain, curves, gamma, masks, midline):
        digest.update(Path(module.__file__).read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()[:20]


def _save(path: Path, prepared: Prepared) -> None:
    values = {f.name: getattr(prepared, f.name) for f in fields(prepared)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in values.items() if name not in arrays}
    arrays["concentration"] = prepared.concentration[prepared.brain]  # 0 elsewhere
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
        try:
            np.savez(file, plain=np.array(json.dumps(plain)), **arrays)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            file.close()
            os.unlink(file.name)
            raise


def _load(path: Path) -> Prepared:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
        values = dict(stored)
    values.update(json.loads(str(values.pop("plain"))))
    values["notes"] = tuple(values["notes"])
    inside, shape = values["concentration"], values["brain"].shape
    values["concentration"] = np.zeros((*shape, inside.shape[-1]), np.float32)
    values["concentration"][values["brain"]] = inside
    return Prepared(**values)
