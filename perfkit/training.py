"""Cross-validated training of the AIF network through the deconvolution: folds, validation, files."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from perfkit import livetraining
from perfkit.datasets import open_cohort
from perfkit.foldtraining import FoldTraining, best_weights
from perfkit.network import deconvolution_model
from perfkit.pages import write
from perfkit.preprocessing import prepare_cohort
from perfkit.samples import Sample, make_sample, predict_aif, predict_weights
from perfkit.tables import save_aifs, save_table
from perfkit.trainsettings import PRESETS, Settings, make_optimizer, read_settings

FEW_PATIENTS = 4  # our choice: fewer than this in the validation stop a training by chance

__all__ = [
    "PRESETS",
    "CrossValidation",
    "FoldTraining",
    "Sample",
    "Settings",
    "cross_validate",
    "deconvolution_model",
    "load_folds",
    "make_optimizer",
    "make_sample",
    "mean_aif",
    "predict_aif",
    "predict_cohort",
    "predict_weights",
    "train_cohort",
]


@dataclass
class CrossValidation:
    """Result of a cross-validated training.

    Attributes
    ----------
    aifs : dict from case id to the AIF (T,) of the fold that did not see its patient
    history : DataFrame, fold, epoch, loss, val_loss, val_dice, val_auc, watched ("validation", which decides
        when to stop, or, where patients are too few for one, "held out", which decides nothing)
    folds : dict from case id to the number of its fold
    notes : sentences on what was left out and why
    """

    aifs: dict
    history: pd.DataFrame
    folds: dict
    notes: tuple[str, ...] = ()


def inner_split(train: list[str], patients: dict, share: float, seed: int) -> tuple[list[str], list[str]]:
    """Set whole patients of a fold's training scans aside, to decide when to stop.

    Parameters
    ----------
    train : case ids
    patients : patient by case id
    share : of the patients
    seed : of the draw

    Returns
    -------
    (training ids, validation ids); no validation where it would hold fewer than ``FEW_PATIENTS`` patients
    """
    names = sorted({patients[i] for i in train})
    n = round(share * len(names))
    if n < FEW_PATIENTS:
        return list(train), []
    aside = set(np.random.default_rng(seed).permutation(names)[:n])
    return [i for i in train if patients[i] not in aside], [i for i in train if patients[i] in aside]


def cross_validate(
    prepared: dict, folds, folder, settings: Settings, tell=None, live=None, numbers=None
) -> CrossValidation:
    """Train once per fold and propose every scan's AIF with a network that never saw its patient.

    Parameters
    ----------
    prepared : dict from case id to Prepared
    folds : list of (train ids, test ids), as ``Cohort.folds`` gives them
    folder : for the states and weights of the folds, ``settings.json``, ``history.csv`` and ``aifs.csv``; an
        interrupted run goes on
    settings : Settings
    tell, live : as for ``FoldTraining.run``
    numbers : of the folds to train; default: all

    Returns
    -------
    CrossValidation
    """
    folder = Path(folder)
    samples = {name: make_sample(p) for name, p in prepared.items() if p.core is not None}
    patients = {name: p.patient for name, p in prepared.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "settings.json", json.dumps(asdict(settings), indent=1) + "\n")
    aifs, rows, fold_of, notes = {}, [], {}, []
    for number in range(len(folds)) if numbers is None else numbers:
        train, test = folds[number]
        known = [i for i in train if i in samples]
        if not known:
            raise ValueError(f"Fold {number} has no scan with a core mask to train on. Use fewer folds.")
        inner, aside = inner_split(known, patients, settings.validation, settings.seed * 1000 + number)
        fold = FoldTraining(
            folder / f"fold-{number}",
            settings,
            [samples[i] for i in inner],
            number,
            [samples[i] for i in aside],
        )
        if not fold.training:
            raise ValueError(
                f"Fold {number} needs a training scan with some core: the masks of all {len(fold.silent)} "
                "are empty. Use fewer folds, or an objective with cross_entropy."
            )
        watched = "validation" if aside else "held out"
        found = fold.run([samples[i] for i in test if i in samples], tell, live)
        rows += [{**row, "watched": watched} for row in found]
        if fold.silent:
            words = "an empty core teaches neither soft Dice nor ranking"
            notes.append(f"Fold {number} trains without {', '.join(fold.silent)}: {words}.")
        for name in (i for i in test if i in prepared):
            aifs[name], fold_of[name] = predict_aif(fold.model, prepared[name]), number
    result = CrossValidation(aifs, pd.DataFrame(rows), fold_of, tuple(notes))
    save_table(folder / "history.csv", result.history)
    save_aifs(folder / "aifs.csv", result.aifs)
    return result


def load_folds(folder) -> list:
    """Load the models of all folds of a run, with their best weights.

    Parameters
    ----------
    folder : of the run, with ``settings.json`` and ``fold-*/state.npz``

    Returns
    -------
    list of DeconvolutionModel

    Raises
    ------
    FileNotFoundError : there is no run.
    ValueError : a state is damaged, or of another network.
    """
    folder = Path(folder)
    states = sorted(folder.glob("fold-*/state.npz"), key=lambda p: int(p.parent.name.split("-")[1]))
    if not states or not (folder / "settings.json").exists():
        raise FileNotFoundError(
            f"A training run holds settings.json and fold-*/state.npz: {folder} does not. "
            f"Train first: perfkit train --out {folder}"
        )
    settings = read_settings(folder / "settings.json")
    models = []
    for number, path in enumerate(states):
        model = settings.model(number)
        model.set_weights(best_weights(path, [v.shape for v in model.weights]))
        models.append(model)
    return models


def predict_cohort(folder, prepared: dict) -> dict:
    """Propose the AIFs of scans that no fold has seen: the mean of what the folds propose.

    Parameters
    ----------
    folder : of a run
    prepared : dict from case id to Prepared; none of their patients may have been trained on

    Returns
    -------
    dict from case id to AIF (T,). A regressed AIF has no scale, so each fold's counts with unit peak; pooled
    ones are in HU and averaged as they are.
    """
    models = load_folds(folder)
    return {name: mean_aif(models, scan) for name, scan in prepared.items()}


def mean_aif(models: list, scan):
    """Average what the folds propose for a scan, as ``predict_cohort`` says: (T,)."""
    curves = np.array([predict_aif(model, scan) for model in models])
    if not models[0].pools:
        curves = curves / np.abs(curves).max(axis=-1, keepdims=True)
    return curves.mean(axis=0)


def train_cohort(
    cohort,
    folder,
    *,
    preset="quick",
    folds=5,
    prepared=None,
    progress=True,
    only=None,
    live=None,
    board=None,
    **settings,
) -> CrossValidation:
    """Open a cohort, prepare its scans and cross-validate, with a progress bar.

    Parameters
    ----------
    cohort : folder of scans, or a Cohort
    folder : of the run; an interrupted one goes on
    preset : see ``Settings.preset``
    folds : parts of the cross-validation
    prepared : dict from case id to Prepared, where that is done already; default: prepared, and kept in the
        folder's ``prepared``, so a second start reads no series
    progress : show the bar
    only : number of the one fold to train; default: all
    live : ``livetraining.LiveTraining``, told and drawn after each epoch
    board : folder for TensorBoard's scalars, where that is installed; default: none
    settings : changes of ``Settings.preset``: loss, head, matrix, epochs, learn, seed, …

    Returns
    -------
    CrossValidation
    """
    opened = open_cohort(cohort) if isinstance(cohort, str | Path) else cohort
    settings = Settings.preset(preset, **settings)
    splits = opened.folds(folds, settings.seed)
    if only is not None and not 0 <= only < len(splits):
        raise ValueError(f"There are folds 0 to {len(splits) - 1}: {only} came.")
    if prepared is None:
        found = prepare_cohort(opened, cache=Path(folder) / "prepared")
        prepared = found.scans
        for case, reason in found.failures.items():
            print(f"left out: {case}: {reason}")
    numbers = range(len(splits)) if only is None else [only]
    bar = Progress(settings.epochs * len(numbers), progress)
    told = [one for one in (bar, live, livetraining.board(board) if board else None) if one is not None]
    with ExitStack() as stack:
        for one in told:
            stack.enter_context(one)

        def tell(row):
            for one in told:
                one.tell(row)

        draw = None if live is None else live.draw
        result = cross_validate(prepared, splits, folder, settings, tell, draw, numbers)
    for note in result.notes:
        print(note)
    return result


class Progress:
    """A progress bar over the epochs of all folds, with the time left and the watched numbers."""

    def __init__(self, total: int, shown: bool = True):
        from tqdm import tqdm

        self.bar = tqdm(total=total, unit="epoch", disable=not shown, mininterval=1.0)

    def tell(self, row: dict) -> None:
        """Move on by one epoch."""
        self.bar.set_postfix(fold=row["fold"], loss=f"{row['loss']:.3f}", dice=f"{row['val_dice']:.3f}")
        self.bar.update()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()
