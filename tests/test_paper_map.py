"""Every item of the paper is realised once, and its numbers are the printed ones."""

from collections import Counter

import pytest

from perfkit import paper

CLAIMS = Counter(claim.item for claim in paper.realisations())

# Typed from the paper's Table 1 once more, apart from the package.
PRINTED = """
expert     .856  .353 .201  .233 .157  54.1 19.4
automatic  .856  .351 .202  .232 .158  55.0 18.8
cnn        .868  .359 .201  .238 .157  53.7 18.9
"""


@pytest.mark.parametrize("item", paper.ITEMS)
def test_item_is_realised_exactly_once(item):
    places = [f"{c.path.name}:{c.line} {c.function}" for c in paper.realisations() if c.item == item]
    assert len(places) == 1, f"{item}: {places or 'nobody claims it'}"


def test_no_docstring_claims_what_the_paper_does_not_have():
    assert set(CLAIMS) <= set(paper.ITEMS)


@pytest.mark.parametrize(
    "item", [f"Eq. {n}" for n in range(1, 10)] + [f"Fig. {n}" for n in (1, 2, 3)] + ["Table 1"]
)
def test_numbered_items_are_listed(item):
    assert item in paper.ITEMS


@pytest.mark.parametrize("row", PRINTED.strip().splitlines())
def test_table1_is_the_printed_one(row):
    arm, *numbers = row.split()
    auc, dice, dice_sd, jaccard, jaccard_sd, hd95, hd95_sd = map(float, numbers)
    assert paper.TABLE1[arm] == {
        "roc_auc": (auc, None),
        "dice": (dice, dice_sd),
        "jaccard": (jaccard, jaccard_sd),
        "hd95_mm": (hd95, hd95_sd),
    }


def test_settings_are_the_printed_ones():
    assert (paper.LAMBDA_REL, paper.RCBF_THRESHOLD, paper.N_FOLDS) == (0.3, 0.38, 5)
    assert (paper.FRAME_INTERVAL, paper.N_SCANS, paper.IN_PLANE, paper.BATCH_SIZE) == (1.0, 94, 256, 1)
    assert paper.SECONDS_PER_CASE == 1.15


def test_density_and_haematocrit_give_the_units_of_the_field():
    assert paper.DENSITY == 1.04
    assert abs(paper.HEMATOCRIT_FACTOR - 0.733) < 5e-4
