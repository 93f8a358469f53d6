"""One fold of a training: steps, validation, early stopping, and a state on disk after every epoch."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from perfkit import __version__
from perfkit.metrics import dice, roc_auc
from perfkit.samples import Sample, augmented, inputs_of
from perfkit.tensors import keras, ops
from perfkit.trainsettings import Settings, make_optimizer

AHEAD = 4  # steps prepared ahead; our choice: more only holds memory
SMOOTHED = 5  # epochs; our choice: a handful of validation scans moves by more in one step than in ten
WATCHED_VOXELS = 20_000  # of a scan that is only watched; our choice: their AUC is that of all to 1e-3


class Learner(keras.Model):
    """The model with its objective: what Keras trains, on any backend."""

    def __init__(self, model, objective, **kwargs):
        super().__init__(**kwargs)
        self.model, self.objective = model, objective

    def call(self, inputs, training=False):
        return self.model.outputs(inputs, training=training)

    def build(self, input_shape=None):
        self.built = True

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(self.objective.total(self.objective.terms(x, y, y_pred)))


def ahead(items: Iterable, depth: int = AHEAD):
    """Make items in a thread while the last ones are used; an error comes out where it would be met."""
    waiting: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry):
        while not stopped.is_set():
            try:
                return waiting.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def make():
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stopped.set()
        thread.join()


class FoldTraining:
    """One fold: a model, its optimiser and its history, saved after every epoch.

    Parameters
    ----------
    folder : for ``state.npz`` (weights, best weights, optimiser, history)
    settings : Settings
    training : samples, each once per epoch; those without core are left out where no term speaks of them
    fold : number, part of the seed
    validation : samples of other patients that decide when to stop

    Attributes
    ----------
    model : the DeconvolutionModel; after ``run`` with its best weights
    history : list of dict, one an epoch
    silent : ids of the training scans without core that were left out
    """

    def __init__(
        self,
        folder,
        settings: Settings,
        training: list[Sample],
        fold: int = 0,
        validation: Iterable[Sample] = (),
    ):
        self.folder, self.settings, self.fold = Path(folder), settings, fold
        speaks = settings.objective.cross_entropy or settings.objective.volume
        self.silent = [] if speaks else [s.id for s in training if s.empty]
        self.training = [s for s in training if s.id not in self.silent]
        self.validation = list(validation)
        self.fingerprint = _fingerprint(settings, [*self.training, *self.validation])
        self.folder.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(settings.seed * 1000 + fold)
        self.model = settings.model(fold)
        self.learner = Learner(self.model, settings.objective)
        groups = Counter(map(self._shape, self.training)).values()
        n_steps = sum(-(-n // settings.batch_size) for n in groups)
        optimizer = make_optimizer(settings, max(1, settings.epochs * n_steps))
        self.learner.compile(optimizer=optimizer, jit_compile=False)
        optimizer.build(self.learner.trainable_variables)
        self.history: list[dict] = []
        self._best: list | None = None
        self._restore()

    @property
    def done(self) -> bool:
        """Whether the last epoch is over, or the validation loss has long stopped falling."""
        n = len(self.history)
        if n >= self.settings.epochs:
            return True
        return bool(n) and self._best is not None and n - self.best_epoch >= self.settings.patience

    @property
    def best_epoch(self) -> int:
        """Epoch of the lowest (smoothed) validation loss, from 1; without validation the last."""
        if not self.validation:
            return len(self.history)
        losses = [row["val_loss"] for row in self.history]
        smooth = [np.mean(losses[max(0, i + 1 - SMOOTHED) : i + 1]) for i in range(len(losses))]
        return 1 + int(np.nanargmin(smooth))

    def run(
        self, held_out: Iterable[Sample] = (), tell: Callable | None = None, live: Callable | None = None
    ):
        """Train until it is done, or go on from the last epoch that was saved.

        Parameters
        ----------
        held_out : samples that are watched, and never used, where there is no validation
        tell : called with the row of history after each epoch
        live : called with the row and the AIF (T,) of the first watched sample after each epoch

        Returns
        -------
        history : list of dict, one an epoch
        """
        watched = self.validation or list(held_out)
        for row in self.history if tell else ():  # of an earlier run
            tell(row)
        while not self.done:
            row = {"fold": self.fold, "epoch": len(self.history) + 1, "loss": self._epoch()}
            row |= self.watch(watched)
            self.history.append(row)
            if self.validation and self.best_epoch == len(self.history):
                self._best = [np.array(v) for v in self.model.get_weights()]
            self._save()
            if tell:
                tell(row)
            if live and watched:
                live(row, self.outputs(watched[0])["aif"][0])
        if self._best is not None:
            self.model.set_weights(self._best)
        return self.history

    def steps(self, epoch: int):
        """Yield ids, inputs and core of every step of an epoch: the same draws, whoever asks.

        Scans of one shape share a step, up to ``batch_size`` of them; the last of a shape may be fewer.
        """
        settings, waiting = self.settings, {}
        rng = np.random.default_rng([settings.seed, self.fold, epoch])
        options = {"n_voxels": settings.voxels, "view": not self.model.pools}
        for i in rng.permutation(len(self.training)):
            sample = self.training[i]
            group = waiting.setdefault(self._shape(sample), [])
            group.append((sample.id, *augmented(sample, settings.augmentation, rng, **options)))
            if len(group) == settings.batch_size:
                yield _joined(waiting.pop(self._shape(sample)))
        for group in waiting.values():
            yield _joined(group)

    def _shape(self, sample):
        """What must be equal for scans to share a step; the pooling head looks at no view."""
        view = None if self.model.pools else sample.view.shape
        return view, min(len(sample.core), self.settings.voxels)

    def _epoch(self):
        if self.model.soft_tmax is not None:
            self.model.soft_tmax.anneal(len(self.history) / max(1, self.settings.epochs - 1))
        losses, sizes = [], []
        for ids, inputs, core in ahead(self.steps(len(self.history))):
            losses.append(self.step(ids, inputs, core))
            sizes.append(len(core))
        return float(np.average(losses, weights=sizes))

    def step(self, ids: str, inputs: dict, core) -> float:
        """Take one step of the optimiser.

        Raises
        ------
        RuntimeError : the loss is not finite; the case and the step are named, and nothing is saved.
        """
        self.learner.reset_metrics()
        try:
            loss = float(self.learner.train_on_batch(inputs, core))
        except (
            Exception
        ) as error:  # a Cholesky factor meets the NaN first, and each backend says so differently
            if "nan" not in str(error).lower():
                raise
            loss = float("nan")
        if not np.isfinite(loss):
            number = int(ops.convert_to_numpy(self.learner.optimizer.iterations))
            raise RuntimeError(
                f"The loss must stay finite: it is {loss} at {ids}, step {number} of fold {self.fold}. "
                "Try a smaller learning_rate, and look at that scan. The epochs before are saved."
            )
        return loss

    def outputs(self, sample: Sample, n_voxels: int | None = None) -> dict:
        """Give what the model makes of a sample, without augmentation: dict of arrays, batch of one."""
        return self.learner.predict_on_batch(inputs_of(sample, voxels=_every(sample, n_voxels)))

    def watch(self, samples: list[Sample]) -> dict:
        """Give mean loss, Dice at the threshold and AUC over samples, without augmentation."""
        rows = []
        for sample in samples:
            voxels = _every(sample, WATCHED_VOXELS)
            outputs = self.outputs(sample, WATCHED_VOXELS)
            core, rcbf = sample.core[voxels] > 0, outputs["rcbf"][0]
            terms = self.settings.objective.terms(
                inputs_of(sample, voxels=voxels), sample.core[None, voxels], outputs
            )
            loss = float(ops.convert_to_numpy(self.settings.objective.total(terms))[0])
            rows.append((loss, dice(core, outputs["core_probability"][0] > 0.5), roc_auc(core, -rcbf)))
        columns = np.array(rows, float).reshape(-1, 3).T
        means = [np.nanmean(c) if np.isfinite(c).any() else np.nan for c in columns]
        return dict(zip(("val_loss", "val_dice", "val_auc"), map(float, means), strict=True))

    def _unique(self):
        """Weights, seed states and optimiser slots, each once (Keras lists the optimiser's under both)."""
        variables = [*self.learner.variables, *self.learner.optimizer.variables]
        return [v for v in {id(v): v for v in variables}.values() if "metric" not in v.path]

    def _save(self):
        arrays = {f"v{i}": ops.convert_to_numpy(v) for i, v in enumerate(self._unique())}
        arrays |= {f"b{i}": v for i, v in enumerate(self._best or self.model.get_weights())}
        temporary = self.folder / f".{os.getpid()}.state.npz"
        with open(temporary, "wb") as file:
            np.savez(file, history=json.dumps(self.history), fingerprint=self.fingerprint, **arrays)
        os.replace(temporary, self.folder / "state.npz")

    def _restore(self):
        path = self.folder / "state.npz"
        if not path.exists():
            return
        variables, n_best = self._unique(), len(self.model.get_weights())
        try:
            with open(path, "rb") as file, np.load(file) as state:
                if str(state["fingerprint"]) != self.fingerprint:
                    return  # of another run: start anew
                values = [state[f"v{i}"] for i in range(len(variables))]
                best = [state[f"b{i}"] for i in range(n_best)] if self.validation else None
                history = json.loads(str(state["history"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            print(f"{path} cannot be read ({error}): this fold starts anew.")
            return
        if any(tuple(v.shape) != value.shape for v, value in zip(variables, values, strict=True)):
            return  # of another network
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self.history, self._best = history, best


def _joined(group) -> tuple[str, dict, np.ndarray]:
    """Put scans of one shape behind one another on the batch axis: (ids, inputs, core)."""
    if len(group) == 1:
        return group[0]
    ids, inputs, cores = zip(*group, strict=True)
    together = {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}
    return ", ".join(ids), together, np.concatenate(cores)


def best_weights(path, shapes) -> list:
    """Read the best weights of a fold from its state.

    Raises
    ------
    ValueError, OSError : it is damaged, or of a network of other shapes.
    """
    try:
        with open(path, "rb") as file, np.load(file) as state:
            found = [state[f"b{i}"] for i in range(len(shapes))]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}). Train that fold again.") from None
    if [tuple(a.shape) for a in found] != [tuple(s) for s in shapes]:
        raise ValueError(f"{path} holds the weights of another network than its settings.json describes.")
    return found


def _every(sample, n):
    """Take every so many voxels, so that at most n are left."""
    return np.arange(0, len(sample.core), max(1, -(-len(sample.core) // n)) if n else 1)


def _fingerprint(settings, samples) -> str:
    """Tell runs apart: equal settings on equal data, by the same version, may be continued."""
    digest = hashlib.sha256(json.dumps([__version__, asdict(settings)], sort_keys=True).encode())
    for sample in samples:
        digest.update(sample.id.encode())
        for array in (sample.core, sample.reference_tissue, sample.voxels, sample.view):
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
