"""What defines a training run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from perfkit import paper
from perfkit.augment import Augmentation
from perfkit.layers import SLOPE
from perfkit.losses import OBJECTIVES, Objective
from perfkit.network import HEADS, deconvolution_model
from perfkit.samples import N_VOXELS
from perfkit.tensors import keras


@dataclass(frozen=True)
class Settings:
    """What a training run is defined by; two runs with equal settings and data give equal results.

    Attributes
    ----------
    head : "cnn" or "pool"
    objective : the terms of the loss
    matrix : "circulant", that of the maps, or "volterra", the paper's. Our choice: through Volterra no AIF
        ranks voxels better than the mean curve of the brain does (docs/learned-aif.md, the ceiling)
    epochs : passes over the training scans, at most
    learning_rate, momentum : of SGD; the rate falls along a cosine to a hundredth
    weight_decay : decoupled, of the kernels, not the biases; our choice: without it 32 scans are learned by
        heart (tried on the cohort of seed 1, never on the one that is reported)
    clip : largest norm of the gradient
    lambda_rel, threshold, slope : of the deconvolution and the sigmoid; where they start if they are learned
    learn : of "threshold", "slope" and "lambda_rel", those that are trained; none in the paper
    tmax_factor : core is late as well, Tmax above 6 s (Cereda 2016), by a soft argmax that grows sharper from
        epoch to epoch; the paper asks for low flow alone
    vof : propose a venous output function too; no term of ``Objective`` teaches it yet
    batch_size : scans in one step, where their shapes are equal; 1 in the paper
    voxels : of a scan in one step, drawn anew each time
    validation : share of the training patients that decide when to stop; 0: none
    patience : epochs without a better validation loss before training stops; its best weights are kept.
        The loss is averaged over ``foldtraining.SMOOTHED`` epochs, since few scans are watched
    precision : dtype policy of the CNN's convolutions; the deconvolution stays in single precision
    seed : of weights, order, dropout, voxels, augmentation and the validation patients
    """

    head: str = "cnn"
    objective: Objective = field(default_factory=Objective)
    matrix: str = "circulant"
    epochs: int = 60
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 0.1
    clip: float = 1.0
    lambda_rel: float = paper.LAMBDA_REL
    threshold: float = paper.RCBF_THRESHOLD
    slope: float = SLOPE
    learn: tuple[str, ...] = ()
    tmax_factor: bool = False
    vof: bool = False
    batch_size: int = 1
    voxels: int = N_VOXELS
    validation: float = 0.2
    patience: int = 30
    precision: str = "float32"
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    @classmethod
    def preset(cls, name: str, *, epochs: int = 0, loss: str = "", head: str = "cnn", **changes) -> Settings:
        """Take a preset by name, with what the head needs, and changes.

        Parameters
        ----------
        name : one of ``PRESETS``
        epochs : instead of the preset's; 0 keeps them
        loss : one of ``losses.OBJECTIVES``; empty: "ranking"
        head : one of ``network.HEADS``
        changes : other attributes
        """
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}: {name!r} came.")
        if head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}: {head!r} came.")
        if loss and loss not in OBJECTIVES:
            raise ValueError(f"loss must be one of {', '.join(OBJECTIVES)}: {loss!r} came.")
        own = OF_HEAD[head]
        chosen = {"head": head, **own, **({"epochs": epochs} if epochs else {}), **changes}
        if loss:
            chosen["objective"] = OBJECTIVES[loss]
        return replace(PRESETS[name], **chosen)

    def model(self, fold: int = 0):
        """Make the untrained model of a fold."""
        return deconvolution_model(
            head=self.head,
            matrix=self.matrix,
            lambda_rel=self.lambda_rel,
            threshold=self.threshold,
            slope=self.slope,
            learn=self.learn,
            tmax_factor=self.tmax_factor,
            vof=self.vof,
            dtype=None if self.precision == "float32" else self.precision,
            seed=self.seed * 100 + fold,
        )


# our choice: the pooling head has few weights, which need long steps and no decay
OF_HEAD = {
    "cnn": {},
    "pool": {"learning_rate": 0.1, "weight_decay": 0.0},
}
# our choice: quick fits the study into ten minutes on two cores; after full nothing is gained any more
PRESETS = {"tiny": Settings(epochs=2), "quick": Settings(epochs=24), "full": Settings(epochs=60)}


def make_optimizer(settings: Settings, n_steps: int):
    """Make the paper's optimiser: SGD with momentum.

    Paper: Method, optimiser.

    Parameters
    ----------
    settings : learning rate, momentum and clipping
    n_steps : length of the cosine

    Returns
    -------
    keras.optimizers.SGD
    """
    rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate, n_steps, alpha=0.01)
    optimizer = keras.optimizers.SGD(
        rate, momentum=settings.momentum, weight_decay=settings.weight_decay, global_clipnorm=settings.clip
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "log"])
    return optimizer


def read_settings(path) -> Settings:
    """Read the settings that a run left as ``settings.json``."""
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    values["objective"] = Objective(**values["objective"])
    augmentation = values["augmentation"]
    values["augmentation"] = Augmentation(**{**augmentation, "contrast": tuple(augmentation["contrast"])})
    return Settings(**{**values, "learn": tuple(values["learn"])})
