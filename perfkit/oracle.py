"""The best AIF, threshold and λ for one scan, found on its true core by the gradients of training."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from perfkit import paper
from perfkit.aif import brain_mean_aif
from perfkit.clock import on_seconds
from perfkit.network import (
    AIF_SIGMA,
    SLOPE,
    CoreProbability,
    Deconvolution,
    RelativeCBF,
    _gaussian,
    keras,
    soft_dice_loss,
)
from perfkit.preprocessing import Prepared

VOXELS = 8000  # our choice: half of them core at most; all voxels of a scan would cost six times more
PAIRS = 16384  # our choice: a core voxel and another each; their mean has an error below .004
STEPS = 60  # our choice: three times as many gain .01 of Dice for the AIF (docs/learned-aif.md)
LEARNING_RATE = 0.1  # of the AIF's peak a step; our choice: in 60 steps it comes further than .03
RANKING_WIDTH = 0.1  # rCBF; our choice: pairs that differ by less count as nearly even
CLIP = 1.0  # largest norm of the gradient, as in training
ops = keras.ops


@dataclass(frozen=True, eq=False)
class Setting:
    """What turns curves into a core: aif (T,) of any unit, threshold in rCBF, and lambda_rel."""

    aif: np.ndarray
    threshold: float = paper.RCBF_THRESHOLD
    lambda_rel: float = paper.LAMBDA_REL


@dataclass(frozen=True, eq=False)
class Target:
    """One scan on frames 1 s apart, 0 after its end: all its brain, and the sample that is optimised on.

    Attributes
    ----------
    curves : (V, T), HU above baseline; core, reference : (V,) bool; valid : (T,), 1 at real frames
    inputs : of the model: sampled voxels with their weights, and pairs of a core voxel and another
    """

    id: str
    patient: str
    curves: np.ndarray
    core: np.ndarray
    reference: np.ndarray
    valid: np.ndarray
    dt: float
    mean_curve: np.ndarray
    inputs: dict

    def on_clock(self, aif):
        """Take an AIF from the frames of the scan to those here, its largest value 1: (T,)."""
        aif = np.asarray(aif, float)
        clock = np.arange(int(self.valid.sum())) * paper.FRAME_INTERVAL
        curve = np.zeros(len(self.valid), np.float32)
        curve[: len(clock)] = np.interp(clock, self.dt * np.arange(len(aif)), aif)
        return curve / max(np.abs(curve).max(), np.finfo(np.float32).tiny)


def make_target(prepared: Prepared, n_frames: int, *, seed: int = 0, voxels: int = VOXELS) -> Target:
    """Put a scan on frames 1 s apart and draw the sample to optimise on.

    Parameters
    ----------
    prepared : with a core that has a voxel in the brain, but not all of it
    n_frames : of the longest scan, on frames 1 s apart; shorter ones are padded
    seed : of the sample
    voxels : size of the sample

    Notes
    -----
    Up to half of the sample is core, so that a small one is not lost; the other voxels weigh as much more as
    they were drawn more rarely, which leaves the expected soft Dice as it is. A smaller brain is padded with
    voxels of weight 0: all scans share one graph.
    """
    brain = prepared.brain
    curves = _padded(on_seconds(prepared.concentration[brain], prepared.dt), n_frames)
    core, reference = prepared.core[brain].astype(bool), prepared.reference_tissue[brain].astype(bool)
    rng = np.random.default_rng([seed, zlib.crc32(prepared.id.encode())])
    inside, outside = np.flatnonzero(core), np.flatnonzero(~core)
    ill = rng.permutation(inside)[: voxels // 2]
    other = rng.permutation(outside)[: voxels - len(ill)]
    weight = len(outside) / len(other) / (len(inside) / len(ill))
    valid = (np.arange(n_frames) < seconds(prepared)).astype(np.float32)
    drawn = np.concatenate([ill, other])
    fields = {
        "voxels": curves[drawn],
        "core": core[drawn],
        "reference": reference[drawn],
        "weight": np.where(core[drawn], 1.0, weight),
    }
    inputs = {name: _padded(v.T, voxels).T[None].astype(np.float32) for name, v in fields.items()}
    inputs |= {"valid": valid[None], "ill": rng.integers(0, len(ill), (1, PAIRS)).astype(np.int32)}
    inputs["other"] = rng.integers(len(ill), len(drawn), (1, PAIRS)).astype(np.int32)
    inputs = {name: ops.convert_to_tensor(array) for name, array in inputs.items()}
    mean = brain_mean_aif(prepared).curve
    return Target(prepared.id, prepared.patient, curves, core, reference, valid, prepared.dt, mean, inputs)


def seconds(prepared: Prepared) -> int:
    """Count the frames of a scan once they are 1 s apart."""
    return int(prepared.times[-1] / paper.FRAME_INTERVAL) + 1


@lru_cache(maxsize=4)
def oracle_for(n_frames: int, matrix: str = "volterra") -> Oracle:
    """Give the one oracle of a length and a matrix: its graph takes seconds to make, and keeps nothing."""
    return Oracle(n_frames, matrix)


class Oracle:
    """Optimises settings of scans, all through one graph.

    Parameters
    ----------
    n_frames : of the targets
    matrix : "volterra" or "circulant"
    slope : of the sigmoid, in rCBF
    """

    def __init__(self, n_frames: int, matrix: str = "volterra", slope: float = SLOPE):
        self.model = _Objective(n_frames, matrix, slope)
        optimizer = keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=CLIP)
        self.model.compile(optimizer=optimizer, loss=lambda _, value: value, jit_compile=False)
        optimizer.build(self.model.trainable_variables)
        self.fresh = [np.asarray(v) for v in optimizer.variables]

    def descend(self, target: Target, start: Setting, free=(), *, ranking=False, steps=STEPS):
        """Walk down the objective from a setting, and keep the best that was met on the way.

        Parameters
        ----------
        target : Target
        start : Setting, its AIF on the target's frames
        free : of "aif", "threshold" and "lambda_rel"; without any, the start is only measured
        ranking : order core below other voxels (smooth AUC) instead of soft Dice
        steps : of Adam

        Returns
        -------
        (Setting, loss); the loss is never above that of the start.
        """
        self._begin(start)
        flags = [[float(name in free) for name in ("aif", "threshold", "lambda_rel")]]
        given = {"start": [start.aif], "free": flags, "ranking": [float(ranking)]}
        inputs = target.inputs | {name: ops.convert_to_tensor(v, "float32") for name, v in given.items()}
        best, least = start, np.inf
        for _ in range(steps + 1 if free else 1):
            here = self._setting(start, target.valid)
            self.model.reset_metrics()
            loss = float(self.model.train_on_batch(inputs, np.zeros(1, np.float32)))
            if not np.isfinite(loss):
                break  # the variables are lost; what was best before stays
            if loss < least:
                best, least = here, loss
        return best, least

    def rcbf(self, target: Target, setting: Setting):
        """Compute rCBF of all the brain of a target: (V,)."""
        batch = [np.asarray(a, np.float32)[None] for a in (target.curves, setting.aif, target.valid)]
        cbf = self.model.deconvolution(*batch, np.float32(setting.lambda_rel))
        found = self.model.relative_cbf(cbf, target.reference[None])
        return ops.convert_to_numpy(found)[0].astype(float)

    def _begin(self, start):
        values = (np.zeros_like(start.aif), start.threshold, np.log(start.lambda_rel))
        for variable, value in zip(self.model.trainable_variables, values, strict=True):
            variable.assign(value)
        for variable, value in zip(self.model.optimizer.variables, self.fresh, strict=True):
            variable.assign(value)

    def _setting(self, start, valid):
        shift, threshold, log_lambda = (ops.convert_to_numpy(v) for v in self.model.trainable_variables)
        return replace(
            start,
            aif=(start.aif + shift @ self.model.smoothing) * valid,
            threshold=float(threshold),
            lambda_rel=float(np.exp(log_lambda)),
        )


class _Objective(keras.Model):
    """From a sample of voxels to soft Dice loss or smooth AUC loss, through what is optimised."""

    def __init__(self, n_frames, matrix, slope):
        super().__init__(name="objective")
        self.shift = self.add_weight(shape=(n_frames,), initializer="zeros", name="shift")
        self.threshold = self.add_weight(shape=(), initializer="zeros", name="threshold")
        self.log_lambda = self.add_weight(shape=(), initializer="zeros", name="log_lambda")
        self.smoothing = _gaussian(n_frames, AIF_SIGMA)
        self.deconvolution = _DeconvolutionAt(matrix, name="deconvolution")
        self.relative_cbf = RelativeCBF()
        self.core_probability = CoreProbability(0.0, slope)
        self.built = True

    def call(self, inputs):
        aif_free, threshold_free, lambda_free = (inputs["free"][0, k] for k in range(3))
        shift = _gated(self.shift, aif_free)
        aif = (inputs["start"] + ops.matmul(shift[None], self.smoothing)) * inputs["valid"]
        strength = ops.exp(_gated(self.log_lambda, lambda_free))
        cbf = self.deconvolution(inputs["voxels"], aif, inputs["valid"], strength)
        rcbf = self.relative_cbf(cbf, inputs["reference"])
        p = self.core_probability(rcbf - _gated(self.threshold, threshold_free))
        overlap_loss = soft_dice_loss(inputs["core"], p * inputs["weight"])
        ill, other = (ops.take(rcbf[0], inputs[name][0]) for name in ("ill", "other"))
        ranking_loss = ops.mean(ops.sigmoid((ill - other) / RANKING_WIDTH))
        return inputs["ranking"] * ranking_loss + (1 - inputs["ranking"]) * overlap_loss


class _DeconvolutionAt(Deconvolution):
    """The layer with λ_rel as one more input."""

    lambda_rel = property(lambda self: self._at)

    def call(self, series, aif, valid, lambda_rel):
        self._at = lambda_rel
        return super().call(series, aif, valid)


def _gated(variable, free):
    """The variable; its gradient passes where free is 1 and stops where it is 0."""
    return free * variable + (1 - free) * ops.stop_gradient(ops.convert_to_tensor(variable))


def _padded(curves, n):
    """Zeros after the end of the last axis, up to n."""
    return np.pad(curves, [(0, 0)] * (curves.ndim - 1) + [(0, n - curves.shape[-1])]).astype(np.float32)
