"""A wrong base is found where headers can tell, and where only the curves can."""

import numpy as np
import pytest

from perfkit.case import Case
from perfkit.placement import AIR, ENHANCES, Witness, look
from perfkit.readings import Place, Reading, check_headers, outside, read_table

SHAPES = {"a": (20, 16, 2, 40), "b": (20, 16, 4, 40)}


def place(line, scan, *triple, role="AIF"):
    return Place(line, scan, role, triple)


@pytest.mark.parametrize(
    "reading, printed, voxel",
    [
        (Reading(0), (3, 4, 1), (3, 4, 1)),
        (Reading(1), (3, 4, 1), (2, 3, 0)),
        (Reading(0, "yxz"), (3, 4, 1), (4, 3, 1)),
        (Reading(1, "zyx"), (3, 4, 1), (0, 3, 2)),
    ],
)
def test_a_reading_turns_print_into_indices_and_back(reading, printed, voxel):
    assert reading.index(printed) == voxel
    assert reading.printed(voxel) == printed


def test_headers_find_the_base_that_fits():
    found = [place(2, "a", 5, 5, 2), place(3, "b", 20, 16, 4), place(4, "b", 1, 1, 1)]
    assert [p.line for p in outside(found, SHAPES, Reading(0))] == [2, 3]
    assert outside(found, SHAPES, Reading(1)) == []
    check_headers("t.csv", found, SHAPES, Reading(1))
    with pytest.raises(
        ValueError, match=r"2 of 3 fall outside .*With base 1 none does: try --base 1\."
    ) as told:
        check_headers("t.csv", found, SHAPES, Reading(0))
    assert "line 2, a: AIF 5 5 2 in 20×16×2" in str(told.value)
    zeros = [place(2, "a", 0, 5, 1), place(3, "a", 5, 5, 1)]
    with pytest.raises(ValueError, match=r"1 of 2 fall outside \(line 2.*try --base 0"):
        check_headers("t.csv", zeros, SHAPES, Reading(1))


def test_headers_find_swapped_axes_and_admit_where_nothing_fits():
    with pytest.raises(ValueError, match="axes yxz none does: try --axes yxz"):
        check_headers("t.csv", [place(2, "a", 10, 18, 0)], SHAPES, Reading(0))
    with pytest.raises(ValueError, match="No other base or order of axes fits better"):
        check_headers("t.csv", [place(2, "a", 90, 90, 9)], SHAPES, Reading(0))


@pytest.mark.parametrize("base", [2, -1, True, "0", 0.5])
def test_a_base_is_0_or_1(tmp_path, base):
    with pytest.raises(ValueError, match="count from 0 or from 1"):
        read_table(tmp_path / "never-opened.csv", index_base=base)


def test_axes_are_an_order_of_xyz(tmp_path):
    with pytest.raises(ValueError, match="Try xyz or yxz"):
        read_table(tmp_path / "never-opened.csv", index_base=0, axes="xy")


def head(seed, artery=(6, 9, 1), height=40.0, tissue=4.0):
    """A head of 24×24×3 voxels, 5 mm: brain of 35 HU, air around, tissue enhances, one artery more."""
    rng = np.random.default_rng(seed)
    brain = np.zeros((24, 24, 3), bool)
    brain[3:21, 3:21] = True
    bolus = np.exp(-0.5 * ((np.arange(45) - 22) / 4) ** 2)
    ctp = np.where(brain, 35.0, -1000.0)[..., None] + brain[..., None] * tissue * bolus
    ctp[artery] += height * bolus
    ctp = np.rint(ctp + rng.normal(0, 3, ctp.shape)).astype(np.int16)
    return Case(id=f"case_{seed}", ctp=ctp, dt=1.0, affine=np.diag([5.0, 5, 5, 1]), brain=brain)


def test_a_spot_is_described():
    artery, tissue, air = look(head(0), [(6, 9, 1), (15, 15, 1), (0, 0, 1)])
    assert artery.peak == pytest.approx(44 * 4 / np.hypot(4, 1.5), abs=3)  # a Gaussian smoothed by a Gaussian
    assert artery.baseline == pytest.approx(35, abs=3) and artery.to_brain_mm == 0 and not artery.astray
    assert artery.contrast_to_noise > 3 * ENHANCES > tissue.contrast_to_noise
    assert air.baseline < AIR and air.astray == f"in air of {air.baseline:.0f} HU"
    assert air.to_brain_mm == pytest.approx(np.hypot(15, 15))


def judged(declared, printed, n=10, **options):
    witness = Witness("t.csv", declared)
    for seed in range(n):
        witness.see(head(seed, **options), [place(seed + 2, f"case_{seed}", *printed)])
    return witness.judge()


@pytest.mark.parametrize("true, wrong", [(0, 1), (1, 0)])
def test_curves_find_a_wrong_base_the_headers_cannot(true, wrong):
    printed = tuple(i + true for i in (6, 9, 1))
    assert judged(Reading(true), printed) == ()
    with pytest.raises(
        ValueError, match=rf"contrast must arrive.*base {true} .*in 10 of 10 .*try --base {true}\."
    ):
        judged(Reading(wrong), printed)


def test_curves_find_swapped_axes():
    assert judged(Reading(0, "yxz"), (9, 6, 1)) == ()
    with pytest.raises(ValueError, match="try --axes yxz"):
        judged(Reading(0), (9, 6, 1))


def test_a_few_scans_raise_doubts_but_prove_nothing():
    (doubt,) = judged(Reading(1), (6, 9, 1), n=3, tissue=20.0)
    assert doubt.startswith("In all 3 scans") and "with base 0" in doubt and "prove nothing" in doubt
    with pytest.raises(ValueError, match=r"it does so at 0 of 3; .*In all 3 scans .* with base 0"):
        judged(Reading(1), (6, 9, 1), n=3, tissue=2.0)


def test_a_voxel_in_air_is_refused_with_its_line():
    witness = Witness("t.csv", Reading(0))
    for seed in range(3):
        triple = (6, 9, 1) if seed else (0, 0, 0)
        witness.see(head(seed), [place(seed + 2, f"case_{seed}", *triple)])
    with pytest.raises(ValueError, match=r"1 of 3 voxels do not \(line 2, case_0: AIF 0 0 0 lies in air"):
        witness.judge()


def test_flat_curves_are_told_and_many_of_them_refused():
    def flat(seed):
        case = head(seed)
        ctp = case.ctp.copy()
        ctp[6, 9, 1] = 35  # no contrast at all
        return Case(id=case.id, ctp=ctp, dt=1.0, affine=case.affine, brain=case.brain)

    witness = Witness("t.csv", Reading(0, "zyx"))
    for seed in range(4):
        case = flat(seed) if seed == 0 else head(seed)
        witness.see(case, [place(seed + 2, case.id, 1, 9, 6)])
    assert "No contrast is seen at 1 of 4 voxels: line 2, case_0: AIF 1 9 6." in witness.judge()
    witness = Witness("t.csv", Reading(0, "zyx"))
    for seed in range(3):
        witness.see(flat(seed), [place(seed + 2, f"case_{seed}", 1, 9, 6)])
    with pytest.raises(ValueError, match="it does so at 0 of 3"):
        witness.judge()
