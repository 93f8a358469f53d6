"""The robustness table: how far relative flow and the core move when a scan changes and its tissue does not.

Each arm finds its AIF in the changed scan, the maps are made as for every arm, and both are held against the
untouched scan's in the same voxels.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from perfkit import drawing, evaluation, paper, parallel, perturbations
from perfkit.aif import brain_mean_aif, select_aif
from perfkit.arms import rcbf_map
from perfkit.deconvolution import SYSTEMS
from perfkit.inputfunction import voxel_aif
from perfkit.perturbations import PERTURBATIONS
from perfkit.resampling import bootstrap_intervals, weighted_mean

CHANGES = ("rcbf_change", "dice_change", "roc_auc_change")
VALUES = ("dice_before", "dice", "roc_auc_before", "roc_auc", *CHANGES)
KEYS = ["change", "matrix", "arm"]
PANELS = {  # column -> title, colour scale
    "rcbf_change": ("mean |ΔrCBF|", "Blues"),
    "dice_change": ("ΔDice", "RdBu"),
    "roc_auc_change": ("ΔAUC", "RdBu"),
}


def standard_arms(prepared: dict, picks: dict, *, method: str = "straka") -> dict[str, Callable]:
    """Give the arms that need no training as functions of a scan, changed or not.

    Parameters
    ----------
    prepared : dict from case id to Prepared, untouched
    picks : recorded voxels of one rater, by case id
    method : of the automatic arm, one of ``aif.METHODS``

    Returns
    -------
    dict from arm to function of Prepared, giving (T,): "expert" reads the recorded voxels of the changed scan
    (at the same place in the patient where slices were cut or repeated; those outside the brain, where a
    prepared scan is empty, are left out), "automatic" searches anew, "brain_mean" averages anew. They raise
    ValueError where there is no such curve.
    """

    def expert(scan):
        return _at_picks(scan, prepared[scan.id], picks)

    return {
        "expert": expert,
        "automatic": lambda scan: select_aif(scan, method).curve,
        "brain_mean": lambda scan: brain_mean_aif(scan).curve,
    }


def _at_picks(scan, untouched, picks):
    pick = picks.get(scan.id)
    if pick is None or not pick.voxels:
        raise ValueError(f"{scan.id}: no AIF was picked")
    there = np.column_stack([pick.voxels, np.ones(len(pick.voxels))]) @ untouched.affine.T
    voxels = np.rint(there @ np.linalg.inv(scan.affine).T)[:, :3].astype(int)
    inside = ((voxels >= 0) & (voxels < scan.brain.shape)).all(axis=1)
    voxels = voxels[inside]
    voxels = voxels[scan.brain[tuple(voxels.T)]]
    if not len(voxels):
        raise ValueError(f"{scan.id}: no picked voxel lies in the brain of the slices there are")
    return voxel_aif(scan.concentration, voxels, scan.dt).curve


def robustness_table(prepared: dict, arms: dict[str, Callable], **options):
    """Measure how every arm's rCBF, Dice and AUC change when scans do; ``summarise`` of ``scan_changes``.

    Parameters
    ----------
    prepared, arms, options : as for ``scan_changes``

    Returns
    -------
    DataFrame, one row per change × matrix × arm, as ``summarise`` describes it
    """
    return summarise(scan_changes(prepared, arms, **options))


def scan_changes(
    prepared: dict,
    arms: dict[str, Callable],
    *,
    matrix: str = "volterra",
    lambda_rel: float = paper.LAMBDA_REL,
    threshold: float = paper.RCBF_THRESHOLD,
    perturbations: dict = PERTURBATIONS,
    noise_free: Callable | None = None,
    seed: int = 0,
    tell: Callable | None = None,
):
    """Change every scan in every way, and measure every arm before and after.

    Parameters
    ----------
    prepared : dict from case id to Prepared; without a core only rCBF is compared
    arms : dict from name to function of Prepared giving the AIF (T,); it raises ValueError without one
    matrix, lambda_rel, threshold : of deconvolution and core, the same for all
    perturbations : dict from label to (name of a change, its options), as ``PERTURBATIONS``
    noise_free : function of case id giving the scan's concentration without noise (X, Y, Z, T), of phantoms;
        see ``perturbations.perturb`` for what it changes
    seed : of noise that is added
    tell : called with the case id after each scan

    Returns
    -------
    DataFrame, one row per scan × change × arm: case, patient, change, matrix, arm, moved (s, of the bolus),
    rcbf_change (mean |ΔrCBF| over the tissue of the untouched scan), dice and roc_auc after, dice_before and
    roc_auc_before, their differences dice_change and roc_auc_change, and reason: why nothing was measured, or
    empty

    Raises
    ------
    ValueError : no scan, no arm, or a setting that no scan could be measured with.

    Notes
    -----
    Where slices are cut or repeated, only the AIF comes from the changed scan; the maps are the untouched
    scan's, so that voxels and reference tissue are the same.
    """
    import pandas as pd

    _check(prepared, arms, matrix, lambda_rel, threshold, perturbations)
    options = {"matrix": matrix, "lambda_rel": lambda_rel}

    def measured(case):
        clean = noise_free(case) if noise_free else None
        return _of_scan(prepared[case], arms, options, threshold, perturbations, clean, seed)

    rows = []
    for case, found in zip(prepared, parallel.each(measured, prepared), strict=True):
        rows += [{"case": case, "patient": prepared[case].patient, "matrix": matrix} | row for row in found]
        if tell:
            tell(case)
    return pd.DataFrame(rows)


def _of_scan(scan, arms, options, threshold, changes, clean, seed):
    before = {arm: _rcbf(find, scan, scan, options) for arm, find in arms.items()}
    rows = []
    for label, (name, settings) in changes.items():
        moved = np.nan
        try:
            changed = perturbations.perturb(scan, name, noise_free=clean, seed=seed, **settings)
        except ValueError as reason:
            changed = _reason(reason, scan)
        if name == "shift":
            moved = perturbations.room(scan, settings["seconds"])
        for arm, find in arms.items():
            row = {"change": label, "arm": arm, "moved": moved}
            rows.append(row | _compared(scan, changed, find, before[arm], options, threshold))
    return rows


def _compared(scan, changed, find, before, options, threshold) -> dict:
    """Measure one arm in one changed scan, or say why not."""
    for failed in (before, changed):
        if isinstance(failed, str):
            return {"reason": failed}
    after = _rcbf(find, changed, scan, options)
    if isinstance(after, str):
        return {"reason": after}
    row = {"rcbf_change": float(np.abs(after - before)[scan.tissue].mean()), "reason": ""}
    if scan.core is None:
        return row
    core = scan.core[scan.brain]
    old, new = (
        evaluation.overlap(evaluation.Slab.of(core, rcbf[scan.brain], threshold)) for rcbf in (before, after)
    )
    for metric in ("dice", "roc_auc"):
        row |= {metric: new[metric], f"{metric}_before": old[metric]}
        row[f"{metric}_change"] = new[metric] - old[metric]
    return row


def _rcbf(find, changed, scan, options):
    """Map rCBF with the AIF that an arm finds in the changed scan; the reason where it cannot."""
    same_voxels = changed.brain.shape == scan.brain.shape
    try:
        return rcbf_map(changed if same_voxels else scan, find(changed), **options)
    except (ValueError, KeyError) as reason:
        return _reason(reason, scan)


def _reason(error, scan) -> str:
    """A reason without the name of the scan, so that scans with the same one can be counted."""
    return str(error).removeprefix(f"{scan.id}: ")


def summarise(scans):
    """Average the changes over scans, with intervals that resample patients.

    Parameters
    ----------
    scans : as from ``scan_changes``; several matrices may be concatenated

    Returns
    -------
    DataFrame, one row per change × matrix × arm: n_scans, n_patients, n_skipped, skipped (reasons and how
    often), moved, moved_least, moved_most (s, of scans whose bolus was moved), dice_before, dice,
    roc_auc_before, roc_auc, and rcbf_change, dice_change, roc_auc_change each with _low and _high (95 %)
    """
    import pandas as pd

    groups = scans.groupby(KEYS, sort=False)
    return pd.DataFrame([dict(zip(KEYS, key, strict=True)) | _summary(part) for key, part in groups])


def _summary(part) -> dict:
    measured = part[part["reason"] == ""].reindex(columns=["patient", "moved", *VALUES])
    reasons = part.loc[part["reason"] != "", "reason"].value_counts(sort=False)
    row = {"n_scans": len(measured), "n_patients": measured["patient"].nunique(), "n_skipped": reasons.sum()}
    row["skipped"] = "; ".join(f"{n} × {why}" for why, n in reasons.items())
    for name, how in (("moved", "mean"), ("moved_least", "min"), ("moved_most", "max")):
        row[name] = getattr(measured["moved"].abs(), how)()
    for name in VALUES:
        row[name] = measured[name].mean()
    statistic = weighted_mean(measured[list(CHANGES)].to_numpy(float).T)
    for name, interval in zip(CHANGES, bootstrap_intervals(statistic, measured["patient"]), strict=True):
        row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row


def robustness_figure(table):
    """Draw the table of ``robustness_table``: changes down, arms across, one panel per measure.

    Parameters
    ----------
    table : DataFrame of ``summarise``

    Returns
    -------
    plotly figure: darker is more change of rCBF; blue is a gain and red a loss of Dice and AUC. Cells
    without a scan stay empty.
    """
    import plotly.graph_objects as go

    titles = [title for title, _ in PANELS.values()]
    figure = drawing.panels(1, 3, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.03)
    several = table["matrix"].nunique() > 1
    columns = _names(table, several)
    for at, (name, (title, scale)) in enumerate(PANELS.items(), start=1):
        cells = table.assign(column=columns).pivot(index="change", columns="column", values=name)
        cells = cells.loc[list(dict.fromkeys(table["change"])), list(dict.fromkeys(columns))]
        z = cells.to_numpy(float)
        top = max(np.nanmax(np.abs(z), initial=0.0), 1e-3)
        trace = go.Heatmap(z=z, x=list(cells.columns), y=list(cells.index), colorscale=scale, showscale=False)
        trace.update(zmin=0 if at == 1 else -top, zmax=top, name=title, hoverongaps=False)
        trace.update(text=_written(z, "+" if at > 1 else ""))
        trace.update(
            texttemplate="%{text}", textfont_size=11, hovertemplate="%{y}, %{x}: %{z:.3f}<extra></extra>"
        )
        figure.add_trace(trace, row=1, col=at)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_yaxes(title="change of the scan", col=1)
    figure.update_xaxes(title="arm", showgrid=False)
    return figure.update_layout(height=180 + 30 * table["change"].nunique())


def _names(table, several):
    return [
        drawing.arm_label(arm) + (f"<br>{matrix}" if several else "")
        for arm, matrix in zip(table["arm"], table["matrix"], strict=True)
    ]


def _written(values, sign):
    """Three decimals without the leading zero, as rCBF, Dice and AUC are printed; nothing for NaN."""
    words = [re.sub(r"(?<!\d)0\.", ".", f"{v:{sign}.3f}") if np.isfinite(v) else "" for v in values.flat]
    return np.reshape(words, values.shape)


def _check(prepared, arms, matrix, lambda_rel, threshold, changes) -> None:
    if not prepared or not arms or not changes:
        raise ValueError(
            "A robustness table needs at least one scan, one arm and one change: "
            f"{len(prepared)}, {len(arms)} and {len(changes)} came."
        )
    if matrix not in SYSTEMS:
        raise ValueError(f"matrix must be one of {', '.join(SYSTEMS)}: {matrix!r} came.")
    for name, options in changes.values():
        perturbations.check(name, options)
    for name, value in (("lambda_rel", lambda_rel), ("threshold", threshold)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive: {value!r} came.")
