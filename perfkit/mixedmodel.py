"""A mixed model of a metric: the effect of each arm where arms share scans and scans share patients."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np

from .resampling import LEVEL
from .scoretables import check_reference, comparators, count, rows_of_matrix

SIGNIFICANCE = 1 - LEVEL  # of the diagnostics; our choice: the field's habit
BOUNDARY = (
    1e-4  # share of the variance below which a component counts as zero; our choice, Powell stops there
)
VOLUME_OFFSET = (
    1.0  # ml, added before the logarithm; our choice: it keeps empty cores (the logarithm of 1 is 0)
)
OPTIMISERS = ("powell", "nm")  # our choice, in this order: see `_fit`
MAX_ITERATIONS = 500  # of an optimiser; our choice: Nelder-Mead takes some 60
SAME_LIKELIHOOD = 1e-3  # of the logarithm; our choice: a standard error then moves by less than 1 %
NOT_CONVERGED = "no optimiser converged: the numbers are not to be trusted"
NO_PEAK = "the likelihood has no peak where the search stopped: the numbers are not to be trusted"


@dataclass(frozen=True)
class MixedModel:
    """What a mixed model found.

    Attributes
    ----------
    effects : DataFrame of term, arm, estimate, se, low, high, z, p, n (rows), n_scans, n_patients, unit;
        of an arm: its mean difference from the reference, counting the scans and patients that have both.
    variances : DataFrame of component, variance, sd, share.
    converged : an optimiser says so of the highest likelihood found, which has a peak there or a zero
        variance, and no parameter is undefined.
    boundary : a variance component is zero.
    n_obs, n_scans, n_patients : rows, scans and patients in the model; ``dropped`` rows had no value.
    diagnostics : of the conditional residuals: shapiro_p, skewness, kurtosis (excess), breusch_pagan_p.
    notes : what has to be said, in words.
    fit_warnings : what statsmodels warned of, optimiser by optimiser, that of the fit not kept included.
    """

    metric: str
    reference: str
    formula: str
    effects: object
    variances: object
    converged: bool = False
    boundary: bool = False
    n_obs: int = 0
    n_scans: int = 0
    n_patients: int = 0
    dropped: int = 0
    diagnostics: dict = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fit_warnings: tuple[str, ...] = ()


def mixed_model(
    scores, metric, reference="expert", *, matrix="circulant", volume="reference_volume_ml", level=LEVEL
) -> MixedModel:
    """Fit metric ~ arm + log(volume + 1 ml), random in patient, scan, and arm within patient.

    Parameters
    ----------
    scores : DataFrame, one row per scan × arm × matrix.
    metric : column to explain.
    reference : the arm the effects are differences from.
    matrix : the deconvolution matrix whose rows are taken.
    volume : column of the reference volume, ml; "" or a column that is not there leaves it out.
    level : of the intervals (normal approximation).

    Returns
    -------
    MixedModel; where nothing can be fitted the tables are empty and ``notes`` says why.

    Raises
    ------
    ValueError : no such column, reference or matrix; data never raise.

    Notes
    -----
    Restricted maximum likelihood (Laird & Ware 1982), by statsmodels. All arms see the same scan, so rows of
    a scan share an effect; without it the arms of a scan would count as independent. That alone makes the
    scan the unit of the arm effects, as in a paired t-test over scans. Differences between arms are alike in
    two slabs of one patient, hence the third component, arm within patient, which makes it the patient.
    Where no patient has two scans the last two cannot be told from patient and residual, and are left out.
    """
    rows = rows_of_matrix(scores, matrix, [metric])
    check_reference(rows, reference)
    data, dropped, notes = _design(rows, metric, reference, volume)
    arms = comparators(data, reference)
    formula = f"{metric} ~ arm (reference {reference})" + " + log(volume)" * ("log_volume" in data)
    named = {"metric": metric, "reference": reference, "dropped": dropped, "n_obs": len(data)}
    named |= {"n_scans": data["case"].nunique(), "n_patients": data["patient"].nunique()}
    if why := _impossible(data, reference, arms):
        return MixedModel(formula=formula, **_tables([], []), **named, notes=(why, *notes))
    components = _components(data, notes)
    formula += "".join(f" + (1|{name})" for name in ("patient", *components))
    scale = float(data["score"].std())
    fit, doubts, named["fit_warnings"] = _fit(data["score"] / scale, _fixed(data, arms), data, components)
    if fit is None:
        return MixedModel(formula=formula, **_tables([], []), **named, notes=(*notes, *doubts))
    effects = _effects(fit, scale, data, reference, arms, level)
    variances = _variances(fit, scale, components)
    named["boundary"] = _boundary(variances, notes)
    # at a variance of zero the likelihood may still rise towards negative ones: no peak is needed
    doubts = [words for words in doubts if not (words == NO_PEAK and named["boundary"])]
    notes += doubts
    tables = _tables(effects, variances) | {"diagnostics": _diagnostics(fit, scale, notes)}
    return MixedModel(formula=formula, **tables, **named, converged=not doubts, notes=tuple(notes))


def _design(rows, metric, reference, volume):
    """Return the rows with a value as a tidy design, the number left out, and remarks."""
    notes = []
    values = rows[metric].to_numpy(dtype=float)
    defined = np.isfinite(values)
    data = rows.loc[defined, ["case", "patient", "arm"]].astype(str).assign(score=values[defined])
    if volume in rows.columns:
        ml = rows.loc[defined, volume].to_numpy(dtype=float)
        if not np.isfinite(ml).all():
            notes.append(f"{volume} is not known of every scan: left out of the model")
        elif ml.size and np.ptp(np.log(ml + VOLUME_OFFSET)) > 1e-9:
            data["log_volume"] = np.log(ml + VOLUME_OFFSET) - np.log(ml + VOLUME_OFFSET).mean()
            empty = data.loc[ml == 0, "case"].nunique()
            notes += (
                [f"{empty} scans without a core: log(volume + {VOLUME_OFFSET:g} ml) is 0"] if empty else []
            )
        else:
            notes.append(f"{volume} is the same in all scans: left out of the model")
    dropped = int((~defined).sum())
    if dropped:
        notes.append(f"{dropped} rows without a value left out")
    return data, dropped, notes


def _impossible(data, reference, arms):
    if data["patient"].nunique() < 2:
        return f"{count(data['patient'].nunique(), 'patient')} with values: no model"
    if reference not in set(data["arm"]):
        return f"the reference {reference} has no value: no model"
    if not arms:
        return "one arm: nothing to compare"
    if np.ptp(data["score"]) <= 1e-9:
        return "all values are equal: no model"
    wide = data.pivot_table(index="case", columns="arm", values="score")
    if (wide[arms].sub(wide[reference], axis=0).std() <= 1e-9).all():
        return "the arms differ alike in all scans: no residual to judge them by"
    if len(data) <= len(arms) + 4:  # intercept, arms, volume and two variances
        return f"{len(data)} rows for {len(arms) + 1} arms: too few for a model"
    return ""


def _components(data, notes):
    """Return, for each variance component inside a patient that the data can tell apart, its column."""
    scans = data.groupby("patient")["case"].nunique()
    if (scans > 1).any():
        notes.append(f"{int((scans > 1).sum())} of {len(scans)} patients have several scans")
        return {"scan": "case", "arm within patient": "arm"}
    notes.append("one scan per patient: scan and arm within patient are left out")
    return {}


def _fixed(data, arms):
    """Return the design of the fixed effects: intercept, an indicator per arm, centred log volume."""
    columns = {"intercept": np.ones(len(data))}
    columns |= {arm: (data["arm"] == arm).to_numpy(dtype=float) for arm in arms}
    columns |= {"log_volume": data["log_volume"].to_numpy()} if "log_volume" in data else {}
    return data[[]].assign(**columns)


def _fit(score, fixed, data, components):
    """Return the fit of the highest likelihood or None, the doubts about it, and all warnings.

    Methods by gradients stop far below the peak here and may call it converged. Powell comes close, and
    Nelder-Mead, started where Powell stopped, climbs the rest.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM

    random = {"exog_re": np.ones((len(data), 1)), "exog_vc": _random(data, components)}
    model = MixedLM(score, fixed, groups=data["patient"].to_numpy(), **random)
    fits, best, said = [], None, []
    for optimiser in OPTIMISERS:
        fit, heard = _optimise(model, optimiser, best)
        said += [f"{optimiser}: {words}" for words in heard]
        fits += [] if fit is None else [fit]
        if fit is not None and (best is None or fit.llf >= best.llf):
            best, of_best = fit, heard
    if not any(fit.converged and fit.llf > best.llf - SAME_LIKELIHOOD for fit in fits):
        return best, [NOT_CONVERGED], tuple(said)
    return best, [NO_PEAK] * any("Hessian" in words for words in of_best), tuple(said)


def _optimise(model, optimiser, best):
    """Return a fit or None, and what was said on the way."""
    start = None if best is None else best.params_object
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fit = model.fit(start_params=start, method=optimiser, maxiter=MAX_ITERATIONS)
        except (np.linalg.LinAlgError, ValueError, ZeroDivisionError) as error:
            return None, [str(error)]
    heard = list(dict.fromkeys(" ".join(str(item.message).split()) for item in caught))
    return (fit if np.isfinite([fit.llf, *fit.fe_params]).all() else None), heard


def _random(data, components):
    """Return the indicators of each component, patient by patient in the order of their names."""
    from statsmodels.regression.mixed_linear_model import VCSpec

    groups = [group for _, group in data.groupby("patient", sort=True)]
    levels = [[sorted(set(group[column])) for group in groups] for column in components.values()]
    matrices = [
        [
            np.equal.outer(group[column].to_numpy(), names).astype(float)
            for group, names in zip(groups, held, strict=True)
        ]
        for column, held in zip(components.values(), levels, strict=True)
    ]
    return VCSpec(list(components), levels, matrices) if components else None


def _effects(fit, scale, data, reference, arms, level):
    from scipy import stats

    z = stats.norm.ppf((1 + level) / 2)
    errors = scale * np.sqrt(np.diag(_covariance(fit)))
    rows = []
    for term, estimate, se in zip(fit.model.exog_names, fit.fe_params * scale, errors, strict=True):
        of_arm = _paired(data, term, reference) if term in arms else data
        ratio = estimate / se
        rows.append(
            {
                "term": "arm" if term in arms else term,
                "arm": term if term in arms else "",
                "estimate": float(estimate),
                "se": float(se),
                "low": float(estimate - z * se),
                "high": float(estimate + z * se),
                "z": float(ratio),
                "p": float(2 * stats.norm.sf(abs(ratio))),
                "n": len(of_arm),
                "n_scans": of_arm["case"].nunique(),
                "n_patients": of_arm["patient"].nunique(),
                "unit": "patient",
            }
        )
    return rows


def _paired(data, arm, reference):
    """Return the rows of both arms in the scans that have both."""
    scans = set(data.loc[data["arm"] == arm, "case"]) & set(data.loc[data["arm"] == reference, "case"])
    return data[data["arm"].isin([arm, reference]) & data["case"].isin(scans)]


def _covariance(fit):
    """Return (Σ XᵀV⁻¹X)⁻¹ of the fixed effects at the variances found.

    statsmodels inverts the whole observed Hessian, which is not positive definite near a boundary and gives
    different errors to arms that were measured alike.
    """
    model = fit.model
    total = np.zeros((model.k_fe, model.k_fe))
    for i, design in enumerate(model.exog_li):
        v = fit.scale * np.eye(len(design)) + float(np.asarray(fit.cov_re)[0, 0])
        for variance, matrices in zip(fit.vcomp, model.exog_vc.mats, strict=True):
            v += variance * matrices[i] @ matrices[i].T
        total += design.T @ np.linalg.solve(v, design)
    return np.linalg.inv(total)


def _variances(fit, scale, components):
    # of several components statsmodels keeps the order in which they were given
    values = [float(np.asarray(fit.cov_re)[0, 0]), *map(float, fit.vcomp), float(fit.scale)]
    total = sum(values)
    return [
        {
            "component": name,
            "variance": value * scale**2,
            "sd": np.sqrt(value) * scale,
            "share": value / total,
        }
        for name, value in zip(("patient", *components, "residual"), values, strict=True)
    ]


def _boundary(variances, notes):
    zero = [row["component"] for row in variances[:-1] if row["share"] < BOUNDARY]
    if zero:
        notes.append(f"boundary: the variance of {' and '.join(zero)} is zero; it adds nothing here")
    return bool(zero)


def _diagnostics(fit, scale, notes):
    """Describe the conditional residuals: Shapiro & Wilk 1965, Breusch & Pagan 1979."""
    from scipy import stats
    from statsmodels.stats.diagnostic import het_breuschpagan

    residuals = np.asarray(fit.resid) * scale
    found = {"shapiro_p": np.nan, "breusch_pagan_p": np.nan}
    if np.ptp(residuals) <= 1e-9 * scale:
        notes.append("the model leaves no residuals")
        return found
    found["shapiro_p"] = float(stats.shapiro(residuals[:5000]).pvalue)  # its p is not defined beyond 5000
    found |= {"skewness": float(stats.skew(residuals)), "kurtosis": float(stats.kurtosis(residuals))}
    found["breusch_pagan_p"] = float(het_breuschpagan(residuals, fit.model.exog)[1])
    if found["shapiro_p"] < SIGNIFICANCE:
        notes.append(f"residuals are not normal (Shapiro-Wilk p = {found['shapiro_p']:.2g})")
    if found["breusch_pagan_p"] < SIGNIFICANCE:
        notes.append(f"residuals spread unequally (Breusch-Pagan p = {found['breusch_pagan_p']:.2g})")
    return found


def _tables(effects, variances):
    import pandas as pd

    terms = ["term", "arm", "estimate", "se", "low", "high", "z", "p", "n", "n_scans", "n_patients", "unit"]
    return {
        "effects": pd.DataFrame(effects, columns=terms),
        "variances": pd.DataFrame(variances, columns=["component", "variance", "sd", "share"]),
    }
