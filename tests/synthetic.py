"""Scores of a study that never ran, for tests of tables, figures and reports."""

import numpy as np
import pandas as pd


def synthetic_scores(n=20, seed=0, arms=("expert", "automatic", "cnn", "brain_mean")):
    """Make scores of n scans; scans 0-1, 2-3, … of the first half share a patient."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        difficulty, reference = rng.normal(0, 0.1), rng.lognormal(2.8, 1)
        patient = f"p{i // 2}" if i < n // 2 else f"p{i}"
        for arm in arms:
            for matrix in ("circulant", "volterra"):
                dice = float(np.clip(0.37 + difficulty + rng.normal(0, 0.04), 0, 1))
                rows.append(
                    {
                        "case": f"case_{i + 1}",
                        "patient": patient,
                        "arm": arm,
                        "matrix": matrix,
                        "roc_auc": 0.86 + 0.2 * difficulty + rng.normal(0, 0.01),
                        "dice": dice,
                        "jaccard": dice / (2 - dice),
                        "hd95_mm": rng.normal(54, 19),
                        "volume_ml": reference * rng.lognormal(0, 0.4),
                        "reference_volume_ml": reference,
                    }
                )
    return pd.DataFrame(rows)


def synthetic_patients(scores):
    """Join the scans of each patient as a study does, as far as the columns of ``scores`` go."""
    keys = ["patient", "arm", "matrix"]
    summed = [name for name in ("volume_ml", "reference_volume_ml") if name in scores]
    rest = [name for name in scores.columns if name not in {*keys, "case", *summed}]
    groups = scores.groupby(keys, sort=False)
    table = groups[rest].mean().join(groups[summed].sum())
    table["cases"] = groups["case"].agg(" + ".join)
    table["n_scans"] = groups.size()
    table["hypoperfusion_ml"] = 3 * table["reference_volume_ml"] + table["volume_ml"]
    return table.reset_index()


def synthetic_curves(patients):
    """ROC curves and threshold curves of made-up patients."""
    roc, cuts = [], []
    for row in patients[["patient", "arm", "matrix", "dice"]].to_dict("records"):
        names = {name: row[name] for name in ("patient", "arm", "matrix")}
        rates = np.linspace(0, 1, 21)
        roc.append(pd.DataFrame(names | {"fpr": rates, "tpr": rates**0.3}))
        cut = np.linspace(0.1, 1, 10).round(2)
        cuts.append(
            pd.DataFrame(names | {"threshold": cut, "dice": row["dice"] * np.exp(-((cut - 0.4) ** 2))})
        )
    return pd.concat(roc, ignore_index=True), pd.concat(cuts, ignore_index=True)
