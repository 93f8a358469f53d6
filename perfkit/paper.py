"""Every number the paper prints, with its place, and the map from its items to our functions.

The paper: E. de la Rosa, D. Robben, D. M. Sima, J. S. Kirschke, B. Menze, *Differentiable
Deconvolution for Improved Stroke Perfusion Analysis*, MICCAI 2020, LNCS 12267, 593-602.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

LAMBDA_REL = 0.3  # Method: Tikhonov strength relative to the largest singular value
RCBF_THRESHOLD = 0.38  # Method: centre of the sigmoid, the core threshold of Cereda 2016
N_FOLDS = 5  # Experiments: cross-validation
FRAME_INTERVAL = 1.0  # s; Data: ISLES 2018, one volume per second
N_SCANS = 94  # Data: ISLES 2018 training set
IN_PLANE = 256  # Data: pixels per side
BATCH_SIZE = 1  # Method: optimiser
DENSITY = 1.04  # g/ml; Eq. 8: ρ of brain tissue
TRAINING_HOURS = 2.5  # Results: training on a K80
SECONDS_PER_CASE = 1.15  # Results: AIF, deconvolution and lesion on a K80

# Not printed by the paper; the field's value, needed for units (Fieselmann 2011): (1 - .45) / (1 - .25).
HEMATOCRIT_FACTOR = 0.55 / 0.75

# Table 1: arm -> metric -> (mean, sd); the paper prints no SD for AUC.
TABLE1 = {
    "expert": {
        "roc_auc": (0.856, None),
        "dice": (0.353, 0.201),
        "jaccard": (0.233, 0.157),
        "hd95_mm": (54.1, 19.4),
    },
    "automatic": {
        "roc_auc": (0.856, None),
        "dice": (0.351, 0.202),
        "jaccard": (0.232, 0.158),
        "hd95_mm": (55.0, 18.8),
    },
    "cnn": {
        "roc_auc": (0.868, None),
        "dice": (0.359, 0.201),
        "jaccard": (0.238, 0.157),
        "hd95_mm": (53.7, 18.9),
    },
}

# Item of the paper -> what it says. A docstring claims one with the line "Paper: <item>."
ITEMS = {
    "Eq. 1": "indicator dilution: tissue curve = arterial input convolved with the impulse response",
    "Eq. 2": "the convolution integral on the frame times, as a sum",
    "Eq. 3": "the sum as a linear system c = A k",
    "Eq. 4": "entries of A: Volterra discretisation (printed without its lags)",
    "Eq. 5": "singular value decomposition of A",
    "Eq. 6": "solution through the filtered inverse singular values",
    "Eq. 7": "Tikhonov filter σ²/(σ² + λ²), λ = λ_rel σ_max",
    "Eq. 8": "CBF = max k / ρ",
    "Eq. 9": "soft Dice loss",
    "Fig. 1": "the whole model: series → CNN → AIF → deconvolution → rCBF → core probability",
    "Fig. 2": "rCBF maps with core contours: ground truth, expert, automatic, CNN",
    "Fig. 3": "Bland-Altman plots of core volumes per method",
    "Table 1": "AUC, Dice, Jaccard, HD95 per method, mean (sd)",
    "Method, CNN": "3D convolutions, average pool over z, 2D convolutions, one linear output per time point",
    "Method, normalisation": "CBF divided by the mean CBF of healthy tissue",
    "Method, lesion map": "sigmoid centred at rCBF .38",
    "Method, optimiser": "SGD with momentum, batch size 1",
    "Method, augmentation": "bolus delay, AIF peak scaling, rotation, translation, flip, noise",
    "Experiments, data": "ISLES 2018 training set, 94 scans",
    "Experiments, preprocessing": "spatio-temporal smoothing",
    "Experiments, expert AIF": "one global AIF per scan, picked by hand",
    "Experiments, automatic AIF": "an automatic selection (here: Straka's rule)",
    "Experiments, cross-validation": "five folds",
    "Experiments, same pipeline": "only the AIF differs between the methods",
    "Experiments, metrics": "ROC AUC of rCBF, Dice, Jaccard, 95 % Hausdorff distance",
    "Experiments, threshold": "core = rCBF below .38",
    "Experiments, tests": "paired t-test, Mann-Whitney U",
    "Experiments, Bland-Altman": "bias and limits of agreement of core volumes",
    "Supplement, AIF curves": "the curves of all methods, case by case",
}


@dataclass(frozen=True)
class Realisation:
    """Where an item of the paper lives in the code."""

    item: str
    path: Path
    line: int
    function: str


def realisations(package: Path | None = None) -> list[Realisation]:
    """Read the ``Paper:`` lines of all docstrings below ``package``.

    Parameters
    ----------
    package : folder of Python files; default: this package.

    Returns
    -------
    One entry per claim, in the order of ``ITEMS``; claims of unknown items come last.
    """
    package = package or Path(__file__).parent
    found = [claim for path in sorted(package.rglob("*.py")) for claim in _claims(path)]
    order = {item: i for i, item in enumerate(ITEMS)}
    return sorted(found, key=lambda claim: (order.get(claim.item, len(order)), str(claim.path), claim.line))


def _claims(path: Path) -> list[Realisation]:
    claims = []
    for owner, node in _definitions(ast.parse(path.read_text(encoding="utf-8"))):
        doc = ast.get_docstring(node) or ""
        for line in re.findall(r"^Paper: (.+)\.$", doc, flags=re.MULTILINE):
            claims += [Realisation(item.strip(), path, node.lineno, owner) for item in line.split(";")]
    return claims


def _definitions(tree, prefix=""):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name, node
            yield from _definitions(node, f"{prefix}{node.name}.")
