"""The whole model of Fig. 1, from a series to the core probability, in Keras on any backend."""

from __future__ import annotations

import numpy as np

from perfkit import paper
from perfkit.arrays import checked_lambda, checked_positive, namespace, nonzero
from perfkit.clock import N_FRAMES, clock_matrices, half_rise
from perfkit.deconvolution import MATRICES, flow
from perfkit.heads import VoxelPooling, aif_network
from perfkit.layers import LEARNABLE, SLOPE, CoreProbability, Deconvolution, RelativeCBF, SoftTmax
from perfkit.losses import soft_dice_loss
from perfkit.tensors import keras, ops

MIN_VIEW = 16  # voxels per side; four poolings by 2 leave one of them
VIEW_SIZE = 48  # voxels per side that the network looks at; our choice: 5 mm suffice to see a bolus
AIF_SIGMA = 1.5  # frames; our choice: the AIF of a smoothed series is itself no rougher than this
HEADS = ("cnn", "pool")

__all__ = ["DeconvolutionModel", "aif_network", "deconvolution_model", "network_view", "soft_dice_loss"]


@keras.saving.register_keras_serializable("perfkit")
class DeconvolutionModel(keras.Model):
    """From a series to the core probability through a proposed AIF; see ``deconvolution_model``."""

    def __init__(
        self,
        network,
        matrix="circulant",
        lambda_rel=paper.LAMBDA_REL,
        threshold=paper.RCBF_THRESHOLD,
        slope=SLOPE,
        learn=(),
        tmax_factor=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.network, self.learn = network, tuple(learn)
        self.pools = isinstance(network, VoxelPooling)
        self.deconvolution = Deconvolution(
            matrix, lambda_rel, learn="lambda_rel" in self.learn, name="deconvolution"
        )
        self.relative_cbf = RelativeCBF(name="relative_cbf")
        self.soft_tmax = SoftTmax(matrix, name="soft_tmax") if tmax_factor else None
        of_the_map = [name for name in self.learn if name != "lambda_rel"]
        self.core_probability = CoreProbability(threshold, slope, of_the_map, name="core_probability")

    @property
    def n_frames(self) -> int:
        """Frames of the network's clock."""
        return self.network.n_frames if self.pools else self.network.input_shape[-1]

    def call(self, inputs, training=False):
        return self.outputs(inputs, training)["core_probability"]

    def outputs(self, inputs, training=False) -> dict:
        """Give all that losses ask for.

        Parameters
        ----------
        inputs : as for the model

        Returns
        -------
        dict of core_probability, rcbf, cbf : (B, ...); aif : (B, T); with a VOF head, vof : (B, T); of the
        pooling head, weights : (B, V, 1 or 2); with the second factor of the core, tmax : (B, ...), s
        """
        inputs = _inputs(inputs, self.n_frames)
        found = self._propose(inputs, training)
        irf = self.deconvolution.irf(inputs["series"], found["aif"], inputs.get("valid"))
        cbf, late = flow(irf), {}
        if self.soft_tmax is not None:
            late = {"tmax": self.soft_tmax(irf, n_frames=found["aif"].shape[-1])}
        rcbf = self.relative_cbf(cbf, inputs.get("reference_tissue", inputs["brain"]))
        core_probability = self.core_probability(rcbf, *late.values()) * inputs["brain"]
        return {**found, **late, "cbf": cbf, "rcbf": rcbf, "core_probability": core_probability}

    def aif(self, inputs, training=False):
        """Propose the AIF on the frames of the series: (B, T)."""
        return self._propose(_inputs(inputs, self.n_frames), training)["aif"]

    def weights_of(self, inputs):
        """Say where the AIF was taken from: the weights of the voxels, (B, ...), which sum to 1.

        Raises
        ------
        ValueError : the head is no pooling; for a CNN see ``saliency.occlusion``.
        """
        if not self.pools:
            raise ValueError(
                "Only the pooling head has weights: this model's AIF is regressed. Try saliency.occlusion."
            )
        inputs = _inputs(inputs, self.n_frames)
        weights = self._propose(inputs, False)["weights"][..., 0]
        return ops.reshape(weights, ops.shape(inputs["series"])[:-1])

    def _propose(self, inputs, training):
        found = self._pooled(inputs) if self.pools else self._regressed(inputs, training)
        valid = inputs.get("valid")
        if valid is None:
            return found
        return {name: x if name == "weights" else x * valid for name, x in found.items()}

    def _regressed(self, inputs, training):
        if "view" in inputs:
            view, home = inputs["view"], inputs["home"]
        else:
            view, _, home = clock_view(inputs["series"], self.n_frames)
        curves = self.generate(view, training)
        if len(curves.shape) == 2:
            curves = curves[:, None]
        curves = ops.matmul(curves, ops.transpose(home, (0, 2, 1)))
        names = ("aif", "vof")[: curves.shape[1]]
        return {name: curves[:, i] for i, name in enumerate(names)}

    def generate(self, view, training=False):
        """Let the CNN look: (B, x, y, Z, n_frames) -> what it proposes on its clock, smoothed."""
        return ops.matmul(self.network(view, training=training), _gaussian(self.n_frames, AIF_SIGMA))

    def _pooled(self, inputs):
        series, n = inputs["series"], inputs["series"].shape[-1]
        curves = ops.reshape(series, (ops.shape(series)[0], -1, n))
        brain = ops.reshape(inputs["brain"], ops.shape(curves)[:2])
        mean = ops.matmul(brain[:, None], curves)[:, 0] / nonzero(ops, ops.sum(brain, axis=1, keepdims=True))
        toward = inputs.get("toward")
        if toward is None:
            toward, _ = clock_matrices(half_rise(mean), n, self.n_frames)
        peak = ops.max(ops.abs(mean), axis=-1)[:, None, None]
        weights = self.network(curves / nonzero(ops, peak), toward, brain)
        pooled = ops.matmul(ops.transpose(weights, (0, 2, 1)), curves)
        names = ("aif", "vof")[: pooled.shape[1]]
        return {name: pooled[:, i] for i, name in enumerate(names)} | {"weights": weights}

    def build(self, input_shape=None):
        self.built = True

    def get_config(self):
        rule = self.core_probability.get_config()
        return {
            **super().get_config(),
            "network": keras.saving.serialize_keras_object(self.network),
            "matrix": self.deconvolution.matrix,
            "lambda_rel": self.deconvolution.get_config()["lambda_rel"],
            "threshold": rule["threshold"],
            "slope": rule["slope"],
            "learn": self.learn,
            "tmax_factor": self.soft_tmax is not None,
        }

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("network")), **config)


def deconvolution_model(
    network=None,
    *,
    head: str = "cnn",
    n_frames: int = N_FRAMES,
    matrix: str = "circulant",
    lambda_rel: float = paper.LAMBDA_REL,
    threshold: float = paper.RCBF_THRESHOLD,
    slope: float = SLOPE,
    learn=(),
    tmax_factor: bool = False,
    vof: bool = False,
    dtype=None,
    seed: int = 0,
):
    """Join network, deconvolution, normalisation and sigmoid: one model, trained by core masks alone.

    Paper: Fig. 1.

    Parameters
    ----------
    network : keras.Model, (B, X, Y, Z, n_frames) -> (B, n_frames), or a ``heads.VoxelPooling``; default: by
        ``head``
    head : "cnn", the paper's regression, or "pool", the weighted mean of measured curves
    n_frames : frames of the network's clock, where no network is given
    matrix, lambda_rel : of the deconvolution
    threshold, slope : centre and width of the sigmoid in rCBF
    learn : of "threshold", "slope" and "lambda_rel", those that are trained too; none in the paper
    tmax_factor : core is late as well, Tmax above 6 s (Cereda 2016); the paper asks for low flow alone
    vof : propose a venous output function too
    dtype : policy of the CNN's convolutions, such as "mixed_float16"
    seed : of the default network

    Returns
    -------
    keras.Model. It takes the series (B, X, Y, Z, T), HU above baseline, or a dict with "series" and

    - "reference_tissue", "brain" : (B, X, Y, Z); without them all voxels with contrast are both,
      which lets a lesion into its own normaliser: give them wherever they are known,
    - "view" : (B, x, y, Z, n_frames), what the CNN sees, and "home" : (B, T, n_frames), which takes its AIF
      to the frames of the series; default: ``clock_view`` of the series (then "series" may also hold
      gathered voxels, (B, V, T)),
    - "toward" : (B, n_frames, T), the clock of the pooling head; default: by the mean curve,
    - "valid" : (B, T), 0 at frames that are padding,

    and gives core_probability (B, X, Y, Z) in [0, 1], 0 outside the brain. ``model.aif(inputs)`` gives
    the AIF, (B, T), ``model.outputs(inputs)`` everything.

    Notes
    -----
    Any T: the network looks at ``n_frames`` frames of the bolus's clock (``clock``). Where Keras traces one
    graph for scans of different T, they are padded to ``n_frames``, and none may be longer.
    """
    if matrix not in MATRICES:
        raise ValueError(f"matrix must be one of {', '.join(MATRICES)}: {matrix!r} came.")
    if head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}: {head!r} came.")
    if isinstance(learn, str) or not set(learn) <= set(LEARNABLE):
        raise ValueError(f"learn takes a list of names among {', '.join(LEARNABLE)}: {learn!r} came.")
    lambda_rel = checked_lambda(lambda_rel)
    threshold = checked_positive(threshold, "threshold, the centre of the sigmoid in rCBF,", "Try 0.38.")
    slope = checked_positive(slope, "slope, the width of the sigmoid in rCBF,", "Try 0.05.")
    if network is None and head == "pool":
        network = VoxelPooling(n_frames, seed=seed, vof=vof)
    elif network is None:
        network = aif_network(n_frames, seed=seed, vof=vof, dtype=dtype)
    return DeconvolutionModel(
        network, matrix, lambda_rel, threshold, slope, tuple(learn), tmax_factor, name="deconvolution_model"
    )


def clock_view(series, n_clock: int = N_FRAMES, size: int = VIEW_SIZE):
    """Show the network the series coarsely, free of the scale of contrast, on the bolus's clock.

    Parameters
    ----------
    series : (B, X, Y, Z, T), HU above baseline, 0 outside the brain
    n_clock : frames of the clock
    size : as for ``network_view``

    Returns
    -------
    view : (B, x, y, Z, n_clock);  toward : (B, n_clock, T);  home : (B, T, n_clock)
    """
    xp = namespace(series)
    view = network_view(series, size)
    arrival = half_rise(xp.mean(view, axis=(1, 2, 3)))
    toward, home = clock_matrices(arrival, view.shape[-1], n_clock)
    moved = xp.matmul(view, xp.transpose(toward, (0, 2, 1))[:, None, None])
    return moved, toward, home


def network_view(series, size: int = VIEW_SIZE):
    """Show the network the series coarsely, and free of the scale of contrast.

    Parameters
    ----------
    series : (B, X, Y, Z, T), HU above baseline, 0 outside the brain
    size : largest number of voxels per side; the plane is averaged over blocks until it fits

    Returns
    -------
    view : (B, x, y, Z, T), in units of the mean curve's largest value
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
    return view


def _inputs(inputs, n_frames):
    """The inputs as a dict, checked; a series of unknown T, in a graph, is padded to ``n_frames``."""
    inputs = dict(inputs) if isinstance(inputs, dict) else {"series": inputs}
    if inputs.get("series") is None:
        raise ValueError(f"The model needs a series: {', '.join(inputs)} came. Give it, or a dict with it.")
    if ("view" in inputs) != ("home" in inputs):
        raise ValueError(
            "A view comes with home, which takes the AIF back to the frames: give both, as clock_view does."
        )
    series = inputs["series"] = ops.cast(inputs["series"], "float32")
    for name in {"brain", "reference_tissue"} & set(inputs):
        if not _may_equal(inputs[name].shape, series.shape[:-1]):
            raise ValueError(
                f"{name} must have the shape of the voxels, {tuple(series.shape[:-1])}: "
                f"{tuple(inputs[name].shape)} came."
            )
    inputs["brain"] = ops.cast(inputs["brain"], "float32") if "brain" in inputs else _with_contrast(series)
    return inputs if series.shape[-1] is not None else _padded(inputs, n_frames)


def _padded(inputs, n_frames):
    series = inputs["series"]
    valid = inputs.get(
        "valid", ops.ones_like(series[:, 0, 0, 0, :] if len(series.shape) == 5 else series[:, 0])
    )
    missing = n_frames - ops.shape(series)[-1]
    found = dict(inputs)
    for name, curves in (("series", series), ("valid", valid)):
        padded = ops.pad(curves, [(0, 0)] * (len(curves.shape) - 1) + [(0, missing)])
        found[name] = ops.reshape(padded, (*ops.shape(curves)[:-1], n_frames))
    return found


def _may_equal(a, b):
    """Whether two shapes can be equal, as far as a graph knows them."""
    return len(a) == len(b) and all(None in (m, n) or m == n for m, n in zip(a, b, strict=True))


def _gaussian(n, sigma):
    """Columns average a curve's frames; at the ends they average what is there."""
    weights = np.exp(-0.5 * (np.subtract.outer(np.arange(n), np.arange(n)) / sigma) ** 2)
    return (weights / weights.sum(axis=0)).astype(np.float32)


def _with_contrast(series):
    return ops.cast(ops.any(series != 0, axis=-1), "float32")


def as_batch(array, dtype=np.float32):
    """Add the batch axis that Keras wants."""
    return np.asarray(array, dtype)[None]
