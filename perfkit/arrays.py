"""Arrays and tensors alike: which array module serves an input, and the checks at the door.

NumPy arrays are computed with NumPy, so exploring a case never waits for a deep-learning framework;
tensors are computed with ``keras.ops`` on whatever backend runs.
"""

from __future__ import annotations

import numpy as np


def namespace(*arrays):
    """NumPy for arrays and plain numbers, ``keras.ops`` as soon as one is a tensor."""
    if any(is_tensor(a) for a in arrays):
        from keras import ops

        return ops
    return np


def is_tensor(array) -> bool:
    kind = type(array).__module__.split(".")[0]
    return kind in {"tensorflow", "keras", "torch", "jax", "jaxlib", "openvino"}


def together(curves, aif):
    """Bring curves and AIF into one array module and one floating dtype, that of the curves."""
    xp = namespace(curves, aif)
    if xp is np:
        curves, aif = real_array(curves, "Curves"), real_array(aif, "The AIF")
        curves = curves if curves.dtype.kind == "f" else curves.astype(np.result_type(curves, np.float32))
        aif = aif.astype(np.float64)  # an operator is small: build it exactly, cast it at the end
    else:
        dtype = tensor_dtype(curves if is_tensor(curves) else aif)
        curves, aif = real_tensor(curves, "Curves", dtype), real_tensor(aif, "The AIF", dtype)
    if len(curves.shape) < 1:
        raise ValueError("Curves need a time axis, the last one: a single number came.")
    return curves, aif, xp


def tensor_dtype(tensor) -> str:
    """Precision to compute a tensor in: its own where that is single or double, else single."""
    from keras import backend

    name = backend.standardize_dtype(tensor.dtype)
    return name if name in ("float32", "float64") else "float32"


def real_tensor(values, name, dtype=None):
    """Bring an array, tensor or variable to a tensor of floating type."""
    from keras import ops

    if not is_tensor(values):
        values = real_array(values, name)
    elif any(kind in str(values.dtype) for kind in ("string", "complex")):
        raise TypeError(f"{name} must be real numbers: a tensor of {values.dtype} came.")
    tensor = ops.convert_to_tensor(values)
    if hasattr(tensor, "read_value"):  # Keras hands a tf.Variable back as it is, and some ops refuse it
        tensor = tensor.read_value()
    return ops.cast(tensor, dtype or tensor_dtype(values))


def real_array(values, name):
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiubO":
            raise TypeError(f"its type is {array.dtype}")
        return array if array.dtype.kind in "fiu" else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be real numbers: {type(values).__name__} came ({error}).") from None


def matmul(xp, a, b):
    """Matrix product in the precision of its factors: Keras multiplies doubles of PyTorch as singles."""
    return a @ b if type(a).__module__.startswith("torch") else xp.matmul(a, b)


def rfft(xp, x):
    if xp is not np:
        return xp.rfft(x)
    spectrum = np.fft.rfft(x)
    return spectrum.real, spectrum.imag


def irfft(xp, real, imag, length):
    return np.fft.irfft(real + 1j * imag, length) if xp is np else xp.irfft((real, imag), fft_length=length)


def gather(xp, x, index):
    return x[..., index] if xp is np else xp.take(x, index, axis=-1)


def like(xp, constant, reference):
    return (
        np.asarray(constant, reference.dtype)
        if xp is np
        else xp.cast(xp.convert_to_tensor(constant), reference.dtype)
    )


def cast(xp, x, reference):
    return x.astype(reference.dtype, copy=False) if xp is np else xp.cast(x, reference.dtype)


def nonzero(xp, x):
    """A divisor: itself, and 1 where it is 0 (its numerator is 0 there as well)."""
    return xp.where(x == 0, xp.ones_like(x), x)


def checked_aif(aif, n_frames=None):
    if not is_tensor(aif):
        aif = real_array(aif, "The AIF")
        aif = aif if aif.dtype in (np.float32, np.float64) else aif.astype(np.float64)
    else:
        aif = real_tensor(aif, "The AIF")
    if len(aif.shape) != 1:
        raise ValueError(
            f"The AIF must be one curve (T,): shape {tuple(aif.shape)} came. "
            "Average the picked voxels over space first."
        )
    if aif.shape[0] < 2:
        raise ValueError(f"The AIF needs at least two frames: {aif.shape[0]} came.")
    if n_frames is not None and aif.shape[0] != n_frames:
        raise ValueError(
            f"The AIF must have one value per frame: it has {aif.shape[0]}, the curves have {n_frames}. "
            "Time is the last axis of the curves."
        )
    values = concrete(aif)
    if values is None:
        return aif
    if not np.isfinite(values).all():
        bad = np.count_nonzero(~np.isfinite(values))
        raise ValueError(
            f"The AIF must be finite: {bad} of {values.size} values are NaN or infinite. Leave those frames "
            "out of the series or pick another voxel."
        )
    if not values.max() > 0:
        what = (
            "zero everywhere"
            if not values.any()
            else f"never above zero (its maximum is {values.max():g} HU)"
        )
        raise ValueError(
            f"The AIF must rise above its baseline: it is {what}. Pick a voxel inside an artery, and give "
            "HU above baseline."
        )
    return aif


def concrete(tensor):
    """The values of an array or an eager tensor; None while a graph is being traced."""
    if isinstance(tensor, np.ndarray):
        return tensor
    from keras import ops

    try:
        return np.asarray(ops.convert_to_numpy(ops.stop_gradient(tensor)))
    except Exception:  # each backend has its own words for "not now"; the check is then not possible
        return None


def checked_dt(dt) -> float:
    """A plain number wherever its value is known: lags are counted with it, and nothing is trained by it."""
    dt = checked_positive(dt, "dt, the frame interval in s,", "Frames one second apart have dt=1.0.")
    number = concrete(dt) if is_tensor(dt) else dt
    return dt if number is None else float(number)


def checked_lambda(value, name="lambda_rel"):
    return checked_positive(
        value, name, "The paper uses lambda_rel=0.3; 0.1 is common with the circulant matrix."
    )


def checked_positive(value, name, advice):
    if is_tensor(value):
        number = concrete(value)
        if number is None:
            return value
    else:
        number = value
    if isinstance(number, str | bytes | bool | None.__class__) or np.ndim(number) != 0:
        raise TypeError(f"{name} must be one number: {number!r} came. {advice}")
    try:
        number = float(number)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be one number: {number!r} came. {advice}") from None
    if not (np.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be positive and finite: {number:g} came. {advice}")
    return value if is_tensor(value) else number
