"""One sort for AUC, ROC and threshold curves: the numbers of scikit-learn and of slow loops, with ties."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score, roc_curve

from perfkit import metrics
from perfkit.ranking import Ranking

RATES = np.linspace(0, 1, 101)


def drawn(seed, n=400, levels=None):
    """A reference mask and a score that knows something of it; ``levels`` makes ties."""
    rng = np.random.default_rng(seed)
    reference = rng.random(n) < (0.02, 0.2, 0.5, 0.9)[seed % 4]
    reference[:2] = True, False
    score = (rng.normal(size=n) + reference).astype((np.float32, float)[seed % 2])
    return reference, score if levels is None else np.round(score * levels) / levels


CASES = [(seed, levels) for seed in range(8) for levels in (None, 8, 1)]


@pytest.mark.parametrize(("seed", "levels"), CASES)
def test_the_area_is_that_of_scikit_learn_and_of_all_pairs(seed, levels):
    reference, score = drawn(seed, levels=levels)
    found = Ranking.of(reference, score).auc()
    pairs = score[reference][:, None] - score[~reference][None]
    assert found == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean(), abs=1e-12)
    assert found == pytest.approx(roc_auc_score(reference, score), abs=1e-12)


@pytest.mark.parametrize(("seed", "levels"), CASES)
@pytest.mark.parametrize("rates", [RATES, np.array([0, 1e-9, 1 / 3, 0.29, 1 - 1e-9, 1])])
def test_the_roc_curve_is_that_of_scikit_learn(seed, levels, rates):
    reference, score = drawn(seed, levels=levels)
    false, true, _ = roc_curve(reference, score, drop_intermediate=False)
    top = np.append(np.diff(false) > 0, True)  # of a vertical step its top
    expected = np.interp(rates, false[top], true[top])
    np.testing.assert_allclose(Ranking.of(reference, score).roc(rates), expected, atol=1e-9)


@pytest.mark.parametrize(("seed", "levels"), CASES)
def test_counts_and_dice_of_cut_offs_are_those_of_masks(seed, levels):
    reference, score = drawn(seed, levels=levels)
    cutoffs = [-np.inf, -1, 0, 0.125, 0.38, 1, np.inf]  # some equal scores, which are not above
    ranking = Ranking.of(reference, score)
    for cutoff, hit, false, dice in zip(cutoffs, *ranking.above(cutoffs), ranking.dice(cutoffs), strict=True):
        above = score > cutoff
        assert (hit, false) == ((above & reference).sum(), (above & ~reference).sum())
        assert dice == pytest.approx(metrics.dice(reference, above))
        assert dice == pytest.approx(f1_score(reference, above, zero_division=1))


def test_a_cut_off_has_the_precision_of_the_scores():
    rcbf = np.array([0.38, 0.2, 0.9], np.float32)  # 0.38 in single precision is below 0.38 in double
    core = np.array([True, True, False])
    hit, _ = Ranking.of(core, -rcbf).above([-0.38])
    assert hit[0] == (core & (rcbf < 0.38)).sum() == 1


def test_infinite_scores_are_ranks_like_others():
    reference = np.array([True, False, True, False, False])
    score = np.array([np.inf, -np.inf, 1.0, np.inf, 0.5])
    ranking = Ranking.of(reference, score)
    # Pairs of inside × outside: (inf: above −inf, equal to inf, above .5), (1: above −inf and .5, below inf).
    assert ranking.auc() == pytest.approx((2.5 + 2) / 6)
    assert ranking.roc([0, 1 / 3, 1]) == pytest.approx([0, 1, 1])


@pytest.mark.parametrize("seed", range(4))
def test_rankings_join_to_that_of_all_voxels(seed):
    parts = [drawn(seed, 50 + i, 4) for i in range(3)]
    reference, score = (np.concatenate(part) for part in zip(*parts, strict=True))
    whole, joined = Ranking.of(reference, score), Ranking.joined(Ranking.of(*part) for part in parts)
    np.testing.assert_array_equal(joined.inside, whole.inside)
    np.testing.assert_array_equal(joined.outside, whole.outside)


@pytest.mark.parametrize("reference", [[True] * 3, [False] * 3])
def test_one_class_cannot_be_ranked_and_still_has_a_dice(reference):
    ranking = Ranking.of(np.array(reference), np.array([0.1, 0.2, 0.3]))
    assert np.isnan(ranking.auc()) and np.isnan(ranking.roc(RATES)).all()
    assert ranking.dice([0.15, 9]) == pytest.approx([0.8, 0] if reference[0] else [0, 1])


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="1 of 3 are NaN"):
        Ranking.of(np.array([True, False, False]), np.array([0.1, np.nan, 0.2]))
