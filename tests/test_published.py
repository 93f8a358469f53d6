"""A published table becomes picks of the right scans and voxels, once, and goes out as it came in."""

import hashlib
import shutil

import layouts
import pytest

from perfkit import annotations, published
from perfkit.annotations import Pick
from perfkit.datasets import open_cohort

# case_1, case_2 and case_3 of TRAINING and case_1 of TESTING, in nibabel's order from 0
VOXELS = {
    "case_1": ((12, 15, 0), (20, 22, 1)),
    "case_2": ((14, 16, 3), (18, 9, 0)),
    "case_3": ((16, 17, 7), (15, 24, 7)),
    "testing_case_1": ((13, 19, 1), (10, 12, 0)),
}
NUMBER = {"case_1": 345561, "case_2": 345568, "case_3": 345575, "testing_case_1": 800_001}
BY_HAND = {
    ("imageid", 0): "imageID,AIFx,AIFy,AIFz,VOFx,VOFy,VOFz\n"
    "345561,12,15,0,20,22,1\n345568,14,16,3,18,9,0\n345575,16,17,7,15,24,7\n800001,13,19,1,10,12,0\n",
    ("imageid", 1): "imageID,AIFx,AIFy,AIFz,VOFx,VOFy,VOFz\n"
    "345561,13,16,1,21,23,2\n345568,15,17,4,19,10,1\n345575,17,18,8,16,25,8\n800001,14,20,2,11,13,1\n",
    ("case", 0): "case,set,aif_x,aif_y,aif_z,vof_x,vof_y,vof_z\ncase_1,train,12,15,0,20,22,1\n"
    "case_2,train,14,16,3,18,9,0\ncase_3,train,16,17,7,15,24,7\ncase_1,test,13,19,1,10,12,0\n",
    ("case", 1): "case,set,aif_x,aif_y,aif_z,vof_x,vof_y,vof_z\ncase_1,train,13,16,1,21,23,2\n"
    "case_2,train,15,17,4,19,10,1\ncase_3,train,17,18,8,16,25,8\ncase_1,test,14,20,2,11,13,1\n",
}
TABLES = pytest.mark.parametrize("layout, base", list(BY_HAND))


@pytest.fixture(scope="session")
def isles(tmp_path_factory):
    """A look-alike of ISLES 2018: slices 2, 4 and 8 in TRAINING, 2 in TESTING; 32×32 voxels."""
    root = tmp_path_factory.mktemp("published") / "isles18"
    return open_cohort(layouts.isles18(root, training=(1, 2, 3), testing=(1,)))


@pytest.fixture
def bring(tmp_path, isles):
    def call(content, rater="mh", cohort=isles, **options):
        path = tmp_path / "table.csv"
        path.write_text(content)
        options = {"aif_root": tmp_path / "aif"} | options
        return published.import_table(path, cohort, rater, **options)

    return call


def voxels_of(file):
    return {case: (pick.voxels[0], pick.vof_voxels[0]) for case, pick in annotations.latest(file).items()}


@TABLES
def test_tables_written_by_hand_become_picks(bring, layout, base, tmp_path):
    found = bring(BY_HAND[layout, base], index_base=base)
    assert found.path == tmp_path / "aif" / "isles18" / "mh.csv"
    assert voxels_of(found.path) == VOXELS
    assert set(found.added) == set(VOXELS) and not found.unknown and not found.without


@TABLES
def test_picks_become_the_tables_written_by_hand(isles, layout, base, tmp_path):
    picks = {case: Pick(case, (aif,), (vof,)) for case, (aif, vof) in VOXELS.items()}
    path = published.export_table(tmp_path / "t.csv", picks, isles, layout=layout, index_base=base)
    assert path.read_text() == BY_HAND[layout, base]


@TABLES
def test_the_other_base_is_refused_with_the_one_that_fits(bring, layout, base, tmp_path):
    with pytest.raises(
        ValueError, match=rf"of 8 fall outside .*With base {base} none does: try --base {base}\."
    ):
        bring(BY_HAND[layout, base], index_base=1 - base)
    assert not (tmp_path / "aif").exists()


def test_no_base_is_no_import(bring):
    with pytest.raises(ValueError, match="Of 8 voxels 0 with base 0 and 3 with base 1 fall outside"):
        bring(BY_HAND["imageid", 0])


def test_the_origin_stands_in_the_comment(bring):
    file = bring(BY_HAND["imageid", 1], index_base=1).path
    digest = hashlib.sha256(BY_HAND["imageid", 1].encode()).hexdigest()
    comments = {pick.comment for pick in annotations.read(file)}
    assert comments == {f"imported from table.csv, sha256 {digest[:12]}, base 1"}


def test_importing_again_adds_nothing(bring):
    file = bring(BY_HAND["imageid", 0], index_base=0).path
    before = file.read_bytes()
    again = bring(BY_HAND["case", 1], index_base=1)  # the same voxels, told otherwise
    assert file.read_bytes() == before
    assert set(again.unchanged) == set(VOXELS) and not again.added
    assert "0 added; 4 stood there already" in again.sentences()[0]


def test_another_pick_of_the_rater_is_never_overridden_unasked(bring):
    table = BY_HAND["imageid", 0]
    file = bring(table, index_base=0).path
    annotations.append(file, Pick("case_2", ((14, 15, 3),), comment="better"))
    annotations.append(file, Pick("case_3"))  # withdrawn: that is a word as well
    before = file.read_bytes()
    with pytest.raises(
        ValueError, match=r"2 cases \(case_2, case_3\).*Nothing was imported.*keep or replace"
    ):
        bring(table, index_base=0)
    kept = bring(table, index_base=0, on_conflict="keep")
    assert kept.kept == ("case_2", "case_3") and file.read_bytes() == before
    assert "2 say otherwise and were kept as they are (case_2, case_3)" in kept.sentences()[0]
    replaced = bring(table, index_base=0, on_conflict="replace")
    assert replaced.added == ("case_2", "case_3")
    assert voxels_of(file) == VOXELS
    assert file.read_bytes().startswith(before)  # what was there stays readable
    with pytest.raises(ValueError, match="refuse, keep, replace: 'ask' came"):
        bring(table, index_base=0, on_conflict="ask")


def test_replacing_works_though_a_clock_was_ahead(bring):
    file = bring(BY_HAND["imageid", 0], index_base=0).path
    annotations.append(file, Pick("case_2", ((9, 9, 0),), time="2199-01-01T00:00:00+00:00"))
    bring(BY_HAND["imageid", 0], index_base=0, on_conflict="replace")
    assert voxels_of(file) == VOXELS


def test_what_does_not_meet_is_listed(bring, isles):
    header, first, *_ = BY_HAND["imageid", 0].splitlines()
    found = bring(f"{header}\n{first}\n111,1,1,0,1,1,0\n222,1,1,0,1,1,0\n", index_base=0)
    assert found.added == ("case_1",)
    assert found.unknown == ("111", "222")
    assert found.without == ("case_2", "case_3", "testing_case_1")
    assert "2 of the table are not in this cohort: 111, 222." in found.sentences()
    assert "3 of the cohort have no row: case_2, case_3, testing_case_1." in found.sentences()
    with pytest.raises(ValueError, match=r"none of its 1 scans \(111 …\) is in"):
        bring(f"{header}\n111,1,1,0,1,1,0\n", index_base=0)


def test_several_rows_are_several_voxels_and_go_out_as_several_rows(bring, isles, tmp_path):
    table = (
        "imageID,AIFx,AIFy,AIFz,VOFx,VOFy,VOFz\n"
        "345561,12,15,0,20,22,1\n345561,12,16,0,,,\n345561,12,15,0,20,22,1\n345568,14,16,3,,,\n"
    )
    picks = annotations.latest(bring(table, index_base=0).path)
    assert picks["case_1"].voxels == ((12, 15, 0), (12, 16, 0))
    assert picks["case_1"].vof_voxels == ((20, 22, 1),)
    assert picks["case_2"].vof_voxels == ()
    out = published.export_table(tmp_path / "out.csv", picks, isles, layout="imageid", index_base=0)
    assert out.read_text() == (
        "imageID,AIFx,AIFy,AIFz,VOFx,VOFy,VOFz\n"
        "345561,12,15,0,20,22,1\n345561,12,16,0,,,\n345568,14,16,3,,,\n"
    )
    again = published.read_table(out, index_base=0).picks(isles)
    assert {c: (p.voxels, p.vof_voxels) for c, p in again.items()} == {
        c: (p.voxels, p.vof_voxels) for c, p in picks.items()
    }


@pytest.mark.parametrize(("second", "n"), [("345561,13,15,0,20,22,1", 2), ("345561,12,15,0,20,22,1", 1)])
def test_several_rows_of_a_scan_are_told(bring, second, n):
    told = "1 scan has several rows, which make one pick, a repeated voxel once"
    table = BY_HAND["imageid", 0]
    assert not any("several rows" in line for line in bring(table, index_base=0, rater="once").sentences())
    (line,) = [line for line in bring(table + second, index_base=0).sentences() if "several rows" in line]
    assert line == f"{told} (case_1: 2 rows, {n} AIF and 1 VOF voxels)."


def test_columns_in_another_order_of_axes(bring):
    table = "imageID,AIFx,AIFy,AIFz\n345561,15,12,0\n345575,17,16,7\n"
    found = bring(table, index_base=0, axes="yxz")
    assert annotations.latest(found.path)["case_1"].voxels == ((12, 15, 0),)
    assert "axes yxz" in annotations.read(found.path)[0].comment


def test_a_voxel_in_the_air_is_refused_and_passes_where_nobody_looks(bring):
    table = "imageID,AIFx,AIFy,AIFz\n345561,12,15,0\n345575,0,0,7\n"
    with pytest.raises(ValueError, match=r"1 of 2 voxels do not \(line 3, case_3: AIF 0 0 7 lies in air"):
        bring(table, index_base=0)
    assert bring(table, index_base=0, check_curves=False).added == ("case_1", "case_3")


def test_a_broken_scan_is_passed_over_and_named(bring, tmp_path, isles):
    root = tmp_path / "copy" / "isles18"
    shutil.copytree(isles.folder, root)
    series = next((root / "TRAINING" / "case_3").glob("*4DPWI*/SMIR*"))
    series.write_bytes(series.read_bytes()[:5000])  # the header is whole, the frames are not
    found = bring(BY_HAND["imageid", 0], index_base=0, cohort=open_cohort(root))
    assert set(found.added) == {"case_1", "case_2", "testing_case_1"}
    assert list(found.unread) == ["case_3"]
    assert any("case_3 was not imported" in line for line in found.sentences())
    series.write_bytes(b"no image")
    found = bring(BY_HAND["imageid", 0], index_base=0, cohort=open_cohort(root), rater="b")
    assert list(found.unread) == ["case_3"]


def test_flat_folders_take_the_layout_case_alone(tmp_path):
    for n, name in enumerate(("anna", "7")):
        layouts.save(tmp_path / "mine" / f"{name}_ctp.nii", layouts.head(seed=n), times=(1.0,))
    cohort = open_cohort(tmp_path / "mine")
    picks = {"anna": Pick("anna", ((12, 15, 0),)), "7": Pick("7", ((12, 15, 1),))}
    with pytest.raises(ValueError, match=r"2 scans here have none \(7, anna\).*layout case"):
        published.export_table(tmp_path / "t.csv", picks, cohort, layout="imageid", index_base=0)
    out = published.export_table(tmp_path / "t.csv", picks, cohort, layout="case", index_base=0)
    assert out.read_text().splitlines()[1:] == ["7,,12,15,1,,,", "anna,,12,15,0,,,"]
    again = published.import_table(out, cohort, "mh", index_base=0, aif_root=tmp_path / "aif")
    assert set(again.added) == {"anna", "7"}


def test_only_picks_of_the_cohort_go_out(isles, tmp_path):
    for picks, words in (({"x": Pick("x", ((1, 1, 1),))}, "1 are of none: x"), ({}, "there are none")):
        with pytest.raises(ValueError, match=words):
            published.export_table(tmp_path / "t.csv", picks, isles, index_base=0)
    picks = {"case_1": Pick("case_1", ((1, 1, 1),))}
    with pytest.raises(ValueError, match="imageid, case: 'csv' came"):
        published.export_table(tmp_path / "t.csv", picks, isles, layout="csv", index_base=0)
    with pytest.raises(ValueError, match="base of 2 came"):
        published.export_table(tmp_path / "t.csv", picks, isles, index_base=2)
    assert not (tmp_path / "t.csv").exists()


def test_the_simulated_rater_goes_out_and_comes_back(tiny_cohort, tmp_path):
    """On phantoms whose vessels are known, the true base passes the look at the curves."""
    cohort = open_cohort(tiny_cohort)
    picks = annotations.latest(tiny_cohort / "aif" / "simulated-rater.csv")
    for base in (0, 1):
        out = published.export_table(tmp_path / f"{base}.csv", picks, cohort, index_base=base)
        found = published.import_table(out, cohort, f"r{base}", index_base=base, aif_root=tmp_path)
        back = annotations.latest(found.path)
        assert {c: (p.voxels, p.vof_voxels) for c, p in back.items()} == {
            c: (p.voxels, p.vof_voxels) for c, p in picks.items()
        }
