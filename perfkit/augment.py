"""Augmentation that keeps the physics: what a bolus or a head may do without changing the label.

Linear indicator dilution is exactly invariant to a common shift, scale or broadening of all contrast:
CBF, CBV, MTT, Tmax and rCBF stay. These are augmentations for training and metamorphic tests for
every method. A rotation, translation or flip moves the label with the image.

Training uses a short cut that changes nothing: deconvolution is voxel by voxel, so a geometric change
of the network's view has the same loss as one of the series, and a shift of the view is undone on the
generated AIF, which has 64 numbers where the series has millions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfkit import paper

MAX_ROTATION = 15.0  # degrees; our choice: heads lie within ±10°, and a little more
MAX_TRANSLATION = 0.08  # of the field of view; our choice, likewise
MAX_SHIFT = 2.0  # s; our choice: onsets of ISLES 2018 spread by 3.7 s already; ±5 s trains far slower
CONTRAST = (0.5, 2.0)  # factor, log-uniform (docs/science.md §6)
NOISE = 0.05  # of the mean curve's peak per view voxel; our choice: 4 HU averaged over a 4 mm block


def shift_bolus(curves, seconds, dt=1.0):
    """Move all contrast in time by linear interpolation; before the first frame stands its value.

    Parameters
    ----------
    curves : (..., T), HU above baseline
    seconds : float, > 0 is later
    dt : float, s

    Returns
    -------
    (..., T); exactly invariant maps as long as the bolus stays within the scan
    """
    return np.asarray(curves) @ shift_matrix(np.shape(curves)[-1], seconds / dt).T.astype(_float(curves))


def shift_matrix(n_frames: int, frames: float):
    """Build the matrix (T, T) that moves a curve by ``frames``; the ends repeat."""
    source = np.clip(np.arange(n_frames) - frames, 0, n_frames - 1)
    low = np.floor(source).astype(int)
    matrix = np.zeros((n_frames, n_frames))
    np.add.at(matrix, (np.arange(n_frames), low), 1 - (source - low))
    np.add.at(matrix, (np.arange(n_frames), np.minimum(low + 1, n_frames - 1)), source - low)
    return matrix


def scale_contrast(curves, factor):
    """Scale all contrast, as another dose or kilovoltage would: (..., T) -> (..., T), HU."""
    return np.asarray(curves) * np.asarray(factor, _float(curves))


def broaden_bolus(curves, width, dt=1.0):
    """Convolve all contrast with one kernel exp(−t/width)/width, as a slower injection would.

    Parameters
    ----------
    curves : (..., T), HU above baseline
    width : float, s
    dt : float, s

    Returns
    -------
    (..., T)

    Notes
    -----
    The maps of linear indicator dilution stay; a regularised estimate, whose bias depends on the width
    of the bolus, does not: that is what this tests.
    """
    kernel = np.exp(-np.arange(np.shape(curves)[-1]) * dt / width)
    kernel /= kernel.sum()
    lag = np.subtract.outer(np.arange(len(kernel)), np.arange(len(kernel)))
    matrix = np.where(lag >= 0, kernel[np.abs(lag)], 0)
    return np.asarray(curves) @ matrix.T.astype(_float(curves))


def delay_tissue(curves, seconds, mask, dt=1.0):
    """Delay the curves inside a mask only: there Tmax grows by ``seconds``, flow and volume stay.

    Parameters
    ----------
    curves : (..., T), HU above baseline
    seconds : float
    mask : (...,) bool, the tissue; arteries stay
    dt : float, s

    Returns
    -------
    (..., T)
    """
    curves = np.array(curves, copy=True)
    curves[mask] = shift_bolus(curves[mask], seconds, dt)
    return curves


def add_noise(curves, sd, seed):
    """Add white Gaussian noise of standard deviation ``sd`` HU to every frame."""
    curves = np.asarray(curves)
    noise = np.random.default_rng(seed).standard_normal(curves.shape, dtype=np.float32)
    return curves + (sd * noise).astype(_float(curves))


def move_in_plane(volume, degrees=0.0, shift=(0.0, 0.0), flip=False):
    """Rotate, translate and mirror all slices alike, with bilinear interpolation.

    Parameters
    ----------
    volume : (X, Y, ...), any number of further axes
    degrees : counter-clockwise, about the centre
    shift : voxels along X and Y
    flip : mirror X (left and right) first

    Returns
    -------
    (X, Y, ...), 0 where nothing was

    Notes
    -----
    One sparse matrix over the plane serves all slices and frames: no 4-D resampling.
    """
    volume = np.asarray(volume)
    volume = volume[::-1] if flip else volume
    operator = _in_plane_operator(*volume.shape[:2], degrees, shift)
    flat = volume.reshape(volume.shape[0] * volume.shape[1], -1)
    return (operator.astype(_float(volume)) @ flat).reshape(volume.shape)


def _in_plane_operator(nx, ny, degrees, shift):
    from scipy.sparse import coo_array

    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = (np.array([nx, ny]) - 1) / 2
    target = np.stack(np.meshgrid(np.arange(nx), np.arange(ny), indexing="ij"), -1).reshape(-1, 2)
    source = (target - centre - np.asarray(shift)) @ rotation.T + centre
    low = np.floor(source).astype(int)
    rows, columns, weights = [], [], []
    for step in np.ndindex(2, 2):
        corner = low + step
        weight = np.prod(1 - np.abs(source - corner), axis=1)
        inside = ((corner >= 0) & (corner < (nx, ny))).all(axis=1)
        rows.append(np.flatnonzero(inside))
        columns.append(corner[inside] @ (ny, 1))
        weights.append(weight[inside])
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    return coo_array(entries, shape=(nx * ny, nx * ny)).tocsr()


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes that training makes to the network's view; 0 switches one off.

    Attributes
    ----------
    rotation : degrees, ±
    translation : of the field of view, ±
    flip : mirror left and right in half the draws
    shift : s, ±; the bolus moves at most as far as it stays in the scan
    contrast : low and high factor, log-uniform
    noise : standard deviation, of the mean curve's peak
    """

    rotation: float = MAX_ROTATION
    translation: float = MAX_TRANSLATION
    flip: bool = True
    shift: float = MAX_SHIFT
    contrast: tuple[float, float] = CONTRAST
    noise: float = NOISE

    def __call__(self, view, rng, *, dt: float = paper.FRAME_INTERVAL, n_frames: int | None = None):
        """Change a view at random.

        Paper: Method, augmentation.

        Parameters
        ----------
        view : (x, y, Z, T), as ``network.network_view`` makes it, without batch axis
        rng : numpy.random.Generator
        dt : float, s
        n_frames : real frames of the scan; the later ones repeat

        Returns
        -------
        view : (x, y, Z, T);  undo : (T, T), takes the AIF of the new view back to the frames of the scan

        Notes
        -----
        The contrast factor needs no undoing: rCBF does not feel the scale of the AIF.
        """
        frames = self._room(view, rng, dt, n_frames)
        factor = np.exp(rng.uniform(*np.log(self.contrast)))
        plane = np.array(view.shape[:2])
        view = move_in_plane(
            view,
            rng.uniform(-self.rotation, self.rotation),
            rng.uniform(-self.translation, self.translation, 2) * plane,
            self.flip and rng.random() < 0.5,
        )
        view = shift_bolus(view, frames) * np.float32(factor)
        if self.noise:
            noise = rng.standard_normal(view.shape, dtype=np.float32)
            view += np.float32(self.noise * factor) * noise * (view != 0).any(axis=-1, keepdims=True)
        return view.astype(np.float32, copy=False), shift_matrix(view.shape[-1], -frames).astype(np.float32)

    def _room(self, view, rng, dt, n_frames):
        """Draw a shift in frames: onset >= 0, and the peak 8 s before the end (docs/science.md §6)."""
        curve = view.mean(axis=(0, 1, 2))[:n_frames]
        peak = int(curve.argmax())
        onset = int(np.argmax(curve > 0.1 * curve[peak]))
        earliest = -min(self.shift / dt, onset)
        latest = np.clip(len(curve) - 1 - peak - 8 / dt, 0, self.shift / dt)
        return rng.uniform(earliest, latest) if latest > earliest else 0.0


def _float(array):
    return np.result_type(np.asarray(array).dtype, np.float32)
