"""A Case is sound once it exists: every rule is broken in turn; errors name the file and what would do."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfkit.case import Case

SHAPE = (6, 7, 2, 12)
SOURCE = Path("somewhere") / "scan_7.nii.gz"


def series(shape=SHAPE, dtype=np.float32):
    return np.random.default_rng(0).normal(40, 10, shape).astype(dtype)


def make(**changes):
    given_ = dict(
        id="a", ctp=series(), dt=1.0, affine=np.diag([0.9, 0.8, 5.0, 1.0]), brain=np.ones(SHAPE[:3])
    )
    return Case(**{**given_, "source": SOURCE, **changes})


def spoilt(value, *places):
    ctp = series()
    for place in places:
        ctp[place] = value
    return ctp


def test_a_sound_case_knows_its_geometry():
    case = make(dt=0.5)
    assert case.patient == "a" and case.core is None and case.truth == {} and case.vendor == {}
    np.testing.assert_allclose(case.spacing, (0.9, 0.8, 5.0))
    np.testing.assert_allclose(case.times, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5])
    assert case.n_frames == 12
    assert case.voxel_ml == pytest.approx(0.0036)
    assert case.brain.dtype == bool


def test_spacing_does_not_depend_on_rotation():
    angle = 0.4
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, -1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([0.9, 0.8, 5.0])
    case = make(affine=affine)
    np.testing.assert_allclose(case.spacing, (0.9, 0.8, 5.0))
    assert case.voxel_ml == pytest.approx(0.0036)


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ("int16", "int16"),
        (">i2", "int16"),
        ("uint8", "int16"),
        ("int32", "int16"),
        ("uint16", "int16"),
        ("float64", "float32"),
        (">f4", "float32"),
        ("float16", "float32"),
    ],
)
def test_values_survive_the_storage_type(given_, kept):
    ctp = np.clip(series(), 0, 200).astype(given_)
    case = make(ctp=ctp)
    assert case.ctp.dtype == np.dtype(kept)
    np.testing.assert_allclose(case.ctp, ctp.astype(float), rtol=1e-6)


def test_integers_beyond_int16_become_float32():
    ctp = series(dtype=np.int32)
    ctp[0, 0, 0, 0] = 40_000
    case = make(ctp=ctp)
    assert case.ctp.dtype == np.float32 and case.ctp[0, 0, 0, 0] == 40_000


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_series_of_the_right_type_is_not_copied(dtype):
    ctp = series(dtype=dtype)
    assert make(ctp=ctp).ctp is ctp


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float64])
def test_masks_of_zeros_and_ones_become_bool(dtype):
    mask = np.zeros(SHAPE[:3], dtype)
    mask[1:3] = 1
    case = make(brain=mask, core=mask)
    assert case.brain.dtype == case.core.dtype == bool
    assert case.core.sum() == 2 * 7 * 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(ctp=series()[..., 0]), "must be 4-D"),
        (dict(ctp=series((6, 7, 2, 1, 12))), "must be 4-D"),
        (dict(ctp=series()[..., :9]), "at least 10 frames.*so 9"),
        (dict(ctp=np.zeros((6, 7, 0, 12))), "must not be empty"),
        (
            dict(ctp=np.moveaxis(series((32, 32, 4, 15)), -1, 0)),
            r"Time must be the last axis.*moveaxis\(ctp, 0, -1",
        ),
        (
            dict(ctp=np.moveaxis(series((64, 64, 16, 15)), -1, 0)),
            r"Time must be the last axis.*moveaxis\(ctp, 0, -1",
        ),
        (dict(ctp=series((32, 32, 4, 15)).T), r"Time must be the last axis.*Try ctp\.T"),
        (
            dict(ctp=spoilt(np.nan, (1, 2, 0, 3), (5, 6, 1, 11))),
            r"2 of 1008 .*\(nan\) at voxel \(1, 2, 0\), frame 3",
        ),
        (dict(ctp=spoilt(-np.inf, (0, 0, 1, 4))), r"1 of 1008 .*\(-inf\) at voxel \(0, 0, 1\), frame 4"),
        (dict(ctp=np.where(series() > 40, np.inf, -np.inf)), "1008 of 1008"),
        (dict(ctp=series(dtype=float) * 1e300), "1008 of 1008 .*(inf)"),
        (dict(ctp=np.zeros(SHAPE, np.int16)), "must change over time"),
        (dict(ctp=np.repeat(series()[..., :1], 12, axis=-1)), "must change over time"),
        (dict(dt=0), "dt must be a positive"),
        (dict(dt=-1.0), "dt must be a positive"),
        (dict(dt=np.nan), "dt must be a positive"),
        (dict(dt=np.inf), "dt must be a positive"),
        (dict(dt=1500), r"seconds.*milliseconds, try dt=1\.5"),
        (dict(affine=np.diag([0, 0.9, 5, 1.0])), r"between 0\.05 and 50 mm.*\(0\.0, 0\.9, 5\.0\)"),
        (dict(affine=np.diag([0.0009, 0.0009, 0.005, 1.0])), "between 0.05 and 50 mm"),
        (dict(affine=np.diag([0.9, 0.9, 5000, 1.0])), "between 0.05 and 50 mm"),
        (dict(affine=np.eye(3)), r"affine must be \(4, 4\)"),
        (dict(affine=np.full((4, 4), np.nan)), "affine must be finite"),
        (dict(affine=np.diag([1, 1, 1, 2.0])), "last row 0 0 0 1"),
        (dict(affine=np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])), "span space"),
        (dict(brain=np.ones((6, 7, 3))), r"brain must have the shape.*\(6, 7, 2\).*\(6, 7, 3\)"),
        (dict(brain=np.zeros(SHAPE[:3])), "brain must hold at least one voxel"),
        (dict(brain=np.full(SHAPE[:3], np.nan)), "brain must hold only 0 and 1"),
        (dict(core=np.ones((7, 6, 2))), "core must have the shape"),
        (
            dict(core=np.arange(84).reshape(SHAPE[:3])),
            "core must hold only 0 and 1; it holds 0, 1, 2, 3, 4, 5 …",
        ),
        (dict(core=np.full(SHAPE[:3], 0.5)), r"it holds 0\.5"),
        (dict(id=""), "usable as a file name"),
        (dict(id="a/b"), "usable as a file name"),
        (dict(id=7), "usable as a file name"),
    ],
)
def test_each_broken_rule_is_one_error_that_names_the_file(changes, words):
    with pytest.raises(ValueError, match=words) as caught:
        make(**changes)
    message = str(caught.value)
    assert message.startswith(str(SOURCE))
    assert "\n" not in message


@pytest.mark.parametrize(
    "changes",
    [
        dict(ctp=series().astype(complex)),
        dict(ctp=series() > 3),
        dict(dt="fast"),
        dict(dt=None),
        dict(affine="scanner"),
    ],
)
def test_wrong_types_are_type_errors_that_name_the_file(changes):
    with pytest.raises(TypeError, match="scan_7"):
        make(**changes)


def test_without_a_file_the_case_is_named():
    with pytest.raises(ValueError, match=r"^Case 'a': "):
        make(source=None, dt=0)


def test_arguments_have_names():
    with pytest.raises(TypeError, match="positional"):
        Case("a", series(), 1.0, np.eye(4), np.ones(SHAPE[:3]))


def test_a_case_cannot_be_changed_behind_the_checks():
    with pytest.raises(AttributeError, match="cannot assign"):
        make().dt = 0


@settings(max_examples=60, deadline=None)
@given(x=st.integers(1, 600), z=st.integers(1, 40), t=st.integers(10, 120))
def test_no_scan_of_square_slices_is_taken_for_one_with_time_first(x, z, t):
    from perfkit.checks import check_series_shape

    check_series_shape((x, x, z, t), "scan")


@settings(max_examples=60, deadline=None)
@given(x=st.sampled_from([128, 256, 512]), z=st.integers(1, 32), t=st.integers(10, 64))
def test_every_usual_scan_with_time_first_is_noticed(x, z, t):
    from perfkit.checks import check_series_shape

    with pytest.raises(ValueError, match="Time must be the last axis"):
        check_series_shape((t, x, x, z), "scan")
    with pytest.raises(ValueError, match="Time must be the last axis"):
        check_series_shape((t, z, x, x), "scan")


def test_html_escapes_what_came_from_disk():
    shown = make(notes=("<script>",))._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    assert "0.90 × 0.80 × 5.00 mm" in shown
