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
