"""Cross-validated training of the AIF network through the deconvolution, resumable."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from perfkit import __version__, paper
from perfkit.augment import Augmentation
from perfkit.datasets import open_cohort
from perfkit.metrics import dice, roc_auc
from perfkit.network import (
    N_FRAMES,
    SLOPE,
    as_batch,
    deconvolution_model,
    keras,
    network_view,
    soft_dice_loss,
)
from perfkit.preprocessing import Prepared, prepare_cohort
from perfkit.tables import save_aifs, save_table


@dataclass(frozen=True)
class Settings:
    """What a training run is defined by; two runs with equal settings and data give equal results.

    Attributes
    ----------
    epochs : passes over the training scans
    learning_rate, momentum : of SGD; the rate falls along a cosine to a hundredth
    weight_decay : decoupled, of the kernels, not the biases; our choice: without it 32 scans are learned by
        heart (tried on the cohort of seed 1, never on the one that is reported)
    clip : largest norm of the gradient
    matrix : "circulant" or "volterra"
    slope : of the sigmoid, in rCBF
    seed : of weights, order, dropout and augmentation
    """

    epochs: int = 60
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.1
    clip: float = 1.0
    matrix: str = "circulant"
    lambda_rel: float = paper.LAMBDA_REL
    slope: float = SLOPE
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    @classmethod
    def preset(cls, name: str, *, epochs: int = 0, **changes) -> Settings:
        """Take a preset by name, with changes; epochs 0 keeps the preset's."""
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}: {name!r} came.")
        return replace(PRESETS[name], **({"epochs": epochs} if epochs else {}), **changes)


# our choice: quick fits the study into ten minutes on two cores; full is six times as long
PRESETS = {"tiny": Settings(epochs=2), "quick": Settings(epochs=24), "full": Settings(epochs=150)}


@dataclass(frozen=True, eq=False)
class Sample:
    """One scan as the network trains on it: gathered brain voxels on the clock, and the view.

    Attributes
    ----------
    voxels : (V, n_frames), HU above baseline, 0 after the scan's end
    core, reference_tissue : (V,), 0 or 1
    view : (x, y, Z, n_frames)
    valid : (n_frames,), 1 at real frames
    """

    id: str
    voxels: np.ndarray
    core: np.ndarray
    reference_tissue: np.ndarray
    view: np.ndarray
    valid: np.ndarray


def make_sample(prepared: Prepared, n_frames: int = N_FRAMES) -> Sample:
    """Gather what training needs of a prepared scan.

    Parameters
    ----------
    prepared : with its core
    n_frames : frames of the network's clock, 1 s apart

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
    series = _on_clock(prepared.concentration, prepared.dt)
    n = min(series.shape[-1], n_frames)
    voxels = np.zeros((np.count_nonzero(prepared.brain), n_frames), np.float32)
    voxels[:, :n] = series[prepared.brain][:, :n]
    return Sample(
        id=prepared.id,
        voxels=voxels,
        core=prepared.core[prepared.brain].astype(np.float32),
        reference_tissue=prepared.reference_tissue[prepared.brain].astype(np.float32),
        view=network_view(series[None], n_frames)[0].astype(np.float32),
        valid=(np.arange(n_frames) < n).astype(np.float32),
    )


def _on_clock(curves, dt):
    """Resample the last axis from frames dt apart to frames 1 s apart."""
    if dt == paper.FRAME_INTERVAL:
        return curves
    times = np.arange(curves.shape[-1]) * dt
    clock = np.arange(int(times[-1] / paper.FRAME_INTERVAL) + 1) * paper.FRAME_INTERVAL
    weights = np.stack([np.interp(clock, times, unit) for unit in np.eye(len(times))])
    return curves @ weights.astype(np.float32)


def make_optimizer(settings: Settings, n_steps: int):
    """Make the paper's optimiser: SGD with momentum, one scan a step.

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
        rate, momentum=settings.momentum, weight_decay=settings.weight_decay, clipnorm=settings.clip
    )
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def predict_aif(model, prepared: Prepared):
    """Generate the AIF of a scan.

    Parameters
    ----------
    model : as ``deconvolution_model`` makes it
    prepared : Prepared

    Returns
    -------
    aif : (T,), arbitrary unit (rCBF does not feel it), on the frames of the scan
    """
    series = _on_clock(prepared.concentration, prepared.dt)
    view = network_view(series[None], model.n_frames).astype(np.float32)
    clock = keras.ops.convert_to_numpy(model.generate(view))[0]
    return np.interp(prepared.times, np.arange(len(clock)) * paper.FRAME_INTERVAL, clock)


class FoldTraining:
    """One fold: a model, its optimiser and its history, saved after every epoch.

    Parameters
    ----------
    folder : for ``state.npz`` (weights and optimiser) and ``history.csv``
    settings : Settings
    training : samples, one step each per epoch
    fold : number, part of the seed
    """

    def __init__(self, folder, settings: Settings, training: list[Sample], fold: int = 0):
        self.folder, self.settings, self.fold = Path(folder), settings, fold
        self.training, self.fingerprint = training, _fingerprint(settings, training)
        self.folder.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(settings.seed * 1000 + fold)
        self.model = deconvolution_model(
            matrix=settings.matrix,
            lambda_rel=settings.lambda_rel,
            slope=settings.slope,
            seed=settings.seed * 100 + fold,
        )
        optimizer = make_optimizer(settings, settings.epochs * len(training))
        self.model.compile(optimizer=optimizer, loss=soft_dice_loss, jit_compile=False)
        optimizer.build(self.model.trainable_variables)
        self.history: list[dict] = []
        self._restore()

    def run(self, held_out: list[Sample], tell=None):
        """Train to the last epoch, or go on from the last one that was saved.

        Parameters
        ----------
        held_out : samples that are only watched
        tell : called with the row of history after each epoch

        Returns
        -------
        history : list of dict, one an epoch
        """
        if tell:
            for row in self.history:  # of an earlier run
                tell(row)
        while len(self.history) < self.settings.epochs:
            epoch = len(self.history)
            rng = np.random.default_rng([self.settings.seed, self.fold, epoch])
            losses = [self._step(self.training[i], rng) for i in rng.permutation(len(self.training))]
            row = {
                "fold": self.fold,
                "epoch": epoch + 1,
                "loss": float(np.mean(losses)),
                **self.watch(held_out),
            }
            self.history.append(row)
            self._save()
            if tell:
                tell(row)
        return self.history

    def _step(self, sample, rng):
        n = int(sample.valid.sum())
        view, undo = self.settings.augmentation(sample.view, rng, n_frames=n)
        loss = float(self.model.train_on_batch(_inputs(sample, view, undo), as_batch(sample.core)))
        if not np.isfinite(loss):
            step = int(self.model.optimizer.iterations)
            raise RuntimeError(
                f"The loss must stay finite: it is {loss} at {sample.id}, step {step} of fold {self.fold}. "
                "Try a smaller learning_rate, and look at that scan."
            )
        return loss

    def watch(self, samples: list[Sample]) -> dict:
        """Give mean soft Dice loss, Dice at the threshold and AUC over samples, without augmentation."""
        rows = []
        for sample in samples:
            p = self.model.predict_on_batch(_inputs(sample))[0]
            loss = float(keras.ops.convert_to_numpy(soft_dice_loss(sample.core[None], p[None]))[0])
            rows.append((loss, dice(sample.core > 0, p > 0.5), roc_auc(sample.core > 0, p)))
        means = np.nanmean(rows, axis=0) if rows else (np.nan,) * 3
        return dict(zip(("val_loss", "val_dice", "val_auc"), map(float, means), strict=True))

    def _variables(self):
        return [*self.model.variables, *self.model.optimizer.variables]

    def _save(self):
        arrays = {f"v{i}": np.asarray(v.numpy()) for i, v in enumerate(self._unique())}
        temporary = self.folder / f".{os.getpid()}.state.npz"
        with open(temporary, "wb") as file:
            np.savez(file, history=json.dumps(self.history), fingerprint=self.fingerprint, **arrays)
        os.replace(temporary, self.folder / "state.npz")

    def _unique(self):
        """Weights, seed states and optimiser slots, each once (Keras lists the optimiser's under both)."""
        return list({id(v): v for v in self._variables()}.values())

    def _restore(self):
        path = self.folder / "state.npz"
        if not path.exists():
            return
        variables = self._unique()
        try:
            with open(path, "rb") as file, np.load(file) as state:
                if str(state["fingerprint"]) != self.fingerprint:
                    return  # of another run: start anew
                values = [state[f"v{i}"] for i in range(len(variables))]
                history = json.loads(str(state["history"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            print(f"{path} cannot be read ({error}): this fold starts anew.")
            return
        if any(tuple(v.shape) != value.shape for v, value in zip(variables, values, strict=True)):
            return  # of another network
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self.history = history


def _inputs(sample, view=None, undo=None):
    inputs = {
        "series": sample.voxels[None],
        "brain": np.ones((1, len(sample.voxels)), np.float32),
        "reference_tissue": sample.reference_tissue[None],
        "view": as_batch(sample.view if view is None else view),
        "valid": sample.valid[None],
    }
    n = sample.view.shape[-1]
    return {**inputs, "undo": as_batch(np.eye(n) if undo is None else undo)}


def _fingerprint(settings, samples) -> str:
    """Tell runs apart: equal settings on equal data, by the same version, may be continued."""
    digest = hashlib.sha256(json.dumps([__version__, asdict(settings)], sort_keys=True).encode())
    for sample in samples:
        digest.update(sample.id.encode())
        for array in (sample.core, sample.reference_tissue, sample.view):
            digest.update(array.tobytes())
    return digest.hexdigest()


@dataclass
class CrossValidation:
    """Result of a cross-validated training.

    Attributes
    ----------
    aifs : dict from case id to the AIF (T,) of the fold that did not see its patient
    history : DataFrame, fold, epoch, loss, val_loss, val_dice, val_auc
    folds : dict from case id to the number of its fold
    """

    aifs: dict
    history: pd.DataFrame
    folds: dict


def cross_validate(prepared: dict, folds, folder, settings: Settings, tell=None) -> CrossValidation:
    """Train once per fold and generate every scan's AIF with a network that never saw its patient.

    Parameters
    ----------
    prepared : dict from case id to Prepared
    folds : list of (train ids, test ids), as ``Cohort.folds`` gives them
    folder : for the states of the folds, ``history.csv`` and ``aifs.csv``; an interrupted run goes on
    settings : Settings
    tell : called with a row of history after each epoch

    Returns
    -------
    CrossValidation
    """
    folder = Path(folder)
    samples = {name: make_sample(p) for name, p in prepared.items() if p.core is not None}
    aifs, rows, fold_of = {}, [], {}
    for number, (train, test) in enumerate(folds):
        training = [samples[i] for i in train if i in samples]
        if not training:
            raise ValueError(f"Fold {number} has no scan with a core mask to train on. Use fewer folds.")
        fold = FoldTraining(folder / f"fold-{number}", settings, training, number)
        rows += fold.run([samples[i] for i in test if i in samples], tell)
        for name in (i for i in test if i in prepared):
            aifs[name], fold_of[name] = predict_aif(fold.model, prepared[name]), number
    result = CrossValidation(aifs, pd.DataFrame(rows), fold_of)
    save_table(folder / "history.csv", result.history)
    save_aifs(folder / "aifs.csv", result.aifs)
    return result


def train_cohort(
    cohort,
    folder,
    *,
    preset="quick",
    folds=5,
    epochs=0,
    matrix="circulant",
    seed=0,
    prepared=None,
    progress=True,
) -> CrossValidation:
    """Open a cohort, prepare its scans and cross-validate, with a progress bar.

    Parameters
    ----------
    cohort : folder of scans, or a Cohort
    folder : of the run; an interrupted one goes on
    preset, epochs, matrix, seed : see ``Settings.preset``
    folds : parts of the cross-validation
    prepared : dict from case id to Prepared, where that is done already
    progress : show the bar

    Returns
    -------
    CrossValidation
    """
    opened = open_cohort(cohort) if isinstance(cohort, str | Path) else cohort
    settings = Settings.preset(preset, epochs=epochs, matrix=matrix, seed=seed)
    splits = opened.folds(folds, seed)
    if prepared is None:
        found = prepare_cohort(opened)
        prepared = found.scans
        for case, reason in found.failures.items():
            print(f"left out: {case}: {reason}")
    with Progress(settings.epochs * len(splits), progress) as bar:
        return cross_validate(prepared, splits, folder, settings, bar.tell)


class Progress:
    """A progress bar over the epochs of all folds, with the time left and the held-out numbers."""

    def __init__(self, total: int, shown: bool = True):
        from tqdm import tqdm

        self.bar = tqdm(total=total, unit="epoch", disable=not shown, mininterval=1.0)

    def tell(self, row: dict) -> None:
        """Move on by one epoch."""
        self.bar.set_postfix(
            fold=row["fold"], loss=f"{row['loss']:.3f}", held_out_dice=f"{row['val_dice']:.3f}"
        )
        self.bar.update()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()
