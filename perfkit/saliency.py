"""Where a proposed AIF comes from: weights of the pooling head, occlusion for a regressed curve."""

from __future__ import annotations

from itertools import product

import numpy as np

from perfkit.clock import on_seconds
from perfkit.network import VIEW_SIZE, clock_view, network_view
from perfkit.preprocessing import Prepared
from perfkit.samples import predict_weights
from perfkit.tensors import ops

BLOCK = 4  # view voxels per side; our choice: 2 cm at 5 mm, an artery and what surrounds it
NUMBERS_AT_ONCE = 2**24  # of the views of one forward pass, 64 MB; our choice


def where_from(model, prepared: Prepared, *, size: int = BLOCK):
    """Say where the AIF of a scan was taken from.

    Parameters
    ----------
    model : as ``network.deconvolution_model`` makes it
    prepared : Prepared
    size : of the blocks that are occluded, where the AIF is regressed

    Returns
    -------
    (X, Y, Z), float32, 0 outside the brain: of the pooling head the weights of the voxels, which sum to 1; of
        a CNN the relative change of its AIF, see ``occlusion``
    """
    return predict_weights(model, prepared) if model.pools else occlusion(model, prepared, size=size)


def occlusion(model, prepared: Prepared, *, size: int = BLOCK):
    """Measure how far a regressed AIF moves where a block of the network's view is made ordinary.

    Parameters
    ----------
    model : with a CNN as its head
    prepared : Prepared
    size : of a block, view voxels per side; one slice high

    Returns
    -------
    (X, Y, Z), float32, on the scan's grid: ‖AIF of the occluded view − AIF‖ / ‖AIF‖, 0 outside the brain and
        where the network proposes nothing

    Raises
    ------
    ValueError : the head pools, or ``size`` is no positive whole number.

    Notes
    -----
    Zeiler & Fergus 2014, with the mean curve of the brain for the grey square: a block then looks like
    tissue, not like air, which no network has seen inside a head. Blocks at the edge keep their share of air.
    No gradient is asked for, so it serves any backend and any network. A change of scale counts, though rCBF
    does not feel it; the clock stays that of the whole scan. One forward pass per block of the brain.
    """
    if model.pools:
        raise ValueError("Only a regressed AIF is occluded: this head pools voxels. Try saliency.where_from.")
    if not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(f"size, view voxels of a block's side, is 1 or more: {size!r} came. Try {BLOCK}.")
    series = on_seconds(prepared.concentration, prepared.dt)
    view, _, home = clock_view(series[None], model.n_frames)
    view, home = view[0].astype(np.float32), home[0].astype(np.float32)
    share = network_view(prepared.brain[None, ..., None].astype(np.float32))[0, ..., 0]
    ordinary = share[..., None] * (view.sum(axis=(0, 1, 2)) / share.sum())
    blocks = [block for block in _blocks(share.shape, size) if share[block].any()]
    change = np.zeros(share.shape, np.float32)
    aif = _aifs(model, view[None], home)[0]
    norm = max(np.linalg.norm(aif), np.finfo(np.float32).tiny)
    many = max(1, NUMBERS_AT_ONCE // view.size)
    for some in (blocks[i : i + many] for i in range(0, len(blocks), many)):
        changed = np.repeat(view[None], len(some), axis=0)
        for one, block in zip(changed, some, strict=True):
            one[block] = ordinary[block]
        moved = np.linalg.norm(_aifs(model, changed, home) - aif, axis=-1)
        for block, distance in zip(some, moved, strict=True):
            change[block] = distance / norm
    return _on_the_grid(change, prepared.brain)


def _aifs(model, views, home):
    """(B, x, y, Z, n_clock) -> (B, T); of a network with a VOF the AIF."""
    curves = ops.convert_to_numpy(model.generate(views))
    return (curves if curves.ndim == 2 else curves[:, 0]) @ home.T


def _blocks(shape, size):
    """Slices of the view, one block each."""
    for x, y, z in product(range(0, shape[0], size), range(0, shape[1], size), range(shape[2])):
        yield slice(x, x + size), slice(y, y + size), z


def _on_the_grid(view_map, brain):
    """Give each voxel of the brain what the view voxel has that it was averaged into."""
    nx, ny = brain.shape[:2]
    step = max(1, -(-max(nx, ny) // VIEW_SIZE))
    whole = view_map.repeat(step, axis=0).repeat(step, axis=1)[:nx, :ny]
    return np.where(brain, whole, 0).astype(np.float32)
