"""Training on small synthetic scans: it learns, it is repeatable, and killed it goes on to the same end."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest

from perfkit import livetraining, tables, training
from perfkit.datasets import open_cohort
from perfkit.foldtraining import ahead
from perfkit.losses import Objective
from perfkit.network import aif_network
from perfkit.preprocessing import Prepared, prepare_cohort
from perfkit.samples import augmented, inputs_of
from perfkit.training import (
    PRESETS,
    FoldTraining,
    Settings,
    cross_validate,
    inner_split,
    load_folds,
    make_sample,
    predict_aif,
    predict_cohort,
    train_cohort,
)


def scan(seed, dt=1.0, n=40, core=True):
    """A disc of brain with a low-flow patch: exponential tissue from a bolus, by the plain sum."""
    rng = np.random.default_rng(seed)
    fine = np.arange(0, n * dt, 0.1)
    s = np.clip(fine - rng.uniform(5, 9), 0, None) / 2
    aif = 150 * (s / 3) ** 3 * np.exp(3 - s)
    x, y, _ = np.meshgrid(np.linspace(-1, 1, 20), np.linspace(-1, 1, 20), [0, 1], indexing="ij")
    brain = x**2 + y**2 < 0.9
    lesion = brain & ((x - 0.4) ** 2 + (y - rng.uniform(-0.3, 0.3)) ** 2 < 0.08)
    curves = {}
    for name, flow, mtt in (("healthy", 50, 4.0), ("sick", 8, 9.0)):
        k = flow / 6000 / 0.705 * np.exp(-fine / mtt)
        curves[name] = np.interp(np.arange(n) * dt, fine, np.convolve(aif, k)[: len(fine)] * 0.1)
    concentration = np.where(lesion[..., None], curves["sick"], curves["healthy"])
    concentration = (concentration + rng.normal(0, 0.4, concentration.shape)) * brain[..., None]
    return Prepared(
        id=f"scan_{seed}",
        patient=f"patient_{seed}",
        concentration=concentration.astype(np.float32),
        baseline=np.where(brain, 35, 0).astype(np.float32),
        brain=brain,
        tissue=brain,
        reference_tissue=brain & (x < 0),
        sides=np.sign(x).astype(np.int8) * brain,
        lesion_side=1,
        dt=dt,
        spacing=np.array([5.0, 5.0, 5.0]),
        affine=np.diag([5, 5, 5, 1.0]),
        core=lesion if core else None,
        n_baseline=4,
    )


SCANS = {f"scan_{i}": scan(i) for i in range(4)}
FOLDS = [(["scan_0", "scan_1", "scan_2"], ["scan_3"]), (["scan_1", "scan_2", "scan_3"], ["scan_0"])]


def fold(folder, **changes):
    samples = [make_sample(s) for s in SCANS.values()]
    return FoldTraining(folder, Settings(**{"epochs": 2, **changes}), samples[:3]), samples[3:]


def weights_of(training):
    return [np.asarray(v.numpy()) for v in training.model.variables]


def all_equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def without_core(prepared):
    return replace(prepared, core=np.zeros_like(prepared.core))


def test_a_sample_gathers_the_brain_and_pads_with_zeros():
    sample, whole = make_sample(SCANS["scan_0"]), SCANS["scan_0"]
    assert sample.voxels.shape == (whole.brain.sum(), 64)
    np.testing.assert_array_equal(sample.voxels[:, :40], whole.concentration[whole.brain])
    assert not sample.voxels[:, 40:].any() and sample.valid.sum() == 40
    assert sample.core.sum() == whole.core.sum()


def test_a_sample_resamples_to_one_second():
    slow, fast = make_sample(scan(1, dt=2.0, n=20)), make_sample(scan(1, dt=1.0, n=39))
    assert slow.valid.sum() == fast.valid.sum() == 39
    means = [s.voxels[s.core == 0].mean(axis=0) for s in (slow, fast)]
    np.testing.assert_allclose(*means, atol=0.35)  # HU, of 7: linear interpolation cuts the peak


def test_the_predicted_aif_stands_on_the_frames_of_the_scan():
    training, _ = fold_in_memory()
    assert predict_aif(training.model, scan(1, dt=2.0, n=20)).shape == (20,)
    assert predict_aif(training.model, scan(1, n=75)).shape == (75,)


def fold_in_memory():
    import tempfile

    return fold(tempfile.mkdtemp())


def test_a_scan_without_core_cannot_train():
    with pytest.raises(ValueError, match=r"scan_9.*core mask|core mask.*scan_9"):
        make_sample(scan(9, core=False))


def test_training_lowers_the_loss_from_random_weights(tmp_path):
    training, held_out = fold(tmp_path, epochs=15, matrix="volterra")
    output = training.model.network.layers[-1]
    output.bias.assign(np.zeros(64))  # the usual bolus maps these scans well at once
    before = training.watch(held_out)
    history = training.run(held_out)
    assert history[-1]["val_loss"] < before["val_loss"] - 0.1
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["val_dice"] > 0.6


def test_the_same_seed_gives_the_same_weights(tmp_path):
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        training, held_out = fold(tmp_path / name, seed=seed)
        training.run(held_out)
        runs.append(weights_of(training))
    assert all(np.array_equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(runs[0], runs[2], strict=True))


def test_stopped_after_an_epoch_it_goes_on_to_the_same_end(tmp_path):
    whole, held_out = fold(tmp_path / "whole", epochs=4)
    whole.run(held_out)
    stopped, _ = fold(tmp_path / "parts", epochs=4)

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.run(held_out, stop)
    resumed, _ = fold(tmp_path / "parts", epochs=4)
    assert len(resumed.history) == 2
    resumed.run(held_out)
    assert resumed.history == whole.history
    assert all(np.array_equal(a, b) for a, b in zip(weights_of(whole), weights_of(resumed), strict=True))


def test_with_the_second_factor_tmax_grows_sharper_and_a_resumed_run_ends_the_same(tmp_path):
    def start(folder):
        return fold(folder, epochs=3, tmax_factor=True)

    whole, held_out = start(tmp_path / "whole")
    sharpness = []
    whole.run(held_out, tell=lambda row: sharpness.append(float(whole.model.soft_tmax.beta)))
    np.testing.assert_allclose(sharpness, [20, 40, 80], rtol=1e-6)
    stopped, _ = start(tmp_path / "parts")

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.run(held_out, stop)
    resumed, _ = start(tmp_path / "parts")
    resumed.run(held_out)
    assert resumed.history == whole.history and all_equal(weights_of(whole), weights_of(resumed))


@pytest.mark.parametrize("head", ["cnn", "pool"])
def test_scans_of_one_shape_share_a_step_and_its_loss_is_their_mean(tmp_path, head):
    prepared = [scan(0), scan(1), scan(2), scan(3)]
    prepared[1] = replace(
        prepared[1],
        **{
            name: getattr(prepared[1], name)[:, :, :1]
            for name in ("concentration", "baseline", "brain", "tissue", "reference_tissue", "sides", "core")
        },
    )  # one slice: for the CNN another shape, and too few voxels for either
    samples = [make_sample(p) for p in prepared]
    settings = Settings.preset("tiny", head=head, batch_size=2, voxels=400, loss="ranking")
    training = FoldTraining(tmp_path, settings, samples)
    steps = list(training.steps(0))
    assert sorted(", ".join(ids for ids, *_ in steps).split(", ")) == [f"scan_{i}" for i in range(4)]
    assert sorted(len(core) for *_, core in steps) == [1, 1, 2]
    rate = training.learner.optimizer.get_config()["learning_rate"]
    assert rate["config"]["decay_steps"] == 2 * 3
    _, inputs, core = next(step for step in steps if len(step[2]) == 2)
    alone = []
    for i in range(2):
        one = {name: value[i : i + 1] for name, value in inputs.items()}
        outputs = training.model.outputs(one)
        alone.append(
            float(settings.objective.total(settings.objective.terms(one, core[i : i + 1], outputs))[0])
        )
    outputs = training.model.outputs(inputs)
    both = settings.objective.total(settings.objective.terms(inputs, core, outputs))
    np.testing.assert_allclose(both, alone, rtol=2e-4)
    assert training.run()[-1]["epoch"] == 2


def test_other_settings_or_other_data_start_anew(tmp_path):
    training, held_out = fold(tmp_path)
    training.run(held_out)
    assert len(fold(tmp_path)[0].history) == 2
    assert fold(tmp_path, learning_rate=0.01)[0].history == []
    samples = [make_sample(scan(i)) for i in (5, 6, 7)]
    assert FoldTraining(tmp_path, Settings(epochs=2), samples).history == []


def test_a_damaged_state_is_not_fatal(tmp_path):
    training, held_out = fold(tmp_path)
    training.run(held_out)
    state = tmp_path / "state.npz"
    state.write_bytes(state.read_bytes()[:1000])
    assert fold(tmp_path)[0].history == []


def test_cross_validation_gives_each_scan_the_aif_of_its_fold(tmp_path):
    told = []
    result = cross_validate(SCANS, FOLDS, tmp_path, PRESETS["tiny"], told.append)
    assert set(result.aifs) == {"scan_0", "scan_3"} and result.folds == {"scan_3": 0, "scan_0": 1}
    assert len(told) == len(result.history) == 2 * PRESETS["tiny"].epochs
    back = tables.load_aifs(tmp_path / "aifs.csv")
    for name, curve in result.aifs.items():
        np.testing.assert_allclose(back[name], curve)
    assert set(pd.read_csv(tmp_path / "history.csv").columns) >= {
        "fold",
        "epoch",
        "loss",
        "val_dice",
        "val_auc",
    }


def test_a_fold_without_masks_is_refused(tmp_path):
    bare = {"scan_0": scan(0, core=False), "scan_1": scan(1)}
    with pytest.raises(ValueError, match="no scan with a core mask"):
        cross_validate(bare, [(["scan_0"], ["scan_1"])], tmp_path, PRESETS["tiny"])


def test_a_loss_that_is_not_finite_stops_with_case_and_step(tmp_path):
    bad = scan(2)
    bad.concentration[bad.brain] = np.nan
    training = FoldTraining(tmp_path, Settings(epochs=1), [make_sample(bad)])
    with pytest.raises(RuntimeError, match=r"scan_2, step \d+ of fold 0"):
        training.run([])


def test_unknown_presets_are_refused():
    with pytest.raises(ValueError, match="tiny, quick, full"):
        Settings.preset("slow")
    assert Settings.preset("quick", epochs=3).epochs == 3


def test_early_stopping_keeps_the_best_weights(tmp_path, monkeypatch):
    script = iter([0.5, 0.1, 0.6, 0.7])  # averaged over the epochs so far: .5, .3, .4, .475

    def watch(self, samples):
        assert [s.id for s in samples] == ["scan_2", "scan_3"]  # the validation, not what is held out
        return {"val_loss": next(script), "val_dice": 0.5, "val_auc": 0.5}

    monkeypatch.setattr(FoldTraining, "watch", watch)
    samples = [make_sample(s) for s in SCANS.values()]

    def start():
        return FoldTraining(tmp_path, Settings(epochs=9, patience=2), samples[:2], 0, samples[2:])

    stopped, seen = start(), []
    stopped.run(samples[:1], tell=lambda row: seen.append(stopped.model.get_weights()))
    assert [row["epoch"] for row in stopped.history] == [1, 2, 3, 4] and stopped.best_epoch == 2
    kept = stopped.model.get_weights()
    assert all_equal(kept, seen[1]) and not all_equal(kept, seen[3])
    again = start()
    again.run()  # the script is used up: another epoch would fail
    assert len(again.history) == 4 and all_equal(again.model.get_weights(), kept)


def test_the_inner_validation_keeps_patients_apart():
    patients = {f"scan_{i}": f"patient_{i // 2}" for i in range(60)}
    inner, aside = inner_split(list(patients), patients, 0.2, seed=3)
    assert sorted(inner + aside) == sorted(patients) and not set(inner) & set(aside)
    whom = [{patients[i] for i in part} for part in (inner, aside)]
    assert not whom[0] & whom[1] and len(whom[1]) == 6
    assert (inner, aside) == inner_split(list(patients), patients, 0.2, seed=3)
    assert aside != inner_split(list(patients), patients, 0.2, seed=4)[1]


@pytest.mark.parametrize(("n", "share"), [(60, 0.0), (60, 0.1), (14, 0.2)])
def test_too_few_patients_for_a_validation_all_train(n, share):
    patients = {f"scan_{i}": f"patient_{i // 2}" for i in range(n)}
    assert inner_split(list(patients), patients, share, seed=0) == (list(patients), [])


def test_scans_without_core_are_left_out_and_named(tmp_path):
    scans = {**SCANS, "scan_1": without_core(SCANS["scan_1"])}
    folds = [(["scan_0", "scan_1"], ["scan_2"])]
    result = cross_validate(scans, folds, tmp_path / "a", Settings(epochs=1))
    assert result.notes == (
        "Fold 0 trains without scan_1: an empty core teaches neither soft Dice nor ranking.",
    )
    samples = [make_sample(scans[name]) for name in ("scan_0", "scan_1")]
    other = FoldTraining(tmp_path / "b", Settings(objective=Objective(cross_entropy=1.0)), samples)
    assert [s.id for s in other.training] == ["scan_0", "scan_1"] and other.silent == []


def test_a_fold_of_empty_masks_is_refused(tmp_path):
    scans = {"scan_0": without_core(SCANS["scan_0"]), "scan_1": SCANS["scan_1"]}
    with pytest.raises(ValueError, match=r"Fold 0 needs a training scan with some core.*all 1 are empty"):
        cross_validate(scans, [(["scan_0"], ["scan_1"])], tmp_path, PRESETS["tiny"])


@pytest.fixture(scope="module")
def run_of_two_folds(tmp_path_factory):
    """A run with validation, and what it found; all patients of a fold but one train."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "FEW_PATIENTS", 1)
        result = cross_validate(
            SCANS, FOLDS, folder, Settings(epochs=3, validation=0.34, learn=("threshold",))
        )
    return folder, result


def test_the_folds_come_back_with_the_weights_that_made_the_aifs(run_of_two_folds):
    folder, result = run_of_two_folds
    assert set(result.history["watched"]) == {"validation"}
    models = load_folds(folder)
    assert len(models) == 2 and models[0].learn == ("threshold",)
    for name, number in result.folds.items():
        np.testing.assert_array_equal(predict_aif(models[number], SCANS[name]), result.aifs[name])
        other = predict_aif(models[1 - number], SCANS[name])
        assert not np.allclose(other, result.aifs[name], rtol=1e-3)


def test_an_unseen_scan_gets_the_mean_of_the_folds_at_unit_peak(run_of_two_folds):
    folder, _ = run_of_two_folds
    fresh = scan(11)
    curves = [predict_aif(model, fresh) for model in load_folds(folder)]
    expected = sum(curve / abs(curve).max() for curve in curves) / 2
    found = predict_cohort(folder, {"scan_11": fresh})
    np.testing.assert_allclose(found["scan_11"], expected, rtol=1e-6)


def test_a_folder_without_a_run_and_a_damaged_fold_are_refused(run_of_two_folds, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"settings\.json and fold-\*/state\.npz.*perfkit train"):
        load_folds(tmp_path)
    (tmp_path / "fold-0").mkdir()
    (tmp_path / "settings.json").write_bytes((run_of_two_folds[0] / "settings.json").read_bytes())
    state = (run_of_two_folds[0] / "fold-0" / "state.npz").read_bytes()
    (tmp_path / "fold-0" / "state.npz").write_bytes(state[: len(state) // 2])
    with pytest.raises(ValueError, match=r"fold-0.*is damaged.*Train that fold again"):
        load_folds(tmp_path)


def test_convolutions_may_be_half_precise_and_what_they_make_is_not():
    inputs = inputs_of(make_sample(SCANS["scan_0"]))
    for changes, convolution in (({}, "float32"), ({"precision": "mixed_bfloat16"}, "bfloat16")):
        model = Settings(**changes).model()
        kinds = {layer.compute_dtype for layer in model.network.layers if "conv" in layer.name}
        assert kinds == {convolution} and model.deconvolution.compute_dtype == "float32"
        outputs = model.outputs(inputs)
        assert {keras.backend.standardize_dtype(x.dtype) for x in outputs.values()} == {"float32"}


class Failure(Exception):
    pass


def threads():
    return [t for t in threading.enumerate() if t.is_alive()]


def test_ahead_keeps_the_order_and_passes_an_error_on_where_it_would_be_met():
    def items():
        yield from range(10)
        raise Failure

    before, seen = threads(), []
    with pytest.raises(Failure):
        for item in ahead(items(), depth=3):
            seen.append(item)
    assert seen == list(range(10)) and threads() == before
    assert list(ahead(iter("abc"))) == ["a", "b", "c"]


def test_ahead_stops_its_thread_when_the_consumer_leaves_early():
    made = []

    def endless():
        for i in range(10**9):
            made.append(i)
            yield i

    before = threads()
    steps = ahead(endless(), depth=2)
    assert next(steps) == 0 and len(threads()) == len(before) + 1
    steps.close()
    assert threads() == before
    n = len(made)
    assert n <= 5  # what was taken, two that wait, one in hand


class Watcher(livetraining.LiveTraining):
    """A live view that keeps what it was given."""

    def __init__(self):
        super().__init__(show=lambda bundle: self)
        self.rows_told, self.curves, self.left = [], [], False

    def update(self, bundle):
        pass

    def tell(self, row):
        self.rows_told.append(row)
        super().tell(row)

    def draw(self, row, aif):
        self.curves.append(aif)
        super().draw(row, aif)

    def __exit__(self, *error):
        self.left = True
        super().__exit__(*error)


def test_watching_changes_nothing_and_is_told_everything(tmp_path, tiny_cohort):
    options = {"preset": "tiny", "folds": 2, "epochs": 2, "only": 1, "progress": False}
    options["prepared"] = prepare_cohort(open_cohort(tiny_cohort)).scans
    quiet = train_cohort(tiny_cohort, tmp_path / "quiet", **options)
    watcher = Watcher()
    watched = train_cohort(
        tiny_cohort, tmp_path / "run", **options, live=watcher, board=tmp_path / "run" / "board"
    )
    assert set(quiet.aifs) == set(watched.aifs)
    assert all(np.array_equal(quiet.aifs[name], watched.aifs[name]) for name in quiet.aifs)
    assert watcher.left and {row["epoch"] for row in watcher.rows_told} == {1, 2}
    assert [np.shape(curve) for curve in watcher.curves] == [(64,)] * 2
    assert [p.parent.name for p in (tmp_path / "run" / "board").glob("*/events.out.*")] == ["fold-1"]


KILLED = """
import sys
from perfkit.training import train_cohort
train_cohort(sys.argv[1], sys.argv[2], preset="tiny", folds=2, epochs=4, only=1, progress=False)
"""


def test_killed_half_way_it_goes_on_and_ends_the_same(tmp_path, tiny_cohort):
    """A real process, a real kill: the AIFs equal those of a run that nobody disturbed."""
    states = tmp_path / "killed" / "fold-1" / "state.npz"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tiny_cohort), str(tmp_path / "killed")])
    deadline = time.monotonic() + 120
    while not states.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert states.exists() and not (tmp_path / "killed" / "aifs.csv").exists()
    options = {"preset": "tiny", "folds": 2, "epochs": 4, "only": 1, "progress": False}
    resumed = train_cohort(str(tiny_cohort), tmp_path / "killed", **options)
    whole = train_cohort(str(tiny_cohort), tmp_path / "whole", **options)
    assert set(resumed.aifs) == set(whole.aifs)
    for name, curve in whole.aifs.items():
        np.testing.assert_array_equal(resumed.aifs[name], curve)
    pd.testing.assert_frame_equal(resumed.history, whole.history, check_exact=True)


def test_a_state_of_another_network_is_not_loaded(tmp_path, monkeypatch):
    training, held_out = fold(tmp_path)
    training.run(held_out)
    monkeypatch.setitem(aif_network.__kwdefaults__, "filters", (8, 8, 8))
    assert fold(tmp_path)[0].history == []


def test_a_step_always_has_some_core_and_some_reference_tissue():
    """Of a core of one voxel among 600 a plain draw of ten would have nothing in most steps."""
    sample = make_sample(SCANS["scan_0"])
    for name in ("core", "reference_tissue"):
        getattr(sample, name)[:] = 0
        getattr(sample, name)[100 if name == "core" else 200] = 1
    for seed in range(30):
        rng = np.random.default_rng(seed)
        inputs, core = augmented(sample, PRESETS["tiny"].augmentation, rng, n_voxels=10)
        assert inputs["series"].shape[1] == core.shape[1] == 10
        assert core.sum() == 1 and inputs["reference_tissue"].sum() == 1


@pytest.mark.parametrize("pools", [False, True])
def test_regressed_folds_count_alike_and_pooled_ones_keep_their_scale(monkeypatch, pools):
    proposals = {"a": np.array([0.0, 2.0, 1.0]), "b": np.array([0.0, 0.0, -50.0])}
    monkeypatch.setattr(training, "predict_aif", lambda model, scan: proposals[model.name])
    models = [SimpleNamespace(name=name, pools=pools) for name in proposals]
    expected = [0.0, 1.0, -24.5] if pools else [0.0, 0.5, -0.25]
    np.testing.assert_allclose(training.mean_aif(models, None), expected)
