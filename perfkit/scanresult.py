"""What one scan says with one AIF: maps, core, penumbra, mismatch, and what to mind before believing it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from perfkit import paper
from perfkit.aif import (
    AIF,
    brain_mean_aif,
    expert_aif,
    judged,
    partial_volume_factor,
    select_aif,
    select_vof,
)
from perfkit.corerule import TMAX_THRESHOLD, hypoperfusion_intensity_ratio
from perfkit.eligibility import RULES, eligible, mismatch
from perfkit.maps import core_mask, penumbra_mask, perfusion_maps, relative_cbf
from perfkit.metrics import dice, volume_ml
from perfkit.preprocessing import Prepared

# The paper's for its biased maps; Campbell 2011 for relative flow as such, which calibrated maps give
THRESHOLDS = {"tikhonov": paper.RCBF_THRESHOLD, "calibrated": 0.30}
FEW_BRAIN_ML = 20.0  # our choice: less brain than a single slice of a head holds


@dataclass(eq=False)
class ScanResult:
    """Everything that a report on one scan needs.

    Attributes
    ----------
    prepared : the scan
    aif : AIF, and ``vof`` the venous curve it is scaled to, or None
    maps : maps.Maps
    rcbf : (X, Y, Z)
    core, penumbra : (X, Y, Z) bool, inside tissue; the penumbra is Tmax > 6 s that is not core
    volumes : dict, ml: core, hypoperfusion (Tmax > 6 s), penumbra, brain; the mismatch ratio and
        volume (hypoperfusion against core); hir, the hypoperfusion intensity ratio, NaN where there is none
    eligible : dict from trial to True, False or None (not known)
    flags : sentences; each is a reason to look before believing
    notes : sentences that say what was done
    """

    prepared: Prepared
    aif: AIF
    vof: AIF | None
    maps: object
    rcbf: np.ndarray
    core: np.ndarray
    penumbra: np.ndarray
    volumes: dict = field(default_factory=dict)
    eligible: dict = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def images(self) -> dict:
        """Return name → (X, Y, Z): the maps, rCBF and the masks of core and penumbra."""
        return {**dict(self.maps.items()), "rcbf": self.rcbf, "core": self.core, "penumbra": self.penumbra}

    def method(self) -> dict:
        """Say how the maps were made, for the sidecars of files."""
        voxels = np.asarray(self.aif.voxels).reshape(-1, 3).tolist()
        return {**self.maps.method, "aif": self.aif.method, "aif_voxels": voxels}

    def record(self) -> dict:
        """Return the numbers of the scan as JSON takes them."""
        prepared, aif = self.prepared, self.aif
        numbers = {name: _plain(value) for name, value in self.volumes.items()}
        return {
            "case": prepared.id,
            "patient": prepared.patient,
            "shape": [int(n) for n in prepared.concentration.shape],
            "dt": float(prepared.dt),
            "spacing_mm": [float(v) for v in prepared.spacing],
            "volumes": numbers,
            "eligible": self.eligible,
            "aif": {
                "method": aif.method,
                "voxels": np.asarray(aif.voxels).reshape(-1, 3).tolist(),
                "peak_hu": aif.peak,
                "time_to_peak_s": aif.time_to_peak,
                "score": _plain(aif.score),
                "curve": [float(v) for v in aif.curve],
            },
            "method": self.method(),
            "flags": list(self.flags),
            "notes": list(self.notes),
        }


def choose_aif(prepared: Prepared, case=None, *, method: str = "straka", picks=None, learned=None) -> AIF:
    """Take the AIF of a scan from where the caller says: a network, an expert, the brain's mean, or a rule.

    Parameters
    ----------
    prepared : Prepared
    case : Case of the same scan; needed for picks outside the brain
    method : of ``aif.METHODS``, or "brain_mean"; used where neither picks nor a learned curve is given
    picks : dict from case id to pick; an expert is never invented, so a scan without pick is an error
    learned : dict from case id to (T,), what notebook 03 wrote; comes before picks

    Returns
    -------
    AIF, judged: what speaks against it is in its notes

    Raises
    ------
    ValueError : no curve or pick for this scan, one of the wrong length, or no artery was found.
    """
    mean = brain_mean_aif(prepared)
    if learned is not None:
        return judged(_learned(prepared, learned), mean.curve)
    if picks is not None:
        return judged(expert_aif(prepared, picks, case), mean.curve)
    return mean if method == "brain_mean" else select_aif(prepared, method)


def _learned(prepared, learned):
    curve = learned.get(prepared.id)
    if curve is None:
        raise ValueError(
            f"There is no learned AIF for {prepared.id}: the table holds {len(learned)} other scans. "
            "Train on this cohort (notebook 03), or leave learned empty."
        )
    n = prepared.concentration.shape[-1]
    if len(curve) != n:
        raise ValueError(
            f"{prepared.id}: an AIF has a value per frame, {n}; the learned one has {len(curve)}."
        )
    return AIF(np.asarray(curve), np.empty((0, 3), int), prepared.dt, "cnn")


def read_scan(
    prepared: Prepared,
    aif: AIF,
    *,
    matrix: str = "circulant",
    lambda_rel: float = paper.LAMBDA_REL,
    threshold: float | None = None,
    estimator: str = "tikhonov",
) -> ScanResult:
    """Deconvolve a scan with an AIF and say what comes out, with what to mind about it.

    Parameters
    ----------
    prepared : Prepared
    aif : AIF of the same scan
    matrix, lambda_rel : of the deconvolution
    threshold : core is rCBF below it; default: ``THRESHOLDS`` of the estimator
    estimator : of ``maps.perfusion_maps``

    Returns
    -------
    ScanResult

    Notes
    -----
    Core, penumbra and hypoperfusion are tissue: ventricles have no flow either, and are not lost. The study
    of the paper (``evaluation.score``) counts the whole brain, as the paper does.
    """
    vof, said = scaling_vof(prepared, aif)
    maps = perfusion_maps(
        prepared.concentration,
        aif.curve,
        prepared.dt,
        matrix=matrix,
        lambda_rel=lambda_rel,
        mask=prepared.brain,
        vof=None if vof is None else vof.curve,
        estimator=estimator,
        noise=prepared.frame_noise if estimator == "calibrated" else None,
    )
    threshold = THRESHOLDS.get(estimator) if threshold is None else threshold
    rcbf = relative_cbf(maps.cbf, prepared.reference_tissue)
    core = core_mask(rcbf, prepared.tissue, threshold)
    penumbra = penumbra_mask(maps.tmax, core, prepared.tissue)
    late = prepared.tissue & (maps.tmax > TMAX_THRESHOLD)
    notes = (*prepared.notes, *aif.notes, said)
    result = ScanResult(prepared, aif, vof, maps, rcbf, core, penumbra, notes=notes)
    volumes = _volumes(prepared, core, late, penumbra)
    volumes["hir"] = hypoperfusion_intensity_ratio(maps.tmax, prepared.tissue)
    verdicts = {
        name: _verdict(eligible(volumes["core_ml"], volumes["hypoperfusion_ml"], name)) for name in RULES
    }
    return replace(result, volumes=volumes, eligible=verdicts, flags=_flags(result, volumes, vof, said))


def scaling_vof(prepared: Prepared, aif: AIF):
    """Find the venous curve whose area undoes the AIF's partial volume, where the scan holds all of it.

    Parameters
    ----------
    prepared : Prepared
    aif : AIF of the same scan

    Returns
    -------
    vof : AIF of the vein, or None;  words : what was done, with the factor
    """
    try:
        vof = select_vof(prepared, aif)
    except ValueError as error:
        return None, f"CBF and CBV are relative, their AIF is not corrected for partial volume: {error}"
    factor = partial_volume_factor(aif, vof)
    if not factor > 1:
        why = "the venous curve is cut off or smaller than the AIF"
        return None, f"CBF and CBV are relative, their AIF is not corrected for partial volume: {why}."
    return vof, f"The AIF is scaled by {factor:.2f} to the area of the venous curve (partial volume)."


def _volumes(prepared, core, late, penumbra):
    masks = {"brain": prepared.brain, "core": core, "hypoperfusion": late, "penumbra": penumbra}
    volumes = {f"{name}_ml": volume_ml(mask, prepared.spacing) for name, mask in masks.items()}
    ratio, mismatch_ml = mismatch(volumes["core_ml"], volumes["hypoperfusion_ml"])
    volumes |= {"mismatch_ratio": float(ratio), "mismatch_ml": float(mismatch_ml)}
    if prepared.core is not None:
        known = prepared.core & prepared.brain
        volumes |= {
            "reference_core_ml": volume_ml(known, prepared.spacing),
            "dice": float(dice(known, core)),
        }
    return volumes


def _flags(result, volumes, vof, said):
    """Collect what a reader must see first; the notes hold all the rest."""
    flags = [*result.aif.notes]
    if vof is None:
        flags.append(said)
    if volumes["brain_ml"] < FEW_BRAIN_ML:
        flags.append(
            f"The brain mask holds {volumes['brain_ml']:.1f} ml: look at it before you trust volumes."
        )
    if not result.prepared.lesion_side:
        flags.append("No side of the brain stands out as late: the reference tissue is of both.")
    unseen = np.isnan(result.rcbf[result.prepared.brain]).sum()
    if unseen:
        flags.append(f"rCBF is not a number in {unseen} voxels of the brain.")
    return tuple(flags)


def _verdict(value):
    return None if np.isnan(value) else bool(value)


def _plain(value):
    """Turn NaN and infinity into null: strict readers of JSON know neither."""
    value = float(value)
    return value if np.isfinite(value) else None
