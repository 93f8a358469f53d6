"""Pictures show the slice as drawing says, and what is drawn over them lies where the voxels are."""

import re

import numpy as np
import pytest
from PIL import Image

from perfkit import drawing, pictures

LPS = np.diag([-0.9, -0.9, 5.0, 1.0])  # stored as shown: x to the patient's left, y to the back
RAS = np.diag([1.5, 2.0, 5.0, 1.0])


def brain(at=(slice(6, 26), slice(8, 30)), shape=(32, 40)):
    mask = np.zeros(shape, bool)
    mask[at] = True
    return mask


@pytest.mark.parametrize("affine", [None, LPS, RAS])
def test_a_mark_lies_on_its_voxel_of_the_picture(affine):
    view = pictures.View(brain(), affine)
    image = np.zeros((32, 40))
    image[10, 12] = 100
    rows = view.rows(image)
    (row, column) = np.argwhere(rows == 100)[0]
    ((x, y),) = view.points([[10, 12]])
    dx, dy = np.linalg.norm(np.eye(4)[:3, :2] if affine is None else affine[:3, :2], axis=0)
    assert (x, y) == pytest.approx(((column + 0.5) * dx, (row + 0.5) * dy), abs=0.06)
    assert view.size_mm == pytest.approx([rows.shape[1] * dx, rows.shape[0] * dy], abs=0.01)


def test_a_patient_s_left_is_on_the_right_of_the_picture():
    image = np.zeros((32, 40))
    image[8, 12] = 1  # of a RAS grid: towards the patient's left and back
    rows = pictures.View(brain(), RAS).rows(image)
    row, column = np.argwhere(rows == 1)[0]
    assert column > rows.shape[1] / 2 and row > rows.shape[0] / 2


def test_an_outline_encloses_the_voxels_of_its_mask():
    view = pictures.View(brain(), LPS)
    mask = np.zeros((32, 40), bool)
    mask[10:14, 12:15] = True
    path = view.path(mask)
    points = np.array(re.findall(r"[ML]([\d.]+) ([\d.]+)", path), float)
    marks = np.array(view.points(np.argwhere(mask)))
    assert points.min(axis=0) == pytest.approx(marks.min(axis=0) - 0.45, abs=0.11)
    assert points.max(axis=0) == pytest.approx(marks.max(axis=0) + 0.45, abs=0.11)
    assert path.count("M") == 1
    assert view.path(mask & False) == "" and view.points(np.zeros((0, 2))) == []


def test_two_islands_are_two_strokes():
    view = pictures.View(brain(), LPS)
    mask = np.zeros((32, 40), bool)
    mask[10, 12] = mask[20, 25] = True
    assert view.path(mask).count("M") == 2


def test_colours_are_those_of_the_figures():
    from plotly.colors import sample_colorscale

    low, high = drawing.MAPS["rcbf"][2]
    found = pictures.coloured(np.array([[low, (low + high) / 2, high, np.nan, high + 9]]), "rcbf")
    ends = sample_colorscale("cividis", [0, 127 / 255, 1], colortype="tuple")
    expected = 255 * np.array([ends[0], ends[1], ends[2], ends[0], ends[2]])
    assert np.abs(found[0] - expected).max() <= 1
    assert not pictures.coloured(np.ones((2, 2)), "rcbf", np.zeros((2, 2), bool)).any()


def test_a_sprite_holds_every_frame_in_order():
    view = pictures.View(np.ones((16, 12), bool), None)
    slices = np.zeros((16, 12, 7)) + np.arange(7) * 10
    pixels, layout = pictures.sprite(view, slices, (0, 60))
    assert layout == {"frames": 7, "columns": 3}
    height, width = pixels.shape[0] // 3, pixels.shape[1] // 3
    for t in range(7):
        frame = pixels[t // 3 * height : (t // 3 + 1) * height, t % 3 * width : (t % 3 + 1) * width]
        assert (frame == int(t * 10 / 60 * 255)).all()


def test_a_picture_is_on_disk_whole_and_close_to_what_was_drawn(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 64), (48, 1)).astype(np.uint8)
    name = pictures.save_picture(tmp_path / "ramp.webp", ramp)
    assert [path.name for path in tmp_path.iterdir()] == [name] == ["ramp.webp"]
    with Image.open(tmp_path / name) as image:
        back = np.asarray(image.convert("L"), float)
    assert np.abs(back - ramp).mean() < 4
