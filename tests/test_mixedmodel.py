"""The mixed model against its closed form in balanced designs, generalised least squares, and simulations."""

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from perfkit.mixedmodel import mixed_model

ARMS = ("expert", "automatic", "cnn")


def study(seed=0, *, twice=20, once=0, sd=(0.1, 0.05, 0.03, 0.02), effect=0.0, slope=0.0):
    """Scores of patients with two slabs or one; sd of patient, scan, arm within patient, residual."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(twice + once):
        u, arm_u = rng.normal(0, sd[0]), rng.normal(0, sd[2], len(ARMS))
        for slab in range(2 if patient < twice else 1):
            w, log_volume = rng.normal(0, sd[1]), rng.normal(2.8, 1)
            for arm, arm_value in zip(ARMS, arm_u, strict=True):
                value = 0.4 + u + w + arm_value + rng.normal(0, sd[3])
                rows.append(
                    {
                        "case": f"case_{patient}_{slab}",
                        "patient": f"p{patient:02d}",
                        "arm": arm,
                        "matrix": "circulant",
                        "dice": value + effect * (arm == "cnn") + slope * log_volume,
                        "reference_volume_ml": np.exp(log_volume) - 1,
                    }
                )
    return pd.DataFrame(rows)


def of_arm(found, arm="cnn"):
    return found.effects.set_index("arm").loc[arm]


def reml(scores, starts=5):
    """Estimate and standard error of each arm by the restricted likelihood, its scale profiled out.

    Harville 1977: ½(log|V| + log|XᵀV⁻¹X| + (n − p) log s²), V = I + Σ γ ZZᵀ, searched from several starts.
    """
    keys = [scores[["patient"]], scores[["case"]], scores[["patient", "arm"]]]
    groups = [key.agg("|".join, axis=1).to_numpy(dtype=str) for key in keys]
    shared = [np.equal.outer(group, group).astype(float) for group in groups]
    arms = [arm for arm in ARMS[1:] if arm in set(scores["arm"])]
    columns = [np.ones(len(scores)), *((scores["arm"] == arm).to_numpy(float) for arm in arms)]
    if "reference_volume_ml" in scores:
        volume = np.log(scores["reference_volume_ml"] + 1).to_numpy()
        columns.append(volume - volume.mean())
    x, y = np.column_stack(columns), scores["dice"].to_numpy()
    rest = len(y) - x.shape[1]

    def at(log_ratios):
        v = np.eye(len(y)) + sum(g * z for g, z in zip(np.exp(log_ratios), shared, strict=True))
        vx, vy = np.linalg.solve(v, x), np.linalg.solve(v, y)
        beta = np.linalg.solve(x.T @ vx, x.T @ vy)
        s2 = (y - x @ beta) @ (vy - vx @ beta) / rest
        loss = np.linalg.slogdet(v)[1] + np.linalg.slogdet(x.T @ vx)[1] + rest * np.log(s2)
        return loss / 2, beta, np.sqrt(s2 * np.diag(np.linalg.inv(x.T @ vx)))

    tried = np.random.default_rng(0).uniform(-5, 5, (starts, 3))
    bounds = [(-12, 12)] * 3
    fits = [optimize.minimize(lambda g: at(g)[0], g, method="L-BFGS-B", bounds=bounds) for g in tried]
    _, beta, se = at(min(fits, key=lambda fit: fit.fun).x)
    return {arm: (beta[i], se[i]) for i, arm in enumerate(arms, 1)}


def two_arms(seed):
    """40 patients, every second with two slabs: differences vary little from patient to patient."""
    scores = study(seed, twice=20, once=20, sd=(0.2, 0.1, 0.02, 0.02), effect=0.02)
    return scores.query("arm != 'automatic'").drop(columns="reference_volume_ml")


@pytest.mark.parametrize("seed", range(8))
def test_effects_are_those_at_the_highest_restricted_likelihood(seed):
    """Gradient methods stop far below it and call it converged, with errors two to five times too large."""
    scores = two_arms(seed)
    found, (estimate, se) = mixed_model(scores, "dice"), reml(scores)["cnn"]
    assert found.converged
    assert of_arm(found)["estimate"] == pytest.approx(estimate, abs=0.02 * se)
    assert of_arm(found)["se"] == pytest.approx(se, rel=0.01)


@pytest.mark.parametrize("sd", [(0.15, 0.1, 0.02, 0.01), (0.15, 0.1, 0.0, 0.05), (0.0, 0.1, 0.05, 0.01)])
def test_three_arms_and_a_volume_at_the_highest_restricted_likelihood(sd):
    scores = study(12, twice=12, once=18, sd=sd, effect=0.02, slope=0.03)
    found, expected = mixed_model(scores, "dice"), reml(scores)
    assert found.converged
    for arm, (estimate, se) in expected.items():
        assert of_arm(found, arm)["estimate"] == pytest.approx(estimate, abs=0.02 * se)
        assert of_arm(found, arm)["se"] == pytest.approx(se, rel=0.01)


def test_balanced_effects_are_paired_differences_of_patients():
    """With two slabs each, estimate and t of an arm are those of the paired t-test over patient means."""
    scores = study(effect=0.02).drop(columns="reference_volume_ml").query("arm != 'automatic'")
    means = scores.groupby(["patient", "arm"])["dice"].mean().unstack()
    paired = stats.ttest_rel(means["cnn"], means["expert"])
    found = mixed_model(scores, "dice")
    assert found.converged and not found.boundary
    assert of_arm(found)["estimate"] == pytest.approx((means["cnn"] - means["expert"]).mean())
    assert of_arm(found)["z"] == pytest.approx(paired.statistic, rel=1e-3)
    assert (found.n_obs, found.n_scans, found.n_patients, found.dropped) == (80, 40, 20, 0)


def test_the_scan_is_not_the_unit():
    """Differences that are alike in both slabs of a patient: a t-test over scans is √2 too sure."""
    scores = study(1, sd=(0.1, 0.05, 0.04, 0.004), twice=30)
    wide = scores.pivot(index="case", columns="arm", values="dice")
    naive = (wide["cnn"] - wide["expert"]).std() / np.sqrt(60)
    both = scores[scores["arm"].isin(["cnn", "expert"])]
    assert of_arm(mixed_model(both, "dice"))["se"] == pytest.approx(np.sqrt(2) * naive, rel=0.05)


def test_effects_are_generalised_least_squares_at_the_variances_found():
    scores = study(2, twice=8, once=6, effect=0.03, slope=0.02)
    found = mixed_model(scores, "dice")
    variance = found.variances.set_index("component")["variance"]
    one = {
        "patient": np.equal.outer(scores["patient"].to_numpy(), scores["patient"].to_numpy()),
        "scan": np.equal.outer(scores["case"].to_numpy(), scores["case"].to_numpy()),
        "residual": np.eye(len(scores)),
    }
    one["arm within patient"] = one["patient"] & np.equal.outer(
        scores["arm"].to_numpy(), scores["arm"].to_numpy()
    )
    v = sum(variance[name] * matrix for name, matrix in one.items())
    volume = np.log(scores["reference_volume_ml"] + 1)
    arms = [(scores["arm"] == arm).to_numpy(float) for arm in ("automatic", "cnn")]
    x = np.column_stack([np.ones(len(scores)), *arms, volume - volume.mean()])
    cov = np.linalg.inv(x.T @ np.linalg.solve(v, x))
    beta = cov @ x.T @ np.linalg.solve(v, scores["dice"])
    assert found.effects["estimate"].to_numpy() == pytest.approx(beta, abs=1e-6)
    assert found.effects["se"].to_numpy() == pytest.approx(np.sqrt(np.diag(cov)), rel=1e-5)
    assert set(found.variances["component"]) == set(one)
    assert found.variances["share"].sum() == pytest.approx(1)


def test_variances_are_those_of_the_simulation():
    found = mixed_model(study(3, twice=120), "dice")
    sd = found.variances.set_index("component")["sd"]
    assert sd["patient"] == pytest.approx(0.1, rel=0.2)
    assert sd["scan"] == pytest.approx(0.05, rel=0.2)
    assert sd["arm within patient"] == pytest.approx(0.03, rel=0.2)
    assert sd["residual"] == pytest.approx(0.02, rel=0.1)


def test_one_scan_per_patient_has_no_component_inside_the_patient():
    scores = study(4, twice=0, once=20, effect=0.05).drop(columns="reference_volume_ml")
    two = scores.query("arm != 'automatic'")
    found = mixed_model(two, "dice")
    wide = two.pivot(index="patient", columns="arm", values="dice")
    assert of_arm(found)["z"] == pytest.approx(
        stats.ttest_rel(wide["cnn"], wide["expert"]).statistic, rel=1e-3
    )
    assert list(found.variances["component"]) == ["patient", "residual"]
    assert "one scan per patient: scan and arm within patient are left out" in found.notes


def test_a_variance_of_zero_is_said():
    scores = study(5, sd=(0.0, 0.1, 0.0, 0.03))
    found = mixed_model(scores, "dice")
    assert found.boundary
    assert any("boundary: the variance of" in note for note in found.notes)


def test_residuals_far_from_normal_are_said():
    scores = study(6)
    rng = np.random.default_rng(6)
    scores["dice"] += np.where(rng.random(len(scores)) < 0.04, 0.8, 0)
    found = mixed_model(scores, "dice")
    assert found.diagnostics["shapiro_p"] < 0.05
    assert any("residuals are not normal" in note for note in found.notes)


def test_empty_cores_have_a_logarithm_and_are_said():
    scores = study(7)
    scores.loc[scores["case"] == "case_0_0", "reference_volume_ml"] = 0.0
    found = mixed_model(scores, "dice")
    assert "1 scans without a core: log(volume + 1 ml) is 0" in found.notes
    assert np.isfinite(found.effects["estimate"]).all()


def test_scale_and_units_do_not_matter():
    scores = study(8)
    one, thousand = (
        mixed_model(scores, "dice"),
        mixed_model(scores.assign(dice=1000 * scores["dice"]), "dice"),
    )
    assert thousand.effects["estimate"].to_numpy() == pytest.approx(1000 * one.effects["estimate"], rel=1e-4)
    assert thousand.effects["se"].to_numpy() == pytest.approx(1000 * one.effects["se"], rel=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t[t["patient"] == "p00"], "1 patient with values: no model"),
        (lambda t: t.assign(dice=0.4), "all values are equal: no model"),
        (lambda t: t.assign(dice=np.nan), "0 patients with values: no model"),
        (lambda t: t[t["arm"] == "expert"], "one arm: nothing to compare"),
        (lambda t: t.assign(dice=t["dice"].where(t["arm"] != "expert")), "the reference expert has no value"),
        (lambda t: t.assign(dice=t.groupby("case")["dice"].transform("first")), "differ alike in all scans"),
        (lambda t: t[t["case"].isin(["case_0_0", "case_1_0"])], "too few for a model"),
    ],
)
def test_what_cannot_be_fitted_is_said_in_words(change, words):
    found = mixed_model(change(study(9, twice=4)), "dice")
    assert words in found.notes[0]
    assert found.effects.empty and not found.converged


def test_missing_arms_and_values_are_dropped_and_counted():
    scores = study(10)
    scores.loc[3, "dice"] = np.nan
    found = mixed_model(scores.drop(index=10), "dice")
    assert (found.n_obs, found.dropped) == (len(scores) - 2, 1)
    assert "1 rows without a value left out" in found.notes
    assert found.converged


def test_volumes_that_do_not_vary_or_are_not_known_are_left_out_in_words():
    scores = study(11, twice=5)
    same = mixed_model(scores.assign(reference_volume_ml=5.0), "dice")
    assert any("is the same in all scans" in note for note in same.notes)
    unknown = mixed_model(scores.assign(reference_volume_ml=np.nan), "dice")
    assert any("is not known of every scan" in note for note in unknown.notes)
    assert "log_volume" not in set(unknown.effects["term"])


def test_the_door():
    with pytest.raises(ValueError, match="'rapid' is not in"):
        mixed_model(study(twice=2), "dice", "rapid")
    with pytest.raises(ValueError, match=r"\['auc'\] are missing"):
        mixed_model(study(twice=2), "auc")


@pytest.mark.slow
def test_type_one_error_is_that_of_patients():
    """200 studies of 63 patients, 31 with two slabs; no arm is better."""
    p = [of_arm(mixed_model(study(seed, twice=31, once=32), "dice"))["p"] for seed in range(200)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.035)


def test_an_arm_counts_the_scans_that_have_it_and_the_reference():
    scores = study(13, twice=10, once=5)  # 25 scans of 15 patients
    of = scores["arm"].eq("cnn"), scores["arm"].eq("expert"), scores["patient"]
    left_out = of[0] & of[2].isin(["p10", "p11", "p12"]) | of[1] & (of[2] == "p13")
    left_out |= of[0] & (scores["case"] == "case_0_1")
    effects = mixed_model(scores[~left_out], "dice").effects.set_index("arm")
    assert effects.loc["cnn", ["n", "n_scans", "n_patients"]].tolist() == [40, 20, 11]
    assert effects.loc["automatic", ["n", "n_scans", "n_patients"]].tolist() == [48, 24, 14]


def failing(monkeypatch, *optimisers):
    from statsmodels.regression.mixed_linear_model import MixedLM

    fit_of = MixedLM.fit

    def fit(self, method, **options):
        if method in optimisers:
            raise np.linalg.LinAlgError("Singular matrix")
        return fit_of(self, method=method, **options)

    monkeypatch.setattr(MixedLM, "fit", fit)


@pytest.mark.parametrize("optimiser", ["powell", "nm"])
def test_where_one_optimiser_fails_the_other_finds_the_effects(monkeypatch, optimiser):
    scores = two_arms(0)
    failing(monkeypatch, optimiser)
    found = mixed_model(scores, "dice")
    assert found.converged and f"{optimiser}: Singular matrix" in found.fit_warnings
    assert of_arm(found)["se"] == pytest.approx(reml(scores)["cnn"][1], rel=0.02)


def test_where_all_optimisers_fail_there_are_no_effects(monkeypatch):
    failing(monkeypatch, "powell", "nm")
    found = mixed_model(study(twice=10), "dice")
    assert not found.converged and found.effects.empty
    assert "no optimiser converged: the numbers are not to be trusted" in found.notes
    assert len(found.fit_warnings) == 2


def test_a_search_that_stops_off_the_peak_has_not_converged(monkeypatch):
    """L-BFGS says that it converged on this cohort, 28 units of log-likelihood too low."""
    monkeypatch.setattr("perfkit.mixedmodel.OPTIMISERS", ("lbfgs",))
    found = mixed_model(two_arms(4), "dice")
    assert not found.converged
    assert any("the numbers are not to be trusted" in note for note in found.notes)


def test_a_search_cut_short_has_not_converged(monkeypatch):
    monkeypatch.setattr("perfkit.mixedmodel.MAX_ITERATIONS", 1)
    found = mixed_model(two_arms(0), "dice")
    assert not found.converged
    assert "no optimiser converged: the numbers are not to be trusted" in found.notes
