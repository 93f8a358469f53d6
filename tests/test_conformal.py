"""Coverage by simulation with numbers of another kind, edges by hand, decisions against a dense grid."""

import json

import numpy as np
import pytest
from scipy import stats

from perfkit.conformal import FURTHEST, Decision, Interval, VolumeIntervals, decide
from perfkit.eligibility import eligible


def patients(rng, n, bias=1.0, spread=0.3):
    """True lesions and what a method with this bias and scatter makes of them, some missed altogether."""
    true = rng.lognormal(2.8, 1.1, n)
    seen = bias * true * rng.lognormal(0, spread, n) + rng.normal(0, 2, n)
    return np.where(rng.random(n) < 0.05, 0, np.maximum(seen, 0)), true


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("bias", [0.5, 1.0, 2.0])
def test_fresh_patients_are_covered_as_often_as_said(level, bias):
    """Over many calibrations the coverage is m/(n + 1) with m = ceil((n + 1) level)."""
    rng = np.random.default_rng(0)
    n, hits = 99, []
    for _ in range(300):
        intervals = VolumeIntervals.fit(*patients(rng, n, bias), level=level)
        predicted, true = patients(rng, 100, bias)
        low, high, _ = intervals.interval(predicted)
        hits.append(np.mean((low <= true) & (true <= high)))
    expected = np.ceil((n + 1) * level - 1e-9) / (n + 1)
    assert np.mean(hits) == pytest.approx(expected, abs=4 * np.std(hits) / np.sqrt(300))
    assert np.std(hits) < 0.06  # a single calibration scatters as the Beta distribution of its rank does


def test_with_eight_hundred_patients_one_calibration_is_within_three_points():
    rng = np.random.default_rng(1)
    for _ in range(20):
        intervals = VolumeIntervals.fit(*patients(rng, 800))
        predicted, true = patients(rng, 4000)
        low, high, _ = intervals.interval(predicted)
        assert abs(np.mean((low <= true) & (true <= high)) - 0.9) < 0.045  # 4 sd of rank and draw
    within = stats.beta(721, 80).cdf(0.93) - stats.beta(721, 80).cdf(0.87)
    assert within > 0.99  # what the rank alone leaves


def test_the_ends_are_the_order_statistics_of_the_errors():
    """19 patients at .9: ceil(20 × .9) = 18, so from the first to the last error."""
    true = np.arange(1.0, 20.0)
    intervals = VolumeIntervals.fit(np.zeros(19), true, level=0.9, scale_ml=5.0)
    assert intervals.low == pytest.approx((np.arcsinh(1 / 5),)) and intervals.n == 19
    low, high, middle = intervals.interval([0.0, np.nan])
    assert (low[0], high[0], middle[0]) == pytest.approx((1.0, 19.0, 10.0))
    assert np.isnan([low[1], high[1], middle[1]]).all()
    with pytest.raises(ValueError, match=r"level 0\.9 needs about 19 calibration patients.*: 18 came"):
        VolumeIntervals.fit(np.zeros(18), true[:18], level=0.9)
    assert VolumeIntervals.fit(np.zeros(39), np.arange(39.0), level=0.95).n == 39
    with pytest.raises(ValueError, match="about 39"):
        VolumeIntervals.fit(np.zeros(38), np.arange(38.0), level=0.95)


def test_intervals_are_never_negative_and_grow_with_the_volume():
    rng = np.random.default_rng(2)
    intervals = VolumeIntervals.fit(*patients(rng, 200))
    low, high, middle = intervals.interval([0.0, 1.0, 10.0, 100.0, 1000.0])
    assert (low >= 0).all() and low[0] == 0
    assert (low <= middle).all() and (middle <= high).all()
    assert (np.diff(high - low) > 0).all()
    assert high[4] / low[4] == pytest.approx(high[3] / low[3], rel=0.02)  # far above the scale: in per cent


def test_groups_hold_the_share_where_one_interval_for_all_does_not():
    """Small volumes scatter three times as much here: fitted together they are covered far too seldom."""
    rng = np.random.default_rng(9)

    def drawn(n):
        predicted = rng.lognormal(3, 1, n)
        small = predicted < np.exp(3 - 0.43)  # a third
        return predicted, predicted * rng.lognormal(0, np.where(small, 0.6, 0.2)), small

    shares = {1: [], 3: []}
    for _ in range(40):
        predicted, true, _ = drawn(300)
        fresh, truth, small = drawn(600)
        for groups, found in shares.items():
            low, high, _ = VolumeIntervals.fit(predicted, true, groups=groups).interval(fresh)
            found.append(np.mean(((low <= truth) & (truth <= high))[small]))
    assert np.mean(shares[1]) < 0.82
    assert np.mean(shares[3]) == pytest.approx(0.9, abs=0.02)


def test_slabs_of_a_patient_are_summed():
    rng = np.random.default_rng(3)
    predicted, true = patients(rng, 60)
    twice = np.repeat(np.arange(60), 2)
    half = VolumeIntervals.fit(
        np.repeat(predicted / 2, 2), np.repeat(true / 2, 2), patient=[f"p{i}" for i in twice]
    )
    assert half.n == 60
    assert half == VolumeIntervals.fit(predicted, true)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (([1.0], [1.0, 2.0]), {}, "two lists of one length"),
        (([-1.0], [1.0]), {}, "Predicted volumes are ml, 0 or more, all known: -1 came"),
        (([1.0], [np.nan]), {}, "True volumes are ml.*nan came"),
        ((np.ones(30), np.ones(30)), {"level": 1.0}, "share between 0 and 1: 1.0 came"),
        ((np.ones(30), np.ones(30)), {"scale_ml": 0}, "above 0: 0 came"),
        ((np.ones(30), np.ones(30)), {"groups": 0}, "at least 1: 0 came"),
        ((np.ones(30), np.ones(30)), {"groups": 2}, "in each group: 0 came"),
        ((np.ones(30), np.ones(30)), {"patient": ["a"]}, r"30 volumes, \(1,\) came"),
    ],
)
def test_wrong_volumes_are_refused_in_words(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        VolumeIntervals.fit(*arguments, **options)


def test_saved_intervals_are_the_same_when_loaded(tmp_path):
    drawn = patients(np.random.default_rng(4), 100)
    intervals = VolumeIntervals.fit(*drawn, what="core, calibrated", groups=2)
    path = intervals.save(tmp_path / "core.json")
    assert VolumeIntervals.load(path) == intervals and len(intervals.edges) == 1
    assert json.loads(path.read_text())["unit"] == "patient"
    assert [p.name for p in tmp_path.iterdir()] == ["core.json"]


@pytest.mark.parametrize("spoil", ["kind", "missing", "order", "text", "list"])
def test_a_file_of_another_kind_is_refused_by_its_name(tmp_path, spoil):
    path = VolumeIntervals.fit(*patients(np.random.default_rng(5), 40)).save(tmp_path / "core.json")
    facts = json.loads(path.read_text())
    if spoil == "kind":
        facts["made_by"] = "another"
    elif spoil == "missing":
        del facts["low"]
    elif spoil == "order":
        facts["low"], facts["high"] = facts["high"], facts["low"]
    path.write_text({"text": "core: 5", "list": "[1]"}.get(spoil) or json.dumps(facts))
    with pytest.raises(ValueError, match=r"core\.json: conformal intervals must be JSON"):
        VolumeIntervals.load(path)


# ---------------------------------------------------------------- decisions


def around(low, high, middle):
    return Interval(*(np.asarray(x, float) for x in (low, high, middle)))


@pytest.mark.parametrize("rule", ["DEFUSE 3", "EXTEND"])
def test_certain_is_what_a_dense_grid_inside_the_intervals_finds(rule):
    rng = np.random.default_rng(6)
    found = {True: 0, False: 0}
    for _ in range(300):
        core = np.sort(rng.lognormal(3.2, 0.6) * rng.lognormal(0, 0.3, 3))
        late = np.sort(rng.lognormal(3.2, 0.8) * rng.lognormal(0, 0.3, 3))
        decision = decide(around(core[0], core[2], core[1]), around(late[0], late[2], late[1]), rule)
        cores, mismatches = np.meshgrid(np.linspace(*core[[0, 2]], 60), np.linspace(*late[[0, 2]], 60))
        answers = eligible(cores, cores + mismatches, rule)
        assert decision.certain == (np.ptp(answers) == 0)
        assert decision.eligible == eligible(core[1], core[1] + late[1], rule)
        assert (decision.margin > 1) == decision.certain
        found[bool(decision.certain)] += 1
    assert min(found.values()) > 50


def test_the_margin_is_the_distance_to_the_limit_in_half_widths():
    far = around(500, 500, 500)
    # on the scale asinh(v/5): from 35 ml to 70 ml is as far as t intervals of half-width w
    to_limit = np.arcsinh(70 / 5) - np.arcsinh(35 / 5)
    for t in (0.5, 2.0):
        half = to_limit / t
        at = np.arcsinh(35 / 5)
        core = around(5 * np.sinh(at - half), 5 * np.sinh(at + half), 35.0)
        decision = decide(core, far)
        assert decision.margin == pytest.approx(t, rel=1e-6) and decision.limit == "core volume"
        assert bool(decision.certain) == (t > 1) and decision.eligible
    assert decide(around(10, 10, 10), far).margin == FURTHEST
    assert decide(around(10, 10, 10), far).limit == ""


@pytest.mark.parametrize(
    ("core", "mismatch", "limit", "now"),
    [
        ((50, 72, 65), (300, 300, 300), "core volume", True),
        ((60, 100, 75), (300, 300, 300), "core volume", False),
        ((40, 40, 40), (30, 50, 34), "mismatch ratio", True),
        ((40, 40, 40), (20, 50, 30), "mismatch ratio", False),
        ((2, 2, 2), (10, 30, 20), "mismatch volume", True),
        ((0, 0, 0), (5, 30, 10), "mismatch volume", False),
    ],
)
def test_the_limit_that_turns_the_decision_is_named(core, mismatch, limit, now):
    decision = decide(around(*core), around(*mismatch))
    assert decision.limit == limit and bool(decision.eligible) is now and not decision.certain


def test_decisions_of_many_patients_at_once_and_of_unknown_volumes():
    core = around([10, 80, np.nan], [20, 120, 20], [15, 100, 15])
    mismatch = around([100, 100, 100], [200, 200, 200], [150, 150, 150])
    decision = decide(core, mismatch)
    assert isinstance(decision, Decision)
    assert decision.eligible.tolist() == [True, False, False]
    assert decision.certain.tolist() == [True, True, False]
    assert decision.margin[0] > 1 and np.isnan(decision.margin[2]) and decision.limit[2] == ""
    with pytest.raises(ValueError, match="one of DEFUSE 3, EXTEND: 'DAWN' came"):
        decide(core, mismatch, "DAWN")
