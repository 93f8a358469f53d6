"""The network that generates the AIF, and the whole model of Fig. 1, in Keras on any backend."""

from __future__ import annotations

import os

import numpy as np

from perfkit import paper
from perfkit.arrays import checked_lambda, checked_positive, namespace, nonzero, real_tensor
from perfkit.deconvolution import MATRICES, deconvolution_operator, flow, lag_window

if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
    import keras
else:  # TensorFlow greets with a page about itself, the first lines of it past every setting
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    _stderr, _nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(_nowhere, 2)
    try:
        import keras
    finally:
        os.dup2(_stderr, 2)
        os.close(_stderr)
        os.close(_nowhere)
from keras import layers, ops

N_FRAMES = 64  # frames of the network's clock; the longest ISLES 2018 scan has 64 at 1 s
MIN_VIEW = 16  # voxels per side; four poolings by 2 leave one of them
VIEW_SIZE = 48  # voxels per side that the network looks at; our choice: 5 mm suffice to see a bolus
SLOPE = 0.05  # rCBF; the paper does not state it (docs/science.md: 0.02-0.05 are sensible)
FILTERS = (16, 32, 32, 64)  # our choice: two 3D and two 2D convolutions; the paper gives no numbers
DROPOUT = 0.2  # our choice, likewise
AIF_SIGMA = 1.5  # frames; our choice: the AIF of a smoothed series is itself no rougher than this


def aif_network(n_frames: int = N_FRAMES, *, filters=FILTERS, dropout: float = DROPOUT, seed: int = 0):
    """Build the CNN that regresses the AIF from a series.

    Paper: Method, CNN.

    Parameters
    ----------
    n_frames : time points; they are the input channels and the outputs
    filters : two numbers for the 3D convolutions, then any for the 2D ones
    dropout : rate after each convolution
    seed : of the initial weights and of dropout

    Returns
    -------
    keras.Model, (B, X, Y, Z, n_frames) -> (B, n_frames); any X, Y >= 16, any Z

    Notes
    -----
    Average pooling and dropout follow each convolution, ReLU everywhere but at the output. The mean
    over z comes after the 3D part, and a mean over the plane before the dense layer, so one network
    serves every grid.
    """
    if len(filters) < 3:
        raise ValueError(
            f"The network needs two 3D and at least one 2D convolution: {len(filters)} filters came."
        )
    seeds = iter(range(1000 * seed, 1000 * seed + 1000))

    def start():
        return keras.initializers.GlorotUniform(seed=next(seeds))

    series = x = layers.Input((None, None, None, n_frames), name="view")
    for width in filters[:2]:
        x = layers.Conv3D(width, 3, padding="same", activation="relu", kernel_initializer=start())(x)
        x = layers.AveragePooling3D((2, 2, 1))(x)
        x = layers.Dropout(dropout, seed=next(seeds))(x)
    x = MeanOverSlices()(x)
    for width in filters[2:]:
        x = layers.Conv2D(width, 3, padding="same", activation="relu", kernel_initializer=start())(x)
        x = layers.AveragePooling2D(2)(x)
        x = layers.Dropout(dropout, seed=next(seeds))(x)
    x = layers.GlobalAveragePooling2D()(x)
    aif = layers.Dense(n_frames, kernel_initializer=start(), name="aif")(x)
    return keras.Model(series, aif, name="aif_network")


@keras.saving.register_keras_serializable("perfkit")
class MeanOverSlices(layers.Layer):
    """Average over z, so that any number of slices will do: (B, X, Y, Z, C) -> (B, X, Y, C)."""

    def call(self, x):
        return ops.mean(x, axis=3)

    def compute_output_shape(self, shape):
        return (*shape[:3], shape[4])


@keras.saving.register_keras_serializable("perfkit")
class Deconvolution(layers.Layer):
    """CBF of every voxel by the exact solver: (B, ..., T) and (B, T) -> (B, ...), ml/100 g/min."""

    def __init__(self, matrix="circulant", lambda_rel=paper.LAMBDA_REL, dt=paper.FRAME_INTERVAL, **kwargs):
        super().__init__(dtype="float32", **kwargs)  # never half precision: 1/(σ² + λ²) needs the digits
        self.matrix, self.lambda_rel, self.dt = matrix, lambda_rel, dt

    def call(self, series, aif, valid=None):
        n_frames = aif.shape[-1]
        operator = deconvolution_operator(
            aif, self.dt, matrix=self.matrix, lambda_rel=self.lambda_rel, valid=valid
        )
        lags = lag_window(n_frames, self.dt, self.matrix)
        readout = ops.transpose(ops.take(operator, lags % operator.shape[-2], axis=1), (0, 2, 1))  # (B, T, W)
        if valid is not None:  # lags beyond the end of the scan are padding, not to be searched
            readout = readout * _before_the_end(valid, np.count_nonzero(lags < 0))[:, None]
        voxels = ops.reshape(series, (ops.shape(series)[0], -1, n_frames))
        return ops.reshape(flow(ops.matmul(voxels, readout)), ops.shape(series)[:-1])

    def get_config(self):
        return {**super().get_config(), "matrix": self.matrix, "lambda_rel": self.lambda_rel, "dt": self.dt}


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
    """Turn rCBF into the probability of core: σ((θ − rCBF) / s).

    Paper: Method, lesion map.
    """

    def __init__(self, threshold=paper.RCBF_THRESHOLD, slope=SLOPE, **kwargs):
        super().__init__(**kwargs)
        self.threshold, self.slope = threshold, slope

    def call(self, rcbf):
        return ops.sigmoid((self.threshold - rcbf) / self.slope)

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold, "slope": self.slope}


@keras.saving.register_keras_serializable("perfkit")
class DeconvolutionModel(keras.Model):
    """From a series to the core probability through a generated AIF; see ``deconvolution_model``."""

    def __init__(
        self,
        network,
        matrix="circulant",
        lambda_rel=paper.LAMBDA_REL,
        threshold=paper.RCBF_THRESHOLD,
        slope=SLOPE,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.network = network
        self.smoothing = _gaussian(network.output_shape[-1], AIF_SIGMA)
        self.deconvolution = Deconvolution(matrix, lambda_rel, name="deconvolution")
        self.relative_cbf = RelativeCBF(name="relative_cbf")
        self.core_probability = CoreProbability(threshold, slope, name="core_probability")

    @property
    def n_frames(self) -> int:
        """Frames of the network's clock."""
        return self.network.output_shape[-1]

    def call(self, inputs, training=False):
        inputs = _inputs(inputs, self.n_frames)
        series = ops.cast(inputs["series"], "float32")
        aif = self.aif(inputs, training=training)
        cbf = self.deconvolution(series, aif, inputs.get("valid"))
        brain = ops.cast(inputs["brain"], "float32") if "brain" in inputs else _with_contrast(series)
        rcbf = self.relative_cbf(cbf, inputs.get("reference_tissue", brain))
        return self.core_probability(rcbf) * brain

    def aif(self, inputs, training=False):
        """Generate the AIF on the frames of the series: (B, T)."""
        inputs = _inputs(inputs, self.n_frames)
        n_frames = inputs["series"].shape[-1]
        view = inputs["view"] if "view" in inputs else network_view(inputs["series"], self.n_frames)
        aif = self.generate(view, training=training)
        if "undo" in inputs:
            aif = ops.matmul(inputs["undo"], aif[..., None])[..., 0]
        aif = _fit_time(ops, aif, n_frames)
        return aif * inputs["valid"] if "valid" in inputs else aif

    def generate(self, view, training=False):
        """Let the network look: (B, x, y, Z, n_frames) -> AIF on its clock, smoothed, (B, n_frames)."""
        return ops.matmul(self.network(view, training=training), self.smoothing)

    def build(self, input_shape=None):
        self.built = True

    def get_config(self):
        return {
            **super().get_config(),
            "network": keras.saving.serialize_keras_object(self.network),
            "matrix": self.deconvolution.matrix,
            "lambda_rel": self.deconvolution.lambda_rel,
            "threshold": self.core_probability.threshold,
            "slope": self.core_probability.slope,
        }

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("network")), **config)


def deconvolution_model(
    network=None,
    *,
    n_frames: int = N_FRAMES,
    matrix: str = "circulant",
    lambda_rel: float = paper.LAMBDA_REL,
    threshold: float = paper.RCBF_THRESHOLD,
    slope: float = SLOPE,
    seed: int = 0,
):
    """Join network, deconvolution, normalisation and sigmoid: one model, trained by core masks alone.

    Paper: Fig. 1.

    Parameters
    ----------
    network : keras.Model, (B, X, Y, Z, n_frames) -> (B, n_frames); default: ``aif_network``
    n_frames : frames of the network's clock, where no network is given
    matrix, lambda_rel : of the deconvolution
    threshold, slope : centre and width of the sigmoid in rCBF
    seed : of the default network

    Returns
    -------
    keras.Model. It takes the series (B, X, Y, Z, T), HU above baseline, or a dict with "series" and

    - "reference_tissue", "brain" : (B, X, Y, Z); without them all voxels with contrast are both,
      which lets a lesion into its own normaliser: give them wherever they are known,
    - "view" : (B, x, y, Z, n_frames), what the network sees; default: ``network_view`` of the series
      (then "series" may also hold gathered voxels, (B, V, T)),
    - "undo" : (B, n_frames, n_frames), takes the AIF of an augmented view back to the series,
    - "valid" : (B, T), 0 at frames that are padding,

    and gives core_probability (B, X, Y, Z) in [0, 1], 0 outside the brain. ``model.aif(inputs)`` gives
    the AIF, (B, T).

    Notes
    -----
    Any T: the network looks at ``n_frames`` frames; a shorter scan repeats its last one, and the AIF
    is cut to the scan; of a longer scan it sees the first ``n_frames``, and the AIF keeps its last value.
    Where Keras traces one graph for scans of different T, they are padded to ``n_frames``,
    and none may be longer.
    """
    if matrix not in MATRICES:
        raise ValueError(f"matrix must be one of {', '.join(MATRICES)}: {matrix!r} came.")
    lambda_rel = checked_lambda(lambda_rel)
    slope = checked_positive(slope, "slope, the width of the sigmoid in rCBF,", "Try 0.05.")
    network = aif_network(n_frames, seed=seed) if network is None else network
    return DeconvolutionModel(network, matrix, lambda_rel, threshold, slope, name="deconvolution_model")


def network_view(series, n_frames: int = N_FRAMES, size: int = VIEW_SIZE):
    """Show the network the series coarsely, on its clock, and free of the scale of contrast.

    Parameters
    ----------
    series : (B, X, Y, Z, T), HU above baseline, 0 outside the brain
    n_frames : frames of the clock
    size : largest number of voxels per side; the plane is averaged over blocks until it fits

    Returns
    -------
    view : (B, x, y, Z, n_frames), in units of the mean curve's largest value
    """
    xp = namespace(series)
    if len(series.shape) != 5:
        raise ValueError(
            f"The network looks at series (B, X, Y, Z, T): shape {tuple(series.shape)} came. "
            "Try series[None] for one scan."
        )
    # sizes that a graph does not know are tensors; for them Python's max would not do
    sizes = series.shape if xp is np else ops.shape(series)
    nx, ny = sizes[1:3]
    known = all(isinstance(n, int) for n in (nx, ny))
    step = max(1, -(-max(nx, ny) // size)) if known else ops.maximum(1, -(-ops.maximum(nx, ny) // size))
    px, py = -nx % step, -ny % step
    series = xp.pad(series, ((0, 0), (0, px), (0, py), (0, 0), (0, 0)))
    shape = (-1, (nx + px) // step, step, (ny + py) // step, step, sizes[3], sizes[4])
    view = xp.mean(xp.reshape(series, shape), axis=(2, 4))
    mean_curve = xp.mean(view, axis=(1, 2, 3), keepdims=True)
    largest = xp.max(xp.abs(mean_curve), axis=-1, keepdims=True)
    view = view / nonzero(xp, largest)
    if known:  # air, up to what four poolings need: a narrow volume would leave them nothing
        missing = (max(0, MIN_VIEW - n) for n in shape[1:5:2])
        view = xp.pad(view, ((0, 0), *((0, n) for n in missing), (0, 0), (0, 0)))
    return _fit_time(xp, view, n_frames)


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


def _fit_time(xp, x, n_frames):
    """Cut the last axis, or repeat its last value, to a length."""
    if x.shape[-1] is None:
        long = xp.concatenate([x, xp.repeat(x[..., -1:], n_frames, axis=-1)], axis=-1)
        return xp.reshape(long[..., :n_frames], (*xp.shape(x)[:-1], n_frames))
    missing = n_frames - x.shape[-1]
    if missing <= 0:
        return x[..., :n_frames]
    return xp.concatenate([x, xp.repeat(x[..., -1:], missing, axis=-1)], axis=-1)


def _inputs(inputs, n_frames):
    """The inputs as a dict, checked; a series of unknown T, in a graph, is padded to ``n_frames``."""
    inputs = dict(inputs) if isinstance(inputs, dict) else {"series": inputs}
    if inputs.get("series") is None:
        raise ValueError(f"The model needs a series: {', '.join(inputs)} came. Give it, or a dict with it.")
    series = inputs["series"]
    for name in {"brain", "reference_tissue"} & set(inputs):
        if not _may_equal(inputs[name].shape, series.shape[:-1]):
            raise ValueError(
                f"{name} must have the shape of the voxels, {tuple(series.shape[:-1])}: "
                f"{tuple(inputs[name].shape)} came."
            )
    if series.shape[-1] is not None:
        return inputs
    inputs.setdefault("view", network_view(series, n_frames))
    valid = inputs.get(
        "valid", ops.ones_like(series[:, 0, 0, 0, :] if len(series.shape) == 5 else series[:, 0])
    )
    missing = n_frames - ops.shape(series)[-1]
    for name, curves in (("series", series), ("valid", valid)):
        padded = ops.pad(curves, [(0, 0)] * (len(curves.shape) - 1) + [(0, missing)])
        inputs[name] = ops.reshape(padded, (*ops.shape(curves)[:-1], n_frames))
    return inputs


def _may_equal(a, b):
    """Whether two shapes can be equal, as far as a graph knows them."""
    return len(a) == len(b) and all(None in (m, n) or m == n for m, n in zip(a, b, strict=True))


def _gaussian(n, sigma):
    """Columns average a curve's frames; at the ends they average what is there."""
    weights = np.exp(-0.5 * (np.subtract.outer(np.arange(n), np.arange(n)) / sigma) ** 2)
    return (weights / weights.sum(axis=0)).astype(np.float32)


def _before_the_end(valid, n_negative):
    return ops.concatenate([ops.ones_like(valid[:, :1])] * n_negative + [valid], axis=-1)


def _with_contrast(series):
    return ops.cast(ops.any(series != 0, axis=-1), "float32")


def as_batch(array, dtype=np.float32):
    """Add the batch axis that Keras wants."""
    return np.asarray(array, dtype)[None]
