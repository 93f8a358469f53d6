"""Head motion: phantoms moved by scipy, which knows nothing of SimpleITK, and phantoms that lie still."""

import builtins
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from perfkit import motion, phantom, recipe
from perfkit.motionscreen import MOVED_MM, screen_motion

# mm along x, y, z, degrees about x, y, z; frame 6 on
IN_SPACE = [(2, -1, 0, 0, 0, 1), (0, 0, 2, 0, 0, 0), (1, 1, 1, 1, -1, 2)]
IN_PLANE = [(1, 0.5, 0, 0, 0, 0), (-3, 3, 0, 0, 0, -3), (6, 0, 0, 0, 0, 5)]
FIRST = 6


def still(seed=1, *, size="small", **acquisition):
    """A phantom that does not move, with all its noise."""
    return phantom.render(replace(recipe.draw_recipe(seed, 1, size=size, **acquisition), moved=()))


def rotation(angles):
    """(3, 3): about y, then x, then z; degrees."""
    a, b, c = np.radians(angles)
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    about_z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    return np.array(about_z) @ about_x @ about_y


def moved_volume(volume, shift, angles, spacing, centre):
    """The volume after its head was turned about ``centre`` (voxels) and shifted, by cubic splines."""
    back = np.diag(1 / spacing) @ rotation(angles).T @ np.diag(spacing)
    offset = centre - back @ (centre + np.array(shift) / spacing)
    return ndimage.affine_transform(volume.astype(float), back, offset, order=3, mode="nearest")


def moved(case, motions, first=FIRST):
    """The case with frames from ``first`` on moved."""
    ctp, centre = np.array(case.ctp), np.argwhere(case.brain).mean(axis=0)
    for t, m in enumerate(motions, start=first):
        ctp[..., t] = np.rint(moved_volume(ctp[..., t], m[:3], m[3:], case.spacing, centre))
    return replace(case, ctp=ctp)


@pytest.fixture(scope="module")
def in_space():
    """A thick slab: still, moved, and the estimate."""
    case = still(n_slices=5, n_frames=10)
    shaken = moved(case, IN_SPACE)
    return case, shaken, motion.estimate_motion(shaken)


@pytest.fixture(scope="module")
def in_plane():
    """Two slices: still, moved, and the estimate."""
    case = still(n_slices=2, n_frames=10)
    shaken = moved(case, IN_PLANE)
    return case, shaken, motion.estimate_motion(shaken)


def errors(table, motions):
    """mm and degrees, (n, 3) each."""
    found = table.loc[FIRST : FIRST + len(motions) - 1]
    wanted = np.array(motions, float)
    shift = found[["x", "y", "z"]].to_numpy() - wanted[:, :3]
    return shift, found[["turn_x", "turn_y", "turn_z"]].to_numpy() - wanted[:, 3:]


def rest(table, motions):
    """Displacement of the frames that did not move."""
    return table["displacement"].drop(range(FIRST, FIRST + len(motions)))


def test_known_motion_in_space_is_found(in_space):
    shift, turn = errors(in_space[2], IN_SPACE)
    assert np.abs(shift).max() < 0.3
    assert np.abs(turn).max() < 0.3


def test_known_motion_in_the_plane_is_found_on_two_slices(in_plane):
    table = in_plane[2]
    shift, turn = errors(table, IN_PLANE)
    assert np.abs(shift).max() < 0.1
    assert np.abs(turn).max() < 0.1
    assert not table[["z", "turn_x", "turn_y"]].to_numpy().any()


def test_the_displacement_is_the_largest_in_the_brain(in_plane):
    case, _, table = in_plane
    places = np.argwhere(case.brain) * case.spacing
    places -= places.mean(axis=0)
    for t, m in enumerate(IN_PLANE, start=FIRST):
        away = places @ rotation(m[3:]).T + m[:3] - places
        assert table["displacement"][t] == pytest.approx(np.linalg.norm(away, axis=1).max(), abs=0.2)


def test_frames_that_lie_still_while_contrast_passes_do_not_move(in_space, in_plane):
    assert rest(in_space[2], IN_SPACE).max() < 0.05
    assert rest(in_plane[2], IN_PLANE).max() < 0.05
    case = in_space[0]
    mean = case.ctp[case.brain].mean(axis=0)
    assert mean.max() - mean[0] > 3  # HU; contrast does pass


def test_a_strongly_enhancing_region_does_not_move_the_head():
    case = still(n_slices=2, n_frames=10)
    ctp = np.array(case.ctp)
    x, y, _ = np.argwhere(case.brain).mean(axis=0).astype(int)
    inside = np.zeros(case.brain.shape, bool)
    inside[x:, y:] = case.brain[x:, y:]  # one quarter of the brain, up to its rim
    ctp[inside, FIRST:] += 50  # HU; tissue rises by 20 at most
    ctp[x - 3 : x + 3, y - 3 : y + 3, :, FIRST:] += 300  # a sinus, an aneurysm
    table = motion.estimate_motion(replace(case, ctp=ctp))
    assert table["displacement"].max() < motion.RESAMPLED_MM
    assert screen_motion(replace(case, ctp=ctp)).max() < motion.RESAMPLED_MM


def inner_difference(case, other, frames):
    """Mean absolute difference of smoothed frames well inside the brain, HU."""
    inner = ndimage.binary_erosion(case.brain & other.brain, np.ones((5, 5, 1)))

    def smooth(c):
        return np.stack([ndimage.gaussian_filter(c.ctp[..., t].astype(float), (1, 1, 0)) for t in frames], -1)

    return np.abs(smooth(case) - smooth(other))[inner].mean(axis=0)


@pytest.mark.parametrize(("slab", "motions"), [("in_space", IN_SPACE), ("in_plane", IN_PLANE)])
def test_correction_brings_the_frames_back(slab, motions, request):
    case, shaken, table = request.getfixturevalue(slab)
    mended = motion.correct_motion(shaken, motion=table)
    frames = range(FIRST, FIRST + len(motions))
    before, after = (inner_difference(case, c, frames) for c in (shaken, mended))
    in_plane = np.array([not any(m[2:5]) for m in motions])
    assert (after[in_plane] < 0.15 * before[in_plane]).all()
    assert (after < 0.75 * before).all()  # through thick slices nothing brings back what was averaged
    assert mended.ctp.dtype == shaken.ctp.dtype
    assert f"{len(motions)} of 10 frames were resampled" in mended.notes[-1]


def test_correction_leaves_still_frames_as_they_are(in_space):
    _, shaken, table = in_space
    mended = motion.correct_motion(shaken, motion=table)
    unmoved = [t for t in range(10) if not FIRST <= t < FIRST + len(IN_SPACE)]
    assert np.array_equal(mended.ctp[..., unmoved], shaken.ctp[..., unmoved])
    assert not np.shares_memory(mended.ctp, shaken.ctp)


def test_a_still_scan_stays_and_its_note_says_so(in_plane):
    case, _, table = in_plane
    quiet = table.assign(displacement=0.02)
    mended = motion.correct_motion(case, motion=quiet)
    assert np.array_equal(mended.ctp, case.ctp)
    assert "looked for and not found" in mended.notes[-1]


def test_values_stay_in_the_range_of_their_frame(in_plane):
    _, shaken, table = in_plane
    mended = motion.correct_motion(shaken, motion=table)
    for t in range(10):
        assert mended.ctp[..., t].min() >= shaken.ctp[..., t].min()
        assert mended.ctp[..., t].max() <= shaken.ctp[..., t].max()


def test_what_a_frame_does_not_show_is_no_brain(in_space):
    case, shaken, table = in_space
    far = table.copy()
    far.loc[FIRST, ["z", "displacement"]] = 12.0  # mm, more than two slices of 5 mm
    mended = motion.correct_motion(shaken, motion=far)
    assert case.brain[..., -2:].any()
    assert not mended.brain[..., -2:].any()
    assert "out of the brain" in mended.notes[-1]


def test_a_table_of_another_scan_is_refused(in_plane):
    _, shaken, table = in_plane
    with pytest.raises(ValueError, match="10 rows: 9 rows came"):
        motion.correct_motion(shaken, motion=table[:-1])
    with pytest.raises(ValueError, match="without turn_x"):
        motion.correct_motion(shaken, motion=table.drop(columns="turn_x"))


def test_a_tilted_gantry_is_refused(in_plane):
    case = in_plane[0]
    affine = case.affine.copy()
    affine[1, 2] = 0.2 * case.spacing[2]
    with pytest.raises(ValueError, match=r"right angles.*gantry"):
        motion.estimate_motion(replace(case, affine=affine))


def test_without_simpleitk_the_error_says_what_to_install(in_plane, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "SimpleITK":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'perfkit\[motion\]'"):
        motion.estimate_motion(in_plane[0])


# --- the quick look -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["tiny", "small"])
@pytest.mark.parametrize("seed", range(3))
def test_the_quick_look_sees_no_motion_in_still_phantoms(size, seed):
    assert screen_motion(still(seed, size=size, n_frames=20)).max() < MOVED_MM / 2


@pytest.mark.parametrize("size", ["tiny", "small"])
@pytest.mark.parametrize("seed", range(3))
def test_the_quick_look_sees_a_millimetre_and_a_degree(size, seed):
    case = still(seed, size=size, n_slices=4, n_frames=14)
    motions = [(1, 0, 0, 0, 0, 0), (0, -1, 0, 0, 0, 0), (0, 0, 1, 0, 0, 0), (0, 0, 0, 0, 0, 1)]
    found = screen_motion(moved(case, motions))
    assert (found[FIRST : FIRST + len(motions)] > MOVED_MM).all()
    assert found[:FIRST].max() < MOVED_MM / 2


def test_the_quick_look_sees_motion_without_a_skull():
    case = still(n_slices=2, n_frames=10)
    stripped = replace(case, ctp=np.where(case.brain[..., None], case.ctp, 0))
    assert screen_motion(stripped).max() < MOVED_MM / 2
    assert screen_motion(moved(stripped, [(2, 0, 0, 0, 0, 0)]))[FIRST] > MOVED_MM


@pytest.mark.slow
def test_sensitivity_and_false_alarms_of_the_quick_look():
    quiet, found = [], []
    for size, seeds in (("tiny", 40), ("small", 20)):
        for seed in range(seeds):
            drawn = recipe.draw_recipe(seed, 1, size=size)
            quiet.append(screen_motion(phantom.render(replace(drawn, moved=()))).max())
            one = np.random.default_rng(seed).uniform(-1, 1, 3)
            one *= 1.0 / np.hypot(*one[:2])  # 1 mm, and a turn
            found.append(screen_motion(phantom.render(replace(drawn, moved=((8, *one),))))[8])
    assert np.mean(np.array(quiet) > MOVED_MM) <= 0.02
    assert np.mean(np.array(found) > MOVED_MM) >= 0.95
