"""Keras, imported once and quietly; whatever needs tensors when it is imported takes it from here."""

from __future__ import annotations

import os

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

__all__ = ["keras", "layers", "ops"]
