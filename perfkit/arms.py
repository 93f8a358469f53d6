"""The arms of the study: one pipeline, several AIFs; ``evaluation`` scores them."""

from __future__ import annotations

from perfkit import annotations, paper, parallel
from perfkit.aif import METHODS, brain_mean_aif, expert_aif, judged, select_aif
from perfkit.maps import perfusion_maps, relative_cbf
from perfkit.preprocessing import Prepared

ARMS = ("expert", "automatic", "cnn", "brain_mean")


def curves_of(inputs: dict) -> dict:
    """Take the curves of AIFs: dict from case id to AIF becomes dict from case id to (T,)."""
    return {case: aif.curve for case, aif in inputs.items()}


def arm_inputs(
    prepared: dict[str, Prepared],
    picks: dict[str, annotations.Pick],
    cohort=None,
    *,
    method: str = "straka",
) -> tuple[dict, dict]:
    """Find the AIFs of the arms that need no training, with the voxels each was taken from.

    Parameters
    ----------
    prepared : dict from case id to Prepared
    picks : recorded voxels of one rater, by case id; scans without a pick have no expert AIF
    cohort : datasets.Cohort, to read voxels that were picked outside the brain mask
    method : of the automatic arm, one of ``aif.METHODS``

    Returns
    -------
    inputs : dict from arm to dict from case id to AIF
    failures : dict from (case id, arm) to the reason

    Raises
    ------
    ValueError : no such method.
    """
    if method not in METHODS:
        raise ValueError(f"The automatic AIF is found by one of {', '.join(METHODS)}: {method!r} came.")
    finders = {
        "expert": lambda scan, mean: judged(_expert(scan, picks, cohort), mean.curve),
        "automatic": lambda scan, mean: select_aif(scan, method),
        "brain_mean": lambda scan, mean: mean,
    }

    def found(case):
        held, mean = {}, brain_mean_aif(prepared[case])
        for arm, find in finders.items():
            try:
                held[arm] = find(prepared[case], mean)
            except (ValueError, KeyError) as error:
                held[arm] = str(error)
        return held

    inputs: dict = {arm: {} for arm in finders}
    failures = {}
    for case, held in zip(prepared, parallel.each(found, prepared), strict=True):
        for arm, aif in held.items():
            if isinstance(aif, str):
                failures[case, arm] = aif
            else:
                inputs[arm][case] = aif
    return inputs, failures


def _expert(prepared, picks, cohort):
    try:
        return expert_aif(prepared, picks)
    except ValueError:
        if cohort is None or prepared.id not in picks:
            raise
        return expert_aif(prepared, picks, cohort[prepared.id])  # outside the brain only the scan has curves


def rcbf_map(prepared: Prepared, aif, matrix: str = "circulant", lambda_rel: float = paper.LAMBDA_REL):
    """Compute rCBF inside the brain from an AIF: deconvolution and normalisation as for every arm.

    Parameters
    ----------
    prepared : Prepared
    aif : (T,), any unit
    matrix, lambda_rel : of the deconvolution

    Returns
    -------
    rcbf : (X, Y, Z), 0 outside the brain
    """
    options = {"matrix": matrix, "lambda_rel": lambda_rel, "mask": prepared.brain, "only": ("cbf",)}
    maps = perfusion_maps(prepared.concentration, aif, prepared.dt, **options)
    return relative_cbf(maps.cbf, prepared.reference_tissue)


def relative_maps(curves, reference_tissue, aif, dt, matrix="circulant", lambda_rel=paper.LAMBDA_REL):
    """Compute rCBF and Tmax from one deconvolution of the voxels of a brain.

    Parameters
    ----------
    curves : (V, T), HU above baseline: of all voxels of the brain, taken out once for many AIFs
    reference_tissue : (V,) bool, of the same voxels
    aif : (T,), any unit
    dt : s
    matrix, lambda_rel : of the deconvolution

    Returns
    -------
    rcbf : (V,)
    tmax : (V,), s
    """
    options = {"matrix": matrix, "lambda_rel": lambda_rel, "only": ("cbf", "tmax")}
    maps = perfusion_maps(curves, aif, dt, **options)
    return relative_cbf(maps.cbf, reference_tissue), maps.tmax
