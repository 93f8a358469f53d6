"""Two ways to propose an AIF: a CNN that regresses it, and a pooling of the voxels' own curves."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from perfkit.clock import N_FRAMES, bolus
from perfkit.layers import MeanOverSlices
from perfkit.tensors import keras, layers, ops

FILTERS = (16, 32, 32, 64)  # our choice: two 3D and two 2D convolutions; the paper gives no numbers
DROPOUT = 0.2  # our choice, likewise
POOL_FILTERS = (24, 16)  # our choice: wider ones learn the training scans by heart
# onset and FWHM, s, of what an untrained network draws: the usual artery's bolus and the usual vein's, on the
# clock, where the mean curve of the brain is half up at 20 s (docs/science.md §7)
ARTERY, VEIN = (13.0, 11.3), (19.5, 13.3)
NOWHERE = -1e9  # logit of what is not brain


def aif_network(
    n_frames: int = N_FRAMES,
    *,
    filters=FILTERS,
    dropout: float = DROPOUT,
    seed: int = 0,
    vof: bool = False,
    dtype=None,
):
    """Build the CNN that regresses the AIF from a series.

    Paper: Method, CNN.

    Parameters
    ----------
    n_frames : time points; they are the input channels and the outputs
    filters : two numbers for the 3D convolutions, then any for the 2D ones
    dropout : rate after each convolution
    seed : of the initial weights and of dropout
    vof : give a venous output function too
    dtype : Keras dtype policy of the convolutions, "mixed_float16" for instance; the output is float32

    Returns
    -------
    keras.Model, (B, X, Y, Z, n_frames) -> (B, n_frames), or (B, 2, n_frames) for AIF and VOF; any
    X, Y >= 16, any Z

    Notes
    -----
    Average pooling and dropout follow each convolution, ReLU everywhere but at the output. The mean
    over z comes after the 3D part, and a mean over the plane before the dense layer, so one network
    serves every grid. All weights are random; the biases of the output are those of a usual bolus (our
    choice). A loss that is blind to the time of the AIF leaves it where it started, so the networks of
    several folds agree in it, and their AIFs can be averaged.
    """
    if len(filters) < 3:
        raise ValueError(
            f"The network needs two 3D and at least one 2D convolution: {len(filters)} filters came."
        )
    seeds = iter(range(1000 * seed, 1000 * seed + 1000))

    def convolution(kind, width):
        start = keras.initializers.GlorotUniform(seed=next(seeds))
        return kind(width, 3, padding="same", activation="relu", kernel_initializer=start, dtype=dtype)

    series = x = layers.Input((None, None, None, n_frames), name="view")
    for width in filters[:2]:
        x = convolution(layers.Conv3D, width)(x)
        x = layers.AveragePooling3D((2, 2, 1), dtype=dtype)(x)
        x = layers.Dropout(dropout, seed=next(seeds), dtype=dtype)(x)
    x = MeanOverSlices(dtype=dtype)(x)
    for width in filters[2:]:
        x = convolution(layers.Conv2D, width)(x)
        x = layers.AveragePooling2D(2, dtype=dtype)(x)
        x = layers.Dropout(dropout, seed=next(seeds), dtype=dtype)(x)
    x = layers.GlobalAveragePooling2D(dtype=dtype)(x)
    start = keras.initializers.GlorotUniform(seed=next(seeds))
    boluses = [bolus(np.arange(n_frames), *one) for one in (ARTERY, VEIN)[: 1 + vof]]
    aif = layers.Dense(
        n_frames * (1 + vof),
        kernel_initializer=start,
        bias_initializer=keras.initializers.Constant(np.concatenate(boluses).astype("float32")),
        name="aif",
        dtype="float32",
    )(x)
    if vof:
        aif = layers.Reshape((2, n_frames), dtype="float32")(aif)
    return keras.Model(series, aif, name="aif_network")


@keras.saving.register_keras_serializable("perfkit")
class VoxelPooling(layers.Layer):
    """Weigh the voxels of the brain by their curves; the weighted mean of measured curves is the AIF.

    Parameters
    ----------
    n_frames : frames of the clock on which a voxel's curve is looked at
    filters : widths of the two hidden layers
    seed : of the initial weights
    vof : weigh a second time, for a venous output function

    Notes
    -----
    Each voxel's curve, on the bolus's clock and in units of the mean curve's peak, goes through the same
    small network to one number; the softmax of these over the brain are the weights (the head of AIFNet,
    de la Rosa 2021, without its annotated curves). So the AIF is always a mean of measured curves, for any
    grid and any T, and the weight map says where it was taken from. The change to the clock is folded into
    the first layer: no voxel is resampled.
    """

    def __init__(self, n_frames: int = N_FRAMES, filters=POOL_FILTERS, seed: int = 0, vof=False, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.n_frames, self.filters, self.seed, self.vof = n_frames, tuple(filters), seed, bool(vof)
        widths = (n_frames, *self.filters, 1 + self.vof)
        self.kernels, self.biases = [], []
        for i, (a, b) in enumerate(pairwise(widths)):
            start = keras.initializers.GlorotUniform(seed=1000 * seed + i)
            self.kernels.append(self.add_weight(shape=(a, b), initializer=start, name=f"kernel_{i}"))
            self.biases.append(self.add_weight(shape=(b,), initializer="zeros", name=f"bias_{i}"))

    def call(self, curves, toward, brain):
        """Return the weights.

        Parameters
        ----------
        curves : (B, V, T), in units of the mean curve's peak
        toward : (B, n_frames, T), to the clock
        brain : (B, V), 0 or 1

        Returns
        -------
        (B, V, 1), or (B, V, 2) with the weights of a VOF; they sum to 1 over the brain
        """
        folded = ops.matmul(ops.transpose(toward, (0, 2, 1)), self.kernels[0])  # (B, T, F)
        x = ops.relu(ops.matmul(curves, folded) + self.biases[0])
        for kernel, bias in zip(self.kernels[1:-1], self.biases[1:-1], strict=True):
            x = ops.relu(ops.matmul(x, kernel) + bias)
        logits = ops.matmul(x, self.kernels[-1]) + self.biases[-1]
        return ops.softmax(ops.where(brain[..., None] > 0, logits, NOWHERE), axis=1)

    def get_config(self):
        own = {"n_frames": self.n_frames, "filters": self.filters, "seed": self.seed, "vof": self.vof}
        return {**super().get_config(), **own}
