"""The ceiling: where the best is known it is found, more freedom is never worse, and the shares add up."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from perfkit import nifti, paper
from perfkit.ceiling import best_threshold, ceiling
from perfkit.ceilingfigures import FREE, ceiling_figure, shares
from perfkit.ceilingslices import across_slices
from perfkit.metrics import dice, roc_auc
from perfkit.oracle import Setting, make_target, oracle_for
from perfkit.preprocessing import Prepared

N, STEP = 40, 0.1
FINE = np.arange(0, N, STEP)


def bolus(onset, width=2.0):
    s = np.clip(FINE - onset, 0, None) / width
    return 150 * (s / 3) ** 3 * np.exp(3 - s)


def tissue(aif, flow, mtt):
    """By the plain sum on a fine grid, read every second."""
    k = flow / 6000 / 0.705 * np.exp(-FINE / mtt)
    return np.interp(np.arange(N), FINE, np.convolve(aif, k)[: len(FINE)] * STEP)


def scan(seed=0, *, noise=0.3, flows=(50, 12), mtts=(4.0, 9.0), core=True, dt=1):
    """A disc of brain with a patch of low flow, the core."""
    rng = np.random.default_rng(seed)
    aif = bolus(7)
    x, y, _ = np.meshgrid(np.linspace(-1, 1, 20), np.linspace(-1, 1, 20), [0, 1], indexing="ij")
    brain = x**2 + y**2 < 0.9
    lesion = brain & ((x - 0.4) ** 2 + (y - rng.uniform(-0.3, 0.3)) ** 2 < 0.08)
    healthy, ill = (tissue(aif, *values) for values in zip(flows, mtts, strict=True))
    series = np.where(lesion[..., None], ill, healthy) + rng.normal(0, noise, (*brain.shape, N))
    return Prepared(
        id=f"scan_{seed}",
        patient=f"patient_{seed // 2}",
        concentration=(series * brain[..., None]).astype(np.float32)[..., ::dt],
        baseline=np.where(brain, 35, 0).astype(np.float32),
        brain=brain,
        tissue=brain,
        reference_tissue=brain & (x < 0),
        sides=np.sign(x).astype(np.int8) * brain,
        lesion_side=1,
        dt=float(dt),
        spacing=np.array([5.0, 5.0, 5.0]),
        affine=np.diag([5, 5, 5, 1.0]),
        core=lesion if core else None,
        n_baseline=4,
    )


@pytest.fixture(scope="module", params=["volterra", "circulant"])
def oracle(request):
    return oracle_for(N, request.param)


@pytest.fixture(scope="module")
def target():
    return make_target(scan(noise=0.6), N, voxels=BRAIN)


@pytest.fixture(scope="module")
def small():
    """Two patients, three scans."""
    return ceiling({f"scan_{i}": scan(i, noise=1.0) for i in range(3)}, steps=8)


BRAIN = int(scan().brain.sum())


def start(target, **changes):
    return Setting(target.on_clock(target.mean_curve), **changes)


def test_the_best_threshold_is_that_of_all_thresholds():
    rng = np.random.default_rng(0)
    rcbf = rng.choice(np.linspace(0, 1, 41), 300)  # with ties
    core = rng.random(300) < 1 - rcbf
    cut, score = best_threshold(core, rcbf)
    brute = max(dice(core, rcbf < c) for c in np.linspace(-0.01, 1.01, 409))
    assert score == pytest.approx(brute) == pytest.approx(dice(core, rcbf < cut))


def test_a_core_of_no_low_flow_is_best_left_to_all_voxels():
    cut, score = best_threshold(np.array([False, True]), np.array([0.2, 0.9]))
    assert cut > 0.9 and score == pytest.approx(2 / 3)


def test_the_weights_keep_soft_dice_of_all_voxels():
    """600 of 1,100 voxels with their weights, against every voxel once."""
    oracle = oracle_for(N)
    whole, part = (make_target(scan(noise=0.0), N, voxels=v) for v in (BRAIN, 600))
    losses = [oracle.descend(t, start(t))[1] for t in (whole, part)]
    assert losses[0] == pytest.approx(losses[1], abs=0.01)
    rcbf = oracle.rcbf(whole, start(whole))
    p = 1 / (1 + np.exp((rcbf - paper.RCBF_THRESHOLD) / 0.05))
    by_hand = 1 - 2 * p[whole.core].sum() / (p.sum() + whole.core.sum())
    assert losses[0] == pytest.approx(by_hand, abs=1e-4)


def test_the_best_threshold_by_gradients_is_that_of_brute_force(oracle, target):
    found, loss = oracle.descend(target, start(target), ("threshold",), steps=60)
    tried = [oracle.descend(target, start(target, threshold=t))[1] for t in np.arange(0.05, 1.2, 0.04)]
    assert loss <= min(tried) + 1e-3
    assert found.lambda_rel == pytest.approx(paper.LAMBDA_REL)
    np.testing.assert_allclose(found.aif, start(target).aif)


def test_the_best_lambda_by_gradients_is_that_of_brute_force(oracle, target):
    begin = start(target, threshold=0.5)
    found, loss = oracle.descend(target, begin, ("lambda_rel",), steps=80)
    tried = [
        oracle.descend(target, start(target, threshold=0.5, lambda_rel=v))[1]
        for v in np.geomspace(0.02, 3, 20)
    ]
    assert loss <= min(tried) + 2e-3
    assert loss < oracle.descend(target, begin)[1] and found.threshold == pytest.approx(0.5)


def test_where_an_aif_separates_core_from_tissue_it_is_found(oracle):
    """Without noise two kinds of tissue are told apart by some AIF at the usual threshold: Dice 1."""
    whole = make_target(scan(noise=0.0, flows=(50, 15)), N, voxels=BRAIN)
    begin = start(whole)
    assert dice(whole.core, oracle.rcbf(whole, begin) < begin.threshold) == 0
    found, _ = oracle.descend(whole, begin, ("aif",), steps=100)
    assert dice(whole.core, oracle.rcbf(whole, found) < found.threshold) == 1


def test_ranking_raises_the_auc(oracle):
    noisy = make_target(scan(noise=3.0, flows=(50, 35)), N, voxels=BRAIN)
    begin = start(noisy)
    found, _ = oracle.descend(noisy, begin, ("aif",), ranking=True)
    before, after = (roc_auc(noisy.core, -oracle.rcbf(noisy, s)) for s in (begin, found))
    assert after > before + 0.01
    assert (found.threshold, found.lambda_rel) == pytest.approx((begin.threshold, begin.lambda_rel))


def test_a_padded_scan_gives_what_it_gives_alone():
    """Frames and voxels that are padding change nothing."""
    settings = []
    for padding in (0, 9):
        target = make_target(scan(), N + padding, voxels=BRAIN + 10 * padding)
        settings.append(oracle_for(N + padding).descend(target, start(target), FREE, steps=5))
    assert settings[0][1] == pytest.approx(settings[1][1], abs=1e-3)
    assert settings[0][0].threshold == pytest.approx(settings[1][0].threshold, abs=0.01)


@pytest.mark.parametrize("matrix", ["volterra", "circulant"])
def test_what_is_kept_scores_as_it_was_optimised(matrix):
    """Also where a scan ends before the longest: the loss follows by hand from the map of its voxels."""
    target, oracle = make_target(scan(), N + 9, voxels=BRAIN + 90), oracle_for(N + 9, matrix)
    found, loss = oracle.descend(target, start(target), FREE, steps=15)
    p = 1 / (1 + np.exp((oracle.rcbf(target, found) - found.threshold) / 0.05))
    assert loss == pytest.approx(1 - 2 * p[target.core].sum() / (p.sum() + target.core.sum()), abs=1e-3)
    assert not found.aif[N:].any()


def test_a_scan_of_two_seconds_a_frame_is_read_between_its_frames():
    slow, fast = (make_target(scan(noise=0.0, dt=dt), N) for dt in (2, 1))
    assert slow.valid.sum() == N - 1
    np.testing.assert_allclose(
        slow.on_clock(slow.mean_curve)[:39:2], fast.on_clock(fast.mean_curve)[:39:2], atol=0.05
    )


def test_more_freedom_is_never_worse(small):
    wide = small.scores[small.scores["kind"] == "oracle"].set_index(["case", "freedom"])
    for case in small.scores["case"].unique():
        given = small.scores.query("case == @case and kind == 'given'").iloc[0]
        reached = {(): (given["loss"], given["dice"])}
        for n in (1, 2, 3):
            for free in itertools.combinations(FREE, n):
                row = wide.loc[(case, "+".join(free))]
                reached[free] = row["loss"], row["dice"]
                for less in itertools.combinations(free, n - 1):
                    assert row["loss"] <= reached[less][0] + 1e-6
                    assert row["dice"] >= reached[less][1]


def test_the_same_seed_gives_the_same_numbers():
    tables = [ceiling({"scan_0": scan(noise=1.0)}, steps=3, seed=s).scores for s in (0, 0)]
    pd.testing.assert_frame_equal(*tables)


def test_a_given_aif_is_never_above_the_ceiling():
    """An AIF made best beforehand is given: what is found is at least as good."""
    one = scan(noise=1.0)
    target = make_target(one, N, voxels=BRAIN)
    best, loss = oracle_for(N).descend(target, start(target), ("aif",), steps=20)
    found = ceiling({"scan_0": one}, steps=1, inputs={"expert": {"scan_0": 7 * best.aif}}).scores
    rows = found.set_index(["kind", "freedom"])
    assert rows.loc[("given", "expert"), "loss"] == pytest.approx(loss, abs=1e-3)
    assert rows.loc[("oracle", "aif"), "loss"] <= rows.loc[("given", "expert"), "loss"] + 1e-6


def test_the_threshold_of_the_others_is_not_that_of_the_patient(small):
    """Patient 1 has one scan, patient 0 two: each is scored at what is best for the other one."""
    rows = small.scores.query("kind == 'cohort' and freedom == 'threshold'").set_index("case")
    oracle = oracle_for(N)
    targets = [make_target(scan(i, noise=1.0), N) for i in range(3)]
    maps = [oracle.rcbf(t, start(t)) for t in targets]
    cuts = np.round(np.arange(0.05, 1.0, 0.01), 2)
    scores = np.array([[dice(t.core, m < c) for c in cuts] for t, m in zip(targets, maps, strict=True)])
    assert rows.loc["scan_2", "threshold"] == cuts[scores[:2].mean(axis=0).argmax()]
    assert rows.loc["scan_0", "threshold"] == rows.loc["scan_1", "threshold"] == cuts[scores[2].argmax()]
    assert rows.loc["scan_2", "dice"] == pytest.approx(scores[2][scores[:2].mean(axis=0).argmax()])


def test_the_shares_add_up_to_the_loss(small):
    table = shares(small).set_index("part")
    control = small.scores.query("kind == 'given'")["dice"]
    assert table.loc["loss", "dice"] == pytest.approx(1 - control.mean())
    assert table["dice"].drop("loss").sum() == pytest.approx(table.loc["loss", "dice"])
    assert table["share"].drop("loss").sum() == pytest.approx(100)
    assert (table.loc[list(FREE), "dice"] >= 0).all()


def test_shapley_values_by_hand():
    """Two freedoms that do the same share it; one that does nothing has none."""
    reached = {"aif": 0.5, "threshold": 0.5, "lambda_rel": 0.3, "aif+threshold": 0.5, "aif+lambda_rel": 0.5}
    reached |= {"threshold+lambda_rel": 0.5, "aif+threshold+lambda_rel": 0.5}
    rows = [("given", "brain_mean", 0.3)] + [("oracle", k, v) for k, v in reached.items()]
    table = pd.DataFrame(rows, columns=["kind", "freedom", "dice"]).assign(case="a", patient="p")
    found = shares(table).set_index("part")["dice"]
    assert found[["aif", "threshold", "lambda_rel", "rest"]].tolist() == pytest.approx([0.1, 0.1, 0, 0.5])


def write_truth(folder, one):
    folder.mkdir(parents=True)
    ill = one.core | (one.brain & (np.indices(one.core.shape)[0] < 3))  # flow is low elsewhere, too
    flow = np.where(ill, 10.0, 50.0) * one.brain
    (folder / "truth.json").write_text(json.dumps({"aif": bolus(7)[:: round(1 / STEP)].tolist()}))
    nifti.write(folder / "cbf.nii.gz", flow.astype(np.float32), one.affine)
    late = np.where(one.core & (np.indices(one.core.shape)[2] > 0), 5.0, 1.0)  # half of the core is late
    nifti.write(folder / "delay.nii.gz", late.astype(np.float32), one.affine)
    smaller = one.core.copy()
    smaller[:, ::2] = False
    nifti.write(folder / "core.nii.gz", smaller.astype(np.uint8), one.affine)
    return dice(one.core, smaller)


def test_the_truth_of_a_phantom_splits_the_rest(tmp_path):
    one = scan(noise=1.0)
    overlap = write_truth(tmp_path / "truth" / "scan_0", one)
    found = ceiling({"scan_0": one}, steps=3, truth=tmp_path)
    rows = found.scores.set_index(["kind", "freedom"])["dice"]
    core, low = one.core[one.brain], (one.core | (np.indices(one.core.shape)[0] < 3))[one.brain]
    late = (one.core & (np.indices(one.core.shape)[2] > 0))[one.brain]
    assert rows["truth", "rcbf"] == pytest.approx(dice(core, low))
    assert rows["truth", "rcbf+delay"] == pytest.approx(max(dice(core, low), dice(core, late)))
    assert rows["truth", "core"] == pytest.approx(overlap)
    assert ("given", "truth") in rows.index and found.aifs["truth"]["scan_0"].shape == (N,)
    table = shares(found).set_index("part")["dice"]
    assert table["label"] == pytest.approx(1 - overlap)
    assert table["delay"] == pytest.approx(rows["truth", "rcbf+delay"] - rows["truth", "rcbf"])
    assert table.drop("loss").sum() == pytest.approx(table["loss"])


def test_a_scan_without_truth_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="scan_0"):
        ceiling({"scan_0": scan()}, truth=tmp_path)


def test_scans_without_a_core_are_left_out_and_named():
    found = ceiling({"scan_0": scan(), "scan_1": scan(1, core=False)}, steps=1)
    assert found.left_out == {"scan_1": "no core mask"} and set(found.scores["case"]) == {"scan_0"}
    with pytest.raises(ValueError, match="none has one"):
        ceiling({"scan_1": scan(1, core=False)})
    with pytest.raises(ValueError, match="volterra, circulant"):
        ceiling({"scan_0": scan()}, matrix="toeplitz")


def test_the_figure_shows_every_mean(small):
    figure = ceiling_figure(small)
    means = {t.name: t for t in figure.data if t.name and t.xaxis == "x"}
    oracle = small.scores[small.scores["kind"] == "oracle"]
    wanted = oracle.groupby("freedom", sort=False)["dice"].mean()
    np.testing.assert_allclose(means["Best for the scan"].x, wanted)
    assert {figure.layout.xaxis.title.text, figure.layout.xaxis2.title.text} == {"Dice", "ROC AUC"}
    heights = dict(zip(figure.layout.yaxis.ticktext, figure.layout.yaxis.tickvals, strict=True))
    assert means["Best for the scan"].y[0] == heights["AIF"]
    assert ceiling_figure(small.scores.iloc[:0]).layout.annotations[0].text == "No ceiling to show"


def test_what_fits_the_noise_of_a_label_is_not_carried_to_other_slices():
    """A label drawn at random in uniform tissue can be fitted a little, and tells nothing of other slices."""
    one = scan(noise=3.0)
    rng = np.random.default_rng(1)
    uniform = tissue(bolus(7), 50, 4.0) + rng.normal(0, 3.0, (*one.brain.shape, N))
    label = one.brain & (rng.random(one.brain.shape) < 0.3)
    noise = replace(one, concentration=(uniform * one.brain[..., None]).astype(np.float32), core=label)
    rows = across_slices({"scan_0": noise}, steps=40).set_index("freedom")
    gain = rows["roc_auc_fitted"] - rows["roc_auc_fitted"]["brain_mean"]
    carried = rows["roc_auc_held"] - rows["roc_auc_held"]["brain_mean"]
    assert gain["ranking"] > 0.02 > carried["ranking"]
    assert abs(rows["roc_auc_held"]["ranking"] - 0.5) < 0.05


def test_what_is_true_is_carried_to_other_slices():
    rows = across_slices({"scan_0": scan(noise=0.3, flows=(50, 15))}, steps=40).set_index("freedom")
    assert rows["dice_held"]["brain_mean"] < 0.5
    assert rows["dice_held"]["aif"] > 0.9 and rows["dice_held"]["threshold"] > 0.9


def test_a_scan_whose_core_lies_in_every_second_slice_cannot_be_halved():
    one = scan()
    core = one.core & (np.indices(one.core.shape)[2] == 0)
    assert not len(across_slices({"scan_0": replace(one, core=core)}, steps=1))
