"""What training asks for: soft Dice as in the paper, and terms that say what soft Dice leaves open.

rCBF is blind to the AIF's scale and, with the circulant matrix, to its timing, so no loss of rCBF alone can
tell an artery from another curve. Each term says in its docstring what it identifies; ``Objective`` adds
them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from perfkit.arrays import like, nonzero, real_tensor
from perfkit.clock import bolus
from perfkit.deconvolution import deconvolution_operator, lag_window
from perfkit.readout import soft_peak_time
from perfkit.tensors import keras, ops

CUTS = np.linspace(-0.5, 2.5, 61).astype(np.float32)  # rCBF; our choice: noise to twice the healthy mean
CUT_WIDTH = 0.05  # rCBF; our choice: one step, so the soft ROC curve is smooth on the grid
HEALTHY_TMAX = (2.0, 5.0)  # s; Tikhonov's shift at λ .3 (docs/science.md §1.6) plus a transit of 0-1.5 s
TMAX_SCALE = 2.0  # s; our choice: what counts as one unit of the term
TMAX_BETA = 40.0  # of the soft argmax: biased by .05 s
GAMMA_WIDTHS = np.geomspace(5.0, 22.0, 12)  # s, FWHM; ISLES 2018 has 8.8-19.5, phantoms of others 6
FEW_VOXELS = 6  # our choice: what raters and the published methods take


@keras.saving.register_keras_serializable("perfkit")
def soft_dice_loss(core, core_probability):
    """Measure the disagreement 1 − 2 Σ y p / (Σ y + Σ p), per scan.

    Paper: Eq. 9.

    Parameters
    ----------
    core : (B, ...), 0 or 1 (a single scan without batch axis counts as (1, ...))
    core_probability : (B, ...), in [0, 1], 0 outside the brain

    Returns
    -------
    (B,), in [0, 1]; 0 where both are empty

    Notes
    -----
    It identifies the map at its threshold: where rCBF crosses it, and little else. An AIF that moves the
    whole map past the threshold pays as much as one that ranks voxels better.
    """
    core_probability = real_tensor(core_probability, "The probability")
    core = real_tensor(core, "The mask", core_probability.dtype)
    if not _may_equal(core.shape, core_probability.shape):
        raise ValueError(
            "Mask and probability must have one shape: "
            f"{tuple(core.shape)} and {tuple(core_probability.shape)} came."
        )
    axes = tuple(range(1, len(core.shape)))
    overlap = ops.sum(core * core_probability, axis=axes)
    total = ops.sum(core, axis=axes) + ops.sum(core_probability, axis=axes)
    return ops.where(total == 0, ops.zeros_like(total), 1 - 2 * overlap / nonzero(ops, total))


def _may_equal(a, b):
    """Whether two shapes can be equal, as far as a graph knows them."""
    return len(a) == len(b) and all(None in (m, n) or m == n for m, n in zip(a, b, strict=True))


def ranking_loss(core, rcbf, brain):
    """One minus the area under a smoothed ROC curve of −rCBF, per scan.

    It identifies the order of voxels and is blind to the threshold: what stops soft Dice from buying a shift
    of the whole map with a worse ranking.

    Parameters
    ----------
    core : (B, V), 0 or 1;  rcbf : (B, V);  brain : (B, V), 0 or 1

    Returns
    -------
    (B,), in [0, 1]; 0 where there is no core, or nothing else

    Notes
    -----
    Σ over a grid of cuts of true-positive rate × step of the false-positive rate, trapezia, with each rate a
    mean of sigmoids: all pairs of voxels for the price of 61 cuts.
    """
    below = ops.sigmoid((like(ops, CUTS, rcbf) - rcbf[..., None]) / CUT_WIDTH)  # (B, V, cuts)
    rates = []
    for weight in (core, brain - core):
        weight = weight[..., None]
        rates.append(ops.sum(below * weight, axis=1) / nonzero(ops, ops.sum(weight, axis=1)))
    true, false = (ops.concatenate([r, ops.ones_like(r[:, :1])], axis=-1) for r in rates)
    area = ops.sum((true[:, 1:] + true[:, :-1]) / 2 * (false[:, 1:] - false[:, :-1]), axis=-1)
    area = area + true[:, 0] * false[:, 0] / 2
    inside = ops.logical_and(ops.sum(core, axis=1) > 0, ops.sum(brain - core, axis=1) > 0)
    return ops.where(inside, 1 - area, ops.zeros_like(area))


def cross_entropy(core, core_probability, brain):
    """Mean −log p of the true class over the brain, per scan: calibration of each voxel, rare core included.

    Parameters
    ----------
    core, core_probability, brain : (B, V)

    Returns
    -------
    (B,), nat. It also teaches from scans without core, where soft Dice and ranking have no gradient.
    """
    p = ops.clip(core_probability, 1e-6, 1 - 1e-6)
    of_voxel = -(core * ops.log(p) + (1 - core) * ops.log(1 - p)) * brain
    return ops.sum(of_voxel, axis=1) / nonzero(ops, ops.sum(brain, axis=1))


def volume_loss(core, core_probability, brain):
    """Squared relative difference of predicted and true volume, ((Σp − Σy)/(Σp + Σy))², per scan.

    It identifies the size of the core, which soft Dice biases (Bertels 2019), and not its place.

    Parameters
    ----------
    core, core_probability, brain : (B, V)

    Returns
    -------
    (B,), in [0, 1]; 0 where both are empty
    """
    predicted, true = ops.sum(core_probability * brain, axis=1), ops.sum(core, axis=1)
    return ((predicted - true) / nonzero(ops, predicted + true)) ** 2


def tmax_loss(aif, healthy_curve, valid=None):
    """Say how far healthy tissue lies outside the lag it has behind an artery, per scan.

    It identifies the timing of the AIF, to which rCBF is blind with the circulant matrix: a vein, which
    healthy tissue leads, and a curve before any artery both pay.

    Parameters
    ----------
    aif : (B, T);  healthy_curve : (B, T), mean curve of the reference tissue, HU
    valid : (B, T), 0 at frames that are padding

    Returns
    -------
    (B,): squared distance of Tmax to 2-5 s, in units of 2 s

    Notes
    -----
    Tmax by the soft argmax of the circulant k at λ_rel 0.3, where an artery's own AIF reads healthy tissue at
    2-5 s (docs/science.md §1.6).
    """
    n = aif.shape[-1]
    lags = lag_window(n, 1.0, "circulant")
    operator = ops.take(deconvolution_operator(aif, 1.0, matrix="circulant"), lags % _circle(n), axis=1)
    curve = healthy_curve if valid is None else healthy_curve * valid
    irf = ops.matmul(operator, curve[..., None])[..., 0]
    time = soft_peak_time(irf, lags, 1.0, beta=TMAX_BETA)
    low, high = HEALTHY_TMAX
    return (ops.relu(low - time) ** 2 + ops.relu(time - high) ** 2) / TMAX_SCALE**2


def _circle(n):
    return 1 << (2 * n - 1).bit_length()


def venous_area_loss(aif, venous_area, valid=None):
    """Squared logarithm of the AIF's area over that of the veins, per scan.

    It identifies the scale, to which rCBF is blind: what flows in flows out, so a curve of smaller area is
    an artery whose voxel holds tissue too.

    Parameters
    ----------
    aif : (B, T), HU;  venous_area : (B,), HU frames;  valid : (B, T)

    Returns
    -------
    (B,); an area that is not positive counts as a hundredth of the veins'
    """
    area = ops.sum(aif if valid is None else aif * valid, axis=-1) / nonzero(ops, venous_area)
    return ops.log(ops.maximum(area, 0.01)) ** 2


def gamma_loss(aif, valid=None):
    """One minus the best cosine between the AIF and boluses as injections make them, per scan.

    It identifies the shape: one fast rise, one decay, a second pass, whatever the map asks for.

    Parameters
    ----------
    aif : (B, T);  valid : (B, T), 0 at frames that are padding

    Returns
    -------
    (B,), in [0, 2]

    Notes
    -----
    The boluses are gamma variates of 12 widths at every half frame, each with a second pass and a plateau of
    the sizes that ISLES 2018 has. A maximum over a dictionary has the gradient of its best entry.
    """
    boluses = like(ops, _boluses(aif.shape[-1]), aif)  # (K, T)
    boluses = boluses if valid is None else boluses[None] * valid[:, None]
    if valid is None:
        boluses = boluses[None]
    product = ops.sum(boluses * aif[:, None], axis=-1)
    norms = ops.sqrt(ops.sum(boluses**2, axis=-1) * ops.sum(aif**2, axis=-1)[:, None] + 1e-12)
    return 1 - ops.max(product / norms, axis=-1)


def _boluses(n):
    t = np.arange(n, dtype=float)
    starts = np.arange(-6, 0.7 * n, 0.5)
    return np.asarray([bolus(t, onset, fwhm) for fwhm in GAMMA_WIDTHS for onset in starts], np.float32)


def spread_loss(weights):
    """Squared shortfall, in log, of the number of voxels that an AIF is pooled from, per scan.

    It identifies nothing about the artery; it keeps the AIF from being the noise of the one voxel that the
    other terms like best.

    Parameters
    ----------
    weights : (B, V), which sum to 1

    Returns
    -------
    (B,); 0 from six voxels on, counted as 1/Σw²
    """
    count = 1 / ops.sum(weights**2, axis=1)
    return ops.relu(float(np.log(FEW_VOXELS)) - ops.log(count)) ** 2


@dataclass(frozen=True)
class Objective:
    """Weights of the terms; 0 leaves one out.

    Attributes
    ----------
    dice : soft Dice, the paper's only term
    ranking, cross_entropy, volume : of the map
    tmax, venous_area, gamma : physical terms, of the AIF
    spread : of a pooled AIF; nothing for a regressed one
    """

    dice: float = 1.0
    ranking: float = 4.0
    cross_entropy: float = 0.0
    volume: float = 0.0
    tmax: float = 0.0
    venous_area: float = 0.0
    gamma: float = 0.0
    spread: float = 0.0

    def terms(self, inputs: dict, core, outputs: dict) -> dict:
        """Compute the terms whose weight is not 0: name → (B,).

        Parameters
        ----------
        inputs : of the model, with "brain", "reference_tissue", "series", "valid" and, for the term that asks
            for it, "venous_area"
        core : (B, V)
        outputs : of ``DeconvolutionModel.outputs``
        """
        p, rcbf, aif = (outputs[name] for name in ("core_probability", "rcbf", "aif"))
        brain, valid = ops.cast(inputs["brain"], p.dtype), inputs.get("valid")
        core = ops.cast(core, p.dtype)
        ways = {
            "dice": lambda: soft_dice_loss(core, p),
            "ranking": lambda: ranking_loss(core, rcbf, brain),
            "cross_entropy": lambda: cross_entropy(core, p, brain),
            "volume": lambda: volume_loss(core, p, brain),
            "tmax": lambda: tmax_loss(aif, _healthy(inputs), valid),
            "venous_area": lambda: venous_area_loss(aif, inputs["venous_area"], valid),
            "gamma": lambda: gamma_loss(aif, valid),
        }
        if "weights" in outputs:
            ways["spread"] = lambda: spread_loss(outputs["weights"][..., 0])
        return {name: ways[name]() for name, weight in asdict(self).items() if weight and name in ways}

    def total(self, terms: dict):
        """Add the terms: (B,)."""
        return sum(getattr(self, name) * value for name, value in terms.items())


def _healthy(inputs):
    series = ops.convert_to_tensor(inputs["series"])
    weight = ops.cast(inputs["reference_tissue"], series.dtype)
    total = ops.matmul(weight[:, None], series)[:, 0]
    return total / nonzero(ops, ops.sum(weight, axis=-1, keepdims=True))


# our choice: with four parts of ranking neither AUC nor Dice is bought with the other (docs/learned-aif.md)
OBJECTIVES = {
    "paper": Objective(ranking=0.0),
    "ranking": Objective(),
    "physical": Objective(tmax=1.0, venous_area=0.3, gamma=3.0, spread=1.0),
}
