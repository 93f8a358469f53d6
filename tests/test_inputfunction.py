"""An input function says where it comes from, how good it is, and what the vein makes of it."""

import numpy as np
import pytest

from perfkit.aif import AIF, corrected, judged, partial_volume_factor

T = np.arange(60.0)


def bolus(onset, rise, peak):
    x = np.clip(T - onset, 0, None) / rise
    return peak * (x * np.exp(1 - x)) ** 3


TISSUE = bolus(9, 12, 6)
ARTERY = AIF(bolus(6, 7, 40), np.array([[1, 2, 0]]), 1.0, "straka", (), "1 voxel <of> all.")
VEIN = AIF(bolus(11, 9, 120), np.array([[5, 5, 0]]), 1.0, "vof")


def test_the_vein_undoes_the_partial_volume():
    found = corrected(ARTERY, VEIN)
    factor = partial_volume_factor(ARTERY, VEIN)
    assert factor == pytest.approx(VEIN.curve.sum() / ARTERY.curve.sum()) and factor > 2
    np.testing.assert_allclose(found.curve, factor * ARTERY.curve)
    assert found.area == pytest.approx(VEIN.area)
    assert f"scaled by {factor:.2f}" in found.why and found.notes == () and found.voxels is ARTERY.voxels


@pytest.mark.parametrize(
    ("vein", "because"),
    [
        (AIF(np.where(T < 24, VEIN.curve, VEIN.curve[24]), VEIN.voxels, 1.0, "vof"), "its area is cut off"),
        (AIF(VEIN.curve / 10, VEIN.voxels, 1.0, "vof"), "less area than it"),
    ],
)
def test_a_factor_that_may_not_be_trusted_changes_nothing_and_says_so(vein, because):
    found = corrected(ARTERY, vein)
    np.testing.assert_array_equal(found.curve, ARTERY.curve)
    assert found.flagged and because in found.notes[0]


def test_judging_adds_the_score_and_what_speaks_against_it():
    good = judged(ARTERY, TISSUE)
    assert good.score > 5 and not good.flagged
    noted = AIF(ARTERY.curve / 10, ARTERY.voxels, 1.0, "straka", ("It was relaxed.",))
    weak = judged(noted, TISSUE)
    assert weak.notes[0] == "It was relaxed." and "weak" in weak.notes[1] and weak.flagged


def test_the_words_are_shown():
    shown = judged(AIF(ARTERY.curve / 10, ARTERY.voxels, 1.0, "straka", (), ARTERY.why), TISSUE)
    assert repr(shown).startswith("AIF(straka, 1 voxels, peak 4 HU at 13 s)")
    for words in (ARTERY.why, *shown.notes):
        assert words in repr(shown)
    page = shown._repr_html_()
    assert "1 voxel &lt;of&gt; all." in page and "times as arterial" in page and "weak" in page


def test_the_fits_are_at_hand():
    assert ARTERY.fit.plausible and ARTERY.fit.peak == pytest.approx(40, rel=0.01)
    assert ARTERY.recirculation.first.ttp == pytest.approx(13, abs=0.2)
    assert not AIF(np.zeros(60), ARTERY.voxels, 1.0, "x").fit.plausible


def test_the_fields_keep_their_places():
    assert AIF(T, ARTERY.voxels, 2.0, "m", ("n",), "w", 3.0).score == 3.0
    assert np.isnan(AIF(T, ARTERY.voxels, 2.0, "m").score)
