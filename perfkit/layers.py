"""The weightless part of Fig. 1 as Keras layers; λ, threshold and slope can be made learnable."""

from __future__ import annotations

import numpy as np

from perfkit import paper
from perfkit.arrays import nonzero
from perfkit.corerule import RCBF_SLOPE as SLOPE
from perfkit.corerule import core_probability
from perfkit.deconvolution import deconvolution_operator, flow, lag_window
from perfkit.readout import SOFT_BETA, soft_peak_beta, soft_peak_time
from perfkit.tensors import keras, layers, ops

LEARNABLE = ("threshold", "slope", "lambda_rel")


@keras.saving.register_keras_serializable("perfkit")
class MeanOverSlices(layers.Layer):
    """Average over z, so that any number of slices will do: (B, X, Y, Z, C) -> (B, X, Y, C)."""

    def call(self, x):
        return ops.mean(x, axis=3)

    def compute_output_shape(self, shape):
        return (*shape[:3], shape[4])


class _Positive(layers.Layer):
    """A positive number that may be learned: its logarithm is the weight, so it stays positive."""

    def __init__(self, value, learned, **kwargs):
        super().__init__(**kwargs)
        self.start, self.learned = float(value), bool(learned)
        if self.learned:
            start = keras.initializers.Constant(float(np.log(value)))
            self.log = self.add_weight(shape=(), initializer=start, name="log")
        self.built = True

    @property
    def value(self):
        """The number, a tensor where it is learned."""
        return ops.exp(self.log) if self.learned else self.start


@keras.saving.register_keras_serializable("perfkit")
class Deconvolution(layers.Layer):
    """CBF of every voxel by the exact solver: (B, ..., T) and (B, T) -> (B, ...), ml/100 g/min."""

    def __init__(
        self, matrix="circulant", lambda_rel=paper.LAMBDA_REL, dt=paper.FRAME_INTERVAL, learn=False, **kwargs
    ):
        super().__init__(
            **{**kwargs, "dtype": "float32"}
        )  # never half precision: 1/(σ² + λ²) needs the digits
        self.matrix, self.dt = matrix, dt
        self._lambda = _Positive(lambda_rel, learn, name="lambda_rel")

    @property
    def lambda_rel(self):
        """Strength relative to the largest singular value; a tensor where it is learned."""
        return self._lambda.value

    def call(self, series, aif, valid=None):
        return flow(self.irf(series, aif, valid))

    def irf(self, series, aif, valid=None):
        """Compute k at the lags that are searched: (B, ..., T) and (B, T) -> (B, ..., W), 1/s."""
        n_frames = aif.shape[-1]
        operator = deconvolution_operator(
            aif, self.dt, matrix=self.matrix, lambda_rel=self.lambda_rel, valid=valid
        )
        lags = lag_window(n_frames, self.dt, self.matrix)
        readout = ops.transpose(ops.take(operator, lags % operator.shape[-2], axis=1), (0, 2, 1))  # (B, T, W)
        if valid is not None:  # lags beyond the end of the scan are padding, not to be searched
            readout = readout * _before_the_end(valid, np.count_nonzero(lags < 0))[:, None]
        voxels = ops.reshape(series, (ops.shape(series)[0], -1, n_frames))
        return ops.reshape(ops.matmul(voxels, readout), (*ops.shape(series)[:-1], len(lags)))

    def get_config(self):
        own = {"matrix": self.matrix, "lambda_rel": self._lambda.start, "dt": self.dt}
        return {**super().get_config(), **own, "learn": self._lambda.learned}


def _before_the_end(valid, n_negative):
    return ops.concatenate([ops.ones_like(valid[:, :1])] * n_negative + [valid], axis=-1)


@keras.saving.register_keras_serializable("perfkit")
class SoftTmax(layers.Layer):
    """Tmax as the soft argmax of k, ever sharper in training: (B, ..., W), T -> (B, ...), s."""

    def __init__(self, matrix="circulant", dt=paper.FRAME_INTERVAL, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.matrix, self.dt = matrix, dt
        start = keras.initializers.Constant(SOFT_BETA[1])
        self.beta = self.add_weight(shape=(), initializer=start, trainable=False, name="beta")
        self.built = True

    def anneal(self, progress: float) -> None:
        """Set the sharpness for the share of the training, 0 to 1, that is done."""
        self.beta.assign(soft_peak_beta(progress))

    def call(self, irf, n_frames):
        lags = lag_window(n_frames, self.dt, self.matrix)  # Keras would make a tensor of them on the way in
        return soft_peak_time(irf, lags, self.dt, beta=ops.convert_to_tensor(self.beta))

    def get_config(self):
        return {**super().get_config(), "matrix": self.matrix, "dt": self.dt}


@keras.saving.register_keras_serializable("perfkit")
class RelativeCBF(layers.Layer):
    """CBF over its mean in the reference tissue, both attached to the graph: (B, ...) -> (B, ...)."""

    def call(self, cbf, reference_tissue):
        axes = tuple(range(1, len(cbf.shape)))
        weights = ops.cast(reference_tissue, cbf.dtype)
        total = ops.sum(cbf * weights, axis=axes, keepdims=True)
        return cbf * ops.sum(weights, axis=axes, keepdims=True) / nonzero(ops, total)


@keras.saving.register_keras_serializable("perfkit")
class CoreProbability(layers.Layer):
    """Turn rCBF into the probability of core: σ((θ − rCBF) / s), with Tmax times σ((Tmax − 6 s) / 1 s).

    Paper: Method, lesion map.
    """

    def __init__(self, threshold=paper.RCBF_THRESHOLD, slope=SLOPE, learn=(), **kwargs):
        super().__init__(**kwargs)
        self.learn = tuple(learn)
        self._threshold = _Positive(threshold, "threshold" in self.learn, name="threshold")
        self._slope = _Positive(slope, "slope" in self.learn, name="slope")

    @property
    def threshold(self):
        """Centre of the sigmoid in rCBF; a tensor where it is learned."""
        return self._threshold.value

    @property
    def slope(self):
        """Width of the sigmoid in rCBF; a tensor where it is learned."""
        return self._slope.value

    def call(self, rcbf, tmax=None):
        return core_probability(rcbf, tmax, threshold=self.threshold, slope=self.slope)

    def get_config(self):
        own = {"threshold": self._threshold.start, "slope": self._slope.start, "learn": self.learn}
        return {**super().get_config(), **own}
