"""NIfTI files: what is read is what nibabel wrote, and damage never passes for data."""

import gzip
import tracemalloc

import layouts
import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfkit import nifti

SHAPE = (5, 4, 3, 12)


def numbers(dtype=np.int16):
    return np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i2", "uint16", "int32", "float32", "float64"])
def test_values_types_and_affine_are_those_of_nibabel(tmp_path, suffix, dtype):
    path = layouts.save(tmp_path / f"a{suffix}", numbers(dtype))
    data, header = nifti.read(path)
    np.testing.assert_array_equal(data, numbers())
    assert data.dtype == np.dtype(dtype).newbyteorder("=") and data.flags.writeable
    np.testing.assert_allclose(header.affine, nibabel.load(path).affine)
    assert nifti.read_header(path).shape == SHAPE


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_versions_and_byte_orders(tmp_path, kind, order):
    empty = kind(numbers(), np.eye(4)).header.as_byteswapped(order) if order == ">" else None
    image = kind(numbers(), layouts.affine(), header=empty)
    nibabel.save(image, tmp_path / "a.nii")
    data, header = nifti.read(tmp_path / "a.nii")
    np.testing.assert_array_equal(data, numbers())
    np.testing.assert_allclose(header.affine, layouts.affine())


def test_scaled_values_are_those_of_nibabel(tmp_path):
    def scale(header):
        header["scl_slope"], header["scl_inter"] = 0.5, -1024

    path = layouts.save(tmp_path / "a.nii", numbers(), patch=scale)
    data, _ = nifti.read(path)
    assert data.dtype == np.float32
    np.testing.assert_array_equal(data, np.asarray(nibabel.load(path).dataobj))


@pytest.mark.parametrize("slope", [0.0, np.nan, 1.0])
def test_a_trivial_scaling_keeps_integers(tmp_path, slope):
    def scale(header):
        header["scl_slope"], header["scl_inter"] = slope, 0

    data, _ = nifti.read(layouts.save(tmp_path / "a.nii", numbers(), patch=scale))
    assert data.dtype == np.int16


@pytest.mark.parametrize(
    ("shape", "times", "unit", "dt", "words"),
    [
        ((2, 2, 2, 12), (1.5,), "sec", 1.5, ""),
        ((2, 2, 2, 12), (0.8,), None, 0.8, ""),
        ((2, 2, 2, 12), (1500.0,), "msec", 1.5, ""),
        ((2, 2, 2, 12), (5e5,), "usec", 0.5, ""),
        ((2, 2, 2, 12), (1500.0,), "sec", 1.5, "milliseconds are assumed"),
        ((2, 2, 2, 12), (1500.0,), None, 1.5, "milliseconds are assumed"),
        ((2, 2, 2, 12), (2.0,), "msec", 2.0, "2 s is assumed"),
        ((2, 2, 2, 12), (0.0,), "sec", 1.0, "1 s is assumed"),
        ((2, 2, 2, 12), (0.0, 1.0, 1.0), "sec", 1.0, "1 s is assumed"),
        ((2, 2, 2, 12), (np.nan,), "sec", 1.0, "1 s is assumed"),
        ((2, 2, 2, 12), (-2.0,), "sec", 1.0, "1 s is assumed"),
        ((2, 2, 2, 1, 12), (0.0, 2.0), None, 2.0, ""),
        ((2, 2, 2, 1, 12), (1.0, 2.0), None, 2.0, ""),
        ((2, 2, 2, 1, 12), (2.0, 0.0), None, 2.0, ""),
        ((2, 2, 2, 1, 12), (2.0, 1.0), None, 2.0, ""),
        ((2, 2, 2, 1, 12), (1.0, 1.0), None, 1.0, ""),
        ((2, 2, 2, 1, 12), (0.0, 0.0), None, 1.0, "1 s is assumed"),
    ],
)
def test_the_frame_interval_and_what_is_said_about_it(tmp_path, shape, times, unit, dt, words):
    header = nifti.read_header(layouts.save(tmp_path / "a.nii", np.zeros(shape), times=times, unit=unit))
    assert header.series_shape == (2, 2, 2, 12)
    found, notes = header.frame_interval()
    assert found == dt
    assert len(notes) == bool(words) and words in "".join(notes)


def whole(tmp_path, name):
    path = layouts.save(tmp_path / name, np.random.default_rng(0).integers(0, 99, (16, 16, 4, 12), np.int16))
    return path, path.read_bytes()


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


DAMAGES = {
    "truncated gz": ("a.nii.gz", lambda c: c[: len(c) // 2], "truncated or damaged"),
    "gz without its checksum": ("a.nii.gz", lambda c: c[:-6], "truncated or damaged"),
    "gz cut in the header": ("a.nii.gz", lambda c: c[:60], "truncated or damaged"),
    "gz with a flipped byte": ("a.nii.gz", flipped, "truncated or damaged"),
    "gz that is not gzip": ("a.nii.gz", gzip.decompress, "must be gzip-compressed"),
    "gz that is text": ("a.nii.gz", lambda c: b"hello" * 100, "must be gzip-compressed"),
    "gz of text": ("a.nii.gz", lambda c: gzip.compress(b"hello" * 200), "must start with its header"),
    "gz of a part": (
        "a.nii.gz",
        lambda c: gzip.compress(gzip.decompress(c)[:5000]),
        r"promises \d+ bytes.*5000",
    ),
    "empty gz": ("a.nii.gz", lambda c: b"", "it is empty"),
    "truncated nii": ("a.nii", lambda c: c[: len(c) // 2], r"promises 24928 bytes.*holds 12464"),
    "nii cut in the header": ("a.nii", lambda c: c[:100], "must start with its header"),
    "nii that is gzip": ("a.nii", gzip.compress, "Rename it to .nii.gz"),
    "empty nii": ("a.nii", lambda c: b"", "it is empty"),
    "header alone": ("a.nii", lambda c: c[:352], "promises"),
    "pair of files": ("a.nii", lambda c: c[:344] + b"ni1\0" + c[348:], "single-file NIfTI"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_one_error_that_names_the_file(tmp_path, damage):
    name, spoil, words = DAMAGES[damage]
    path, content = whole(tmp_path, name)
    path.write_bytes(spoil(content))
    with pytest.raises(ValueError, match=words) as caught:
        nifti.read(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (dict(datatype=999), "header is damaged"),
        (dict(datatype=32, bitpix=64), "not real numbers"),
        (dict(datatype=128, bitpix=24), "not real numbers"),
        (dict(dim=[9, 2, 2, 2, 2, 2, 2, 2]), "header is damaged"),
        (dict(dim=[4, 16, 0, 4, 12, 1, 1, 1]), "header is damaged"),
        (dict(dim=[4, -16, 16, 4, 12, 1, 1, 1]), "header is damaged"),
        (dict(dim=[4, 30000, 30000, 30000, 30000, 1, 1, 1]), "promises"),
        (dict(scl_slope=1, scl_inter=np.nan), "header is damaged"),
    ],
)
def test_a_spoilt_header_is_one_error_that_names_the_file(tmp_path, patch, words):
    path, _ = whole(tmp_path, "a.nii")
    layouts.spoil(path, lambda header: [header.__setitem__(key, value) for key, value in patch.items()])
    for reader in (nifti.read_header, nifti.read):
        with pytest.raises(ValueError, match=words) as caught:
            reader(path)
        assert str(path) in str(caught.value)


def test_what_is_no_file_says_so(tmp_path):
    (tmp_path / "d.nii").mkdir()
    (tmp_path / "a.mha").write_bytes(b"x")
    with pytest.raises(IsADirectoryError, match=r"d\.nii: a NIfTI file is needed"):
        nifti.read(tmp_path / "d.nii")
    with pytest.raises(FileNotFoundError, match=r"b\.nii: the file does not exist"):
        nifti.read(tmp_path / "b.nii")
    with pytest.raises(ValueError, match=r"a\.mha: .*must end in \.nii"):
        nifti.read(tmp_path / "a.mha")


@settings(max_examples=40, deadline=None)
@given(cut=st.floats(0, 0.999), name=st.sampled_from(["a.nii", "a.nii.gz"]))
def test_no_cut_passes_for_data(tmp_path_factory, cut, name):
    path, content = whole(tmp_path_factory.getbasetemp(), f"cut-{name}")
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(ValueError, match="cut-a"):
        nifti.read(path)


@settings(max_examples=40, deadline=None)
@given(at=st.integers(10, 10_000), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_gz_passes_for_data(tmp_path_factory, at, bit):
    path, content = whole(tmp_path_factory.getbasetemp(), "flip.nii.gz")
    data, _ = nifti.read(path)
    at %= len(content)
    path.write_bytes(content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :])
    try:
        read, _ = nifti.read(path)
    except ValueError:
        return
    np.testing.assert_array_equal(read, data)  # name and time in the gzip header do not matter


@pytest.mark.parametrize("padding", [b"", b"\0", b"\0" * 600])
@pytest.mark.parametrize("block", [7, 600, 1 << 18])
def test_members_of_a_gz_are_joined_however_they_meet_the_blocks(tmp_path, monkeypatch, block, padding):
    path, content = whole(tmp_path, "a.nii")
    expected = nifti.read(path)[0]
    parts = [content[:1], content[1:700], b"", content[700:]]
    joined = tmp_path / "b.nii.gz"
    joined.write_bytes(b"".join(gzip.compress(part) + padding for part in parts))
    monkeypatch.setattr(nifti, "_BLOCK", block)
    np.testing.assert_array_equal(nifti.read(joined)[0], expected)
    np.testing.assert_array_equal(nifti.read(path)[0], expected)


@pytest.mark.parametrize("tail", [b"hello", gzip.compress(b"more", mtime=0)[:-3]], ids=["text", "cut"])
def test_what_follows_the_members_of_a_gz_must_be_one(tmp_path, tail):
    path, content = whole(tmp_path, "a.nii.gz")
    path.write_bytes(content + tail)
    with pytest.raises(ValueError, match="truncated or damaged"):
        nifti.read(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_header_that_promises_what_cannot_be_takes_no_memory(tmp_path, name):
    plain, _ = whole(tmp_path, "plain.nii")
    layouts.spoil(plain, lambda header: header.__setitem__("dim", [4, 30000, 30000, 300, 60, 1, 1, 1]))
    path, content = tmp_path / name, plain.read_bytes()
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"promises .* holds {len(content)}: it is truncated"):
            nifti.read(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("offset", [352, 353, 360])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4", "u1", "<f8"])
def test_values_can_be_written_to_wherever_they_begin(tmp_path, dtype, offset):
    values = (np.arange(60) % 50).reshape(3, 4, 5).astype(dtype)
    header = nibabel.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_shape(values.shape)
    header.set_data_dtype(values.dtype)
    header["magic"], header["vox_offset"] = b"n+1", offset
    path = tmp_path / "a.nii"
    path.write_bytes(header.binaryblock.ljust(offset, b"\0") + values.tobytes("F"))
    data, _ = nifti.read(path)
    np.testing.assert_array_equal(data, values)
    assert data.flags.writeable and data.flags.aligned and data.dtype.isnative


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("dtype", "stored"), [("bool", "u1"), ("i2", "i2"), ("i8", "i4"), ("f4", "f4"), ("f8", "f4")]
)
def test_what_is_written_is_what_nibabel_reads(tmp_path, suffix, dtype, stored):
    data = numbers().astype(dtype)
    path = nifti.write(tmp_path / "new" / f"a{suffix}", data, layouts.affine(), dt=0.5)
    image = nibabel.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), data)
    assert image.get_data_dtype() == np.dtype(stored)
    assert image.header.get_zooms() == (5, 5, 8, 0.5)
    assert image.header.get_xyzt_units() == ("mm", "sec")
    np.testing.assert_allclose(image.affine, layouts.affine())
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_same_image_gives_the_same_bytes(tmp_path):
    paths = [nifti.write(tmp_path / folder / "a.nii.gz", numbers(), np.eye(4)) for folder in "xy"]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = nifti.write(tmp_path / "a.nii.gz", numbers(), np.eye(4))
    before = path.read_bytes()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(nifti.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        nifti.write(path, numbers() + 1, np.eye(4))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_needs_the_right_ending(tmp_path):
    with pytest.raises(ValueError, match=r"a\.mha: a NIfTI file must end in"):
        nifti.write(tmp_path / "a.mha", numbers(), np.eye(4))
