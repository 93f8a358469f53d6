"""Two raters of one cohort: how far apart they pick, and what that does to curves, flow and cores.

A rater is a file of picks, picks at hand, or an automatic method. Differences are always a − b.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from perfkit import aif, annotations, pages, paper, paths
from perfkit.aif import AIF, expert_aif, select_aif
from perfkit.comparison import bland_altman, icc21
from perfkit.curves import first_moment, full_width_half_maximum, time_to_peak
from perfkit.datasets import Cohort
from perfkit.drawing import save_figure
from perfkit.maps import core_mask, perfusion_maps, relative_cbf
from perfkit.metrics import dice, volume_ml
from perfkit.preprocessing import Prepared, prepare
from perfkit.raterviews import raters_figure
from perfkit.tables import save_table

# column -> (what it is, unit, decimals), in the order of the summary
MEASURES = {
    "distance_mm": ("Distance", "mm", 1),
    "in_plane_px": ("Distance in the plane", "px", 1),
    "slices": ("Distance across the plane", "slices", 0),
    "vof_distance_mm": ("Distance of the VOF", "mm", 1),
    "correlation": ("Correlation of the curves", "", 3),
    "delta_ttp": ("Time to peak", "s", 1),
    "delta_peak": ("Peak", "HU", 1),
    "delta_fwhm": ("FWHM", "s", 1),
    "delta_first_moment": ("First moment", "s", 1),
    "delta_cbf": ("CBF of the reference tissue", "ml/100 g/min", 1),
    "rcbf_difference": ("rCBF of a voxel, without sign", "", 3),
    "delta_core_ml": ("Core volume", "ml", 1),
    "dice_cores": ("Dice of the two cores", "", 3),
    "dice_a": ("Dice of a with the known core", "", 3),
    "dice_b": ("Dice of b with the known core", "", 3),
}


@dataclass(frozen=True)
class RaterComparison:
    """What two raters made of the same scans.

    Parameters
    ----------
    a, b : their names.
    table : DataFrame, a row per scan both have; ``compare_raters`` says its columns.
    only_a, only_b : ids of the scans one of them has alone.
    failures : id -> why a scan could not be compared.
    """

    a: str
    b: str
    table: object
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> dict:
        """Numbers for a file: median, quartiles and n of each measure, agreement of the core volumes.

        Returns
        -------
        dict; a number that is not defined is None. ``n`` counts scans, not patients.
        """
        found = {
            "a": self.a,
            "b": self.b,
            "n": len(self.table),
            "patients": int(self.table["patient"].nunique()),
            "identical": int(self.table["identical"].sum()),
            "measures": {name: _quartiles(self.table[name]) for name in MEASURES},
            "core_volume": None,
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "failures": dict(self.failures),
        }
        if len(self.table) > 1:
            volumes = self.table["core_ml_a"].to_numpy(float), self.table["core_ml_b"].to_numpy(float)
            agreement = bland_altman(*volumes)
            limits = {name: getattr(agreement, name) for name in ("bias", "sd", "lower", "upper", "n")}
            found["core_volume"] = limits | {"icc21": _number(icc21(*volumes))}
        return found

    def sentences(self) -> list[str]:
        """Say what was found, with what could not be compared."""
        found = self.summary()
        n, same = found["n"], found["identical"]
        lines = [
            f"{self.a} (a) and {self.b} (b) are compared in {n} scans of {found['patients']} patients. "
            f"In {same} ({100 * same / n:.0f} %) they chose the same voxels. Differences are a − b; "
            "median (quartiles; scans):"
        ]
        for name, (words, unit, decimals) in MEASURES.items():
            if (values := found["measures"][name])["n"]:
                lines.append(f"  {words}: {_said(values, unit, decimals)}")
        if volume := found["core_volume"]:
            icc = "not defined" if volume["icc21"] is None else f"{volume['icc21']:.3f}"
            lines.append(
                f"Core volume: on average {volume['bias']:+.1f} ml, about 95 % of differences between "
                f"{volume['lower']:+.1f} and {volume['upper']:+.1f} ml; ICC(2,1) {icc}.".replace("-", "−")
            )
        for name, cases in ((self.a, self.only_a), (self.b, self.only_b)):
            if cases:
                lines.append(f"{len(cases)} scans only {name} has: {', '.join(cases)}.")
        return lines + [f"{case} was not compared: {why}" for case, why in self.failures.items()]

    def figure(self):
        """Draw distances, curve differences and cores."""
        return raters_figure(self.table, self.a, self.b)

    def save(self, out: str | Path) -> list[Path]:
        """Write ``raters.csv``, ``raters.json`` and ``raters.html`` into a folder; return the paths."""
        out = Path(out)
        table = save_table(out / "raters.csv", self.table)
        (page,) = save_figure(self.figure(), out / "raters")
        text = json.dumps(self.summary(), indent=1, allow_nan=False) + "\n"
        summary = pages.write(out / "raters.json", text)
        return [table, summary, page]


def compare_raters(
    cohort: Cohort,
    a,
    b,
    *,
    names: tuple[str, str] | None = None,
    aif_root: str | Path | None = None,
    matrix: str = "circulant",
    lambda_rel: float = paper.LAMBDA_REL,
    threshold: float = paper.RCBF_THRESHOLD,
    progress: bool = False,
) -> RaterComparison:
    """Compare the AIFs of two raters, scan by scan, and what the same pipeline makes of them.

    Parameters
    ----------
    cohort : datasets.Cohort.
    a, b : name of a rater with a file of picks for this cohort, name of an automatic method of
        ``perfkit.aif``, or picks by case id as ``annotations.latest`` reads them.
    names : of the two, for picks at hand; default: ``"a"`` and ``"b"``.
    aif_root : folder of all picks; default: ``aif`` in the data folder.
    matrix, lambda_rel, threshold : of the deconvolution and the core, the same for both.
    progress : show a bar.

    Returns
    -------
    RaterComparison. Its table has: ``case, patient, voxels_a, voxels_b`` (counts), ``identical`` (the same
    set of AIF voxels), ``distance_mm`` (between the centres of the AIF voxels, in the world of the affine),
    ``in_plane_px`` and ``slices`` (the same centres, in voxels), ``vof_distance_mm``; ``correlation``,
    ``peak_a, peak_b`` (HU) and ``delta_ttp, delta_fwhm, delta_first_moment`` (s), ``delta_peak`` (HU) of the
    curves; ``cbf_a, cbf_b, delta_cbf`` (mean of the reference tissue, ml/100 g/min); ``rcbf_difference``
    (median of |a − b| over the tissue: without sign, since normalising makes both 1 on average);
    ``core_ml_a, core_ml_b, delta_core_ml``, ``dice_cores`` (of the two), ``dice_a, dice_b`` (with the known
    core, NaN where there is none).

    Raises
    ------
    ValueError : no such rater or method, or no scan that both have. Broken scans do not raise; they are in
        ``failures``.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    names = names or ("a", "b")
    first, second = (_source(cohort, who, name, aif_root) for who, name in zip((a, b), names, strict=True))
    both = [case for case in cohort.ids if case in first.cases and case in second.cases]
    if not both:
        raise ValueError(
            f"Raters are compared in scans both have. Of {cohort.folder}, {first.name} has "
            f"{len(first.cases)}, {second.name} {len(second.cases)}, none in common. Pick the same scans."
        )
    rows, failures = [], {}
    options = {"matrix": matrix, "lambda_rel": lambda_rel}
    for case in tqdm(both, desc="comparing", unit="scan", disable=not progress):
        try:
            rows.append(_row(cohort[case], first, second, options, threshold))
        except (OSError, ValueError) as error:
            failures[case] = str(error)
    if not rows:
        case, why = next(iter(failures.items()))
        raise ValueError(f"{cohort.folder}: none of {len(both)} scans could be compared. {case}: {why}")
    only = [
        tuple(case for case in cohort.ids if case in one.cases and case not in other.cases)
        for one, other in ((first, second), (second, first))
    ]
    return RaterComparison(first.name, second.name, pd.DataFrame(rows), *only, failures)


@dataclass(frozen=True)
class _Source:
    name: str
    cases: frozenset[str]
    find: Callable
    vof: Mapping[str, tuple] = field(default_factory=dict)


def rater_files(cohort: Cohort, aif_root: str | Path | None = None) -> dict[str, Path]:
    """List the raters of a cohort with their files; one's own come before those delivered with the cohort."""
    root = paths.data_folder() / "aif" if aif_root is None else aif_root
    return annotations.rater_files(cohort.folder, root)


def recorded_picks(cohort: Cohort, rater: str, aif_root: str | Path | None = None) -> dict:
    """Read what a rater picked in a cohort: dict from case id to pick.

    Raises
    ------
    ValueError : the rater has no file for this cohort; those that have are named.
    """
    files = rater_files(cohort, aif_root)
    if rater not in files:
        raise ValueError(
            f"A rater has a file of picks for {cohort.folder}: {rater!r} has none. "
            f"Raters: {', '.join(files) or 'none yet; pick in notebook 02'}."
        )
    return annotations.latest(files[rater])


def _source(cohort: Cohort, who, name: str, aif_root) -> _Source:
    if isinstance(who, str):
        files = rater_files(cohort, aif_root)
        if who in files:
            return _of_picks(cohort, annotations.latest(files[who]), who)
        if who in aif.METHODS:
            return _Source(who, frozenset(cohort.ids), lambda scan, case: select_aif(scan, who))
        raise ValueError(
            f"A rater has a file of picks for {cohort.folder}, or is a method: {who!r} is neither. "
            f"Raters: {', '.join(files) or 'none'}; methods: {', '.join(aif.METHODS)}."
        )
    return _of_picks(cohort, who, name)


def _of_picks(cohort: Cohort, picks: Mapping, name: str) -> _Source:
    cases = frozenset(case for case, pick in picks.items() if pick.voxels) & set(cohort.ids)
    vof = {case: pick.vof_voxels for case, pick in picks.items() if pick.vof_voxels}
    return _Source(name, cases, lambda scan, case: expert_aif(scan, picks, case), vof)


def _row(case, first: _Source, second: _Source, options: dict, threshold: float) -> dict:
    scan = prepare(case)
    found = []
    for source in (first, second):
        try:
            found.append(source.find(scan, case))
        except ValueError as error:
            raise ValueError(f"{source.name}: {error}") from None
    effects = [_effect(scan, one.curve, options, threshold) for one in found]
    vofs = [source.vof.get(case.id, ()) for source in (first, second)]
    row = {"case": case.id, "patient": case.patient, "voxels_a": len(found[0].voxels)}
    row |= {"voxels_b": len(found[1].voxels)} | places_apart(*(one.voxels for one in found), scan.affine)
    row["vof_distance_mm"] = places_apart(*vofs, scan.affine)["distance_mm"]
    return row | curves_apart(*found) | _effects_apart(scan, *effects)


def places_apart(a, b, affine) -> dict:
    """Measure how far two groups of voxels are apart.

    Parameters
    ----------
    a, b : (n, 3), array indices; may be empty.
    affine : (4, 4), mm.

    Returns
    -------
    dict: identical (the same set), distance_mm, in_plane_px, slices, between the centres of the groups; NaN
    where a group is empty.
    """
    a, b = (np.asarray(voxels, float).reshape(-1, 3) for voxels in (a, b))
    same = len(a) > 0 and set(map(tuple, a)) == set(map(tuple, b))
    if not (len(a) and len(b)):
        return {"identical": False} | dict.fromkeys(("distance_mm", "in_plane_px", "slices"), float("nan"))
    step = a.mean(axis=0) - b.mean(axis=0)
    return {
        "identical": same,
        "distance_mm": float(np.linalg.norm(np.asarray(affine)[:3, :3] @ step)),
        "in_plane_px": float(np.hypot(*step[:2])),
        "slices": float(abs(step[2])),
    }


def curves_apart(a: AIF, b: AIF) -> dict:
    """Measure how two AIFs of one scan differ: correlation, and a − b of peak, TTP, FWHM and first moment."""
    flat = np.ptp(a.curve) == 0 or np.ptp(b.curve) == 0
    row = {"correlation": float("nan") if flat else float(np.corrcoef(a.curve, b.curve)[0, 1])}
    measures = {"ttp": time_to_peak, "fwhm": full_width_half_maximum, "first_moment": first_moment}
    for name, measure in measures.items():
        row[f"delta_{name}"] = float(measure(a.curve, a.dt)) - float(measure(b.curve, b.dt))
    return row | {"peak_a": a.peak, "peak_b": b.peak, "delta_peak": a.peak - b.peak}


def _effect(scan: Prepared, curve, options: dict, threshold: float) -> tuple:
    cbf = perfusion_maps(scan.concentration, curve, scan.dt, mask=scan.brain, only=("cbf",), **options).cbf
    rcbf = relative_cbf(cbf, scan.reference_tissue)
    return float(cbf[scan.reference_tissue].mean()), rcbf, core_mask(rcbf, scan.brain, threshold)


def _effects_apart(scan: Prepared, a: tuple, b: tuple) -> dict:
    known = None if scan.core is None else scan.core & scan.brain
    row = {"cbf_a": a[0], "cbf_b": b[0], "delta_cbf": a[0] - b[0]}
    row["rcbf_difference"] = float(np.median(np.abs(a[1] - b[1])[scan.tissue]))
    volumes = [volume_ml(core, scan.spacing) for core in (a[2], b[2])]
    row |= {"core_ml_a": volumes[0], "core_ml_b": volumes[1], "delta_core_ml": volumes[0] - volumes[1]}
    row["dice_cores"] = dice(a[2], b[2])
    for name, core in (("dice_a", a[2]), ("dice_b", b[2])):
        row[name] = float("nan") if known is None else dice(known, core)
    return row


def _quartiles(values: Iterable[float]) -> dict:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not values.size:
        return {"median": None, "q1": None, "q3": None, "n": 0}
    q1, median, q3 = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "q1": float(q1), "q3": float(q3), "n": int(values.size)}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _said(values: dict, unit: str, decimals: int) -> str:
    median, q1, q3 = (f"{values[name]:.{decimals}f}".replace("-", "−") for name in ("median", "q1", "q3"))
    return f"{median}{' ' * bool(unit)}{unit} ({q1} to {q3}; {values['n']})"
