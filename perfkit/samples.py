"""One scan as training meets it: gathered voxels, the CNN's view, the bolus's clock, augmentation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfkit import paper
from perfkit.augment import Augmentation
from perfkit.clock import N_FRAMES, on_seconds
from perfkit.network import clock_view
from perfkit.preprocessing import Prepared

VENOUS_QUANTILE = 0.999  # our choice: of the voxels' areas; the largest vein fills a thousandth of a slab
N_VOXELS = 8000  # our choice: in a step; their soft Dice scatters by a hundredth, and a step costs a third


@dataclass(frozen=True, eq=False)
class Sample:
    """One scan as the network trains on it: gathered brain voxels, padded, and the view.

    Attributes
    ----------
    voxels : (V, n_frames), HU above baseline, 0 after the scan's end
    core, reference_tissue : (V,), 0 or 1
    view : (x, y, Z, n_clock), on the bolus's clock
    toward : (n_clock, n_frames);  home : (n_frames, n_clock)
    valid : (n_frames,), 1 at real frames
    venous_area : HU frames
    """

    id: str
    voxels: np.ndarray
    core: np.ndarray
    reference_tissue: np.ndarray
    view: np.ndarray
    toward: np.ndarray
    home: np.ndarray
    valid: np.ndarray
    venous_area: float

    @property
    def empty(self) -> bool:
        """Whether the scan has no core: soft Dice and ranking then have nothing to say."""
        return not self.core.any()


def make_sample(prepared: Prepared, n_frames: int = N_FRAMES) -> Sample:
    """Gather what training needs of a prepared scan.

    Parameters
    ----------
    prepared : with its core
    n_frames : of the padded series and of the network's clock, 1 s apart

    Returns
    -------
    Sample

    Raises
    ------
    ValueError : the scan has no core mask.
    """
    if prepared.core is None:
        raise ValueError(
            f"Training needs a core mask: {prepared.id} has none. Leave it out, or add its OT file."
        )
    series = on_seconds(prepared.concentration, prepared.dt)[..., :n_frames]
    n = series.shape[-1]
    voxels = np.zeros((np.count_nonzero(prepared.brain), n_frames), np.float32)
    voxels[:, :n] = series[prepared.brain]
    view, toward, home = clock_view(series[None], n_frames)
    return Sample(
        id=prepared.id,
        voxels=voxels,
        core=prepared.core[prepared.brain].astype(np.float32),
        reference_tissue=prepared.reference_tissue[prepared.brain].astype(np.float32),
        view=view[0].astype(np.float32),
        toward=np.pad(toward[0], ((0, 0), (0, n_frames - n))).astype(np.float32),
        home=np.pad(home[0], ((0, n_frames - n), (0, 0))).astype(np.float32),
        valid=(np.arange(n_frames) < n).astype(np.float32),
        venous_area=float(np.quantile(voxels.sum(axis=-1), VENOUS_QUANTILE)),
    )


def inputs_of(sample: Sample, *, view=None, undo=None, voxels=None) -> dict:
    """Make the inputs of the model, with a batch axis of one.

    Parameters
    ----------
    sample : Sample
    view, undo : of an augmentation: the changed view, and (n_clock, n_clock) back to the clock
    voxels : (n,), numbers of those to take; default all

    Returns
    -------
    dict of arrays, as ``network.deconvolution_model`` takes them, and "venous_area"
    """
    rows = slice(None) if voxels is None else voxels
    home = sample.home if undo is None else sample.home @ undo
    found = {
        "series": sample.voxels[rows],
        "brain": np.ones(len(sample.voxels[rows]), np.float32),
        "reference_tissue": sample.reference_tissue[rows],
        "view": sample.view if view is None else view,
        "home": home,
        "toward": sample.toward,
        "valid": sample.valid,
        "venous_area": np.float32(sample.venous_area),
    }
    return {name: np.asarray(value, np.float32)[None] for name, value in found.items()}


def augmented(
    sample: Sample, augmentation: Augmentation, rng, n_voxels: int = N_VOXELS, view: bool = True
) -> tuple[dict, np.ndarray]:
    """Draw voxels and a change of the view at random.

    Parameters
    ----------
    sample, augmentation : of the scan, of the training
    rng : numpy.random.Generator
    n_voxels : at most; some core and some reference tissue are always among them
    view : change the view; a head that pools voxels looks at none, and is blind to place, shift and contrast

    Returns
    -------
    inputs : dict, as ``inputs_of``;  core : (1, n)
    """
    rows = _drawn(sample, rng, n_voxels)
    if view:
        changed, undo = augmentation(sample.view, rng)
        inputs = inputs_of(sample, view=changed, undo=undo, voxels=rows)
    else:
        inputs = inputs_of(sample, voxels=rows)
        del inputs["view"], inputs["home"]
    return inputs, sample.core[None, rows]


def _drawn(sample, rng, n):
    if len(sample.core) <= n:
        return np.arange(len(sample.core))
    rows = rng.choice(len(sample.core), n, replace=False, shuffle=False)
    for place, kind in enumerate((sample.core, sample.reference_tissue)):
        if kind.any() and not kind[rows].any():  # a core of a few voxels: one of them comes in any case
            rows[place] = rng.choice(np.flatnonzero(kind))
    return rows


def predict_aif(model, prepared: Prepared):
    """Propose the AIF of a scan.

    Parameters
    ----------
    model : as ``deconvolution_model`` makes it
    prepared : Prepared

    Returns
    -------
    aif : (T,), on the frames of the scan; of a CNN in an arbitrary unit (rCBF does not feel it), pooled in HU
    """
    outputs = model.aif(_whole(prepared, model.n_frames))
    return np.interp(prepared.times, np.arange(outputs.shape[-1]) * paper.FRAME_INTERVAL, _array(outputs)[0])


def predict_weights(model, prepared: Prepared):
    """Say where a pooled AIF was taken from: (X, Y, Z), sums to 1, 0 outside the brain."""
    found = np.zeros(prepared.brain.shape, np.float32)
    found[prepared.brain] = _array(model.weights_of(_whole(prepared, model.n_frames)))[0]
    return found


def _whole(prepared, n_clock):
    series = on_seconds(prepared.concentration, prepared.dt)
    view, toward, home = clock_view(series[None], n_clock)
    found = {"series": series[prepared.brain][None], "view": view, "toward": toward, "home": home}
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def _array(tensor):
    from perfkit.tensors import ops

    return ops.convert_to_numpy(tensor)
