"""NIfTI files, read so that damage never passes for data and written so that nothing half-done remains.

nibabel parses the header. The bytes are read here: nibabel stops before the checksum of a ``.nii.gz``, so
flipped bits would pass for HU, and it mends a voxel size of zero to 1 mm without an error.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

SUFFIXES = (".nii.gz", ".nii")
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP = 31  # wbits of zlib: a gzip member, its checksum and length included
_BLOCK = 1 << 18  # bytes; our choice: unpacked, they stay in the processor's cache
_DEFLATE_MOST = 1032  # no byte of a deflate stream gives more
_LONGEST_HEADER = 540  # bytes, of NIfTI-2
_SECONDS = {0: None, 8: 1.0, 16: 1e-3, 24: 1e-6}  # xyzt_units & 0x38: unknown, s, ms, µs
_NARROWER = {np.dtype(wide): narrow for wide, narrow in (("?", "u1"), ("i8", "i4"), ("f8", "f4"))}
_SHORTEST, _LONGEST = 0.05, 60.0  # s; our choice: frame intervals beyond these are wrong units


@dataclass(frozen=True)
class Header:
    """What the header of a NIfTI file says.

    Parameters
    ----------
    path : the file.
    shape : as stored.
    dtype : as stored, byte order included.
    offset : bytes before the values.
    slope, inter : value = slope × stored + inter; (1, 0) where the header gives none.
    affine : (4, 4), mm.
    zooms : (3,), mm; pixdim[1:4] as it stands, zeros included.
    pixdim : (8,), as stored.
    time_unit : s per unit of time; None where the header does not say.
    oriented : whether the header places the voxels in space (qform or sform code > 0).
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    slope: float
    inter: float
    affine: np.ndarray
    zooms: tuple[float, ...]
    pixdim: tuple[float, ...]
    time_unit: float | None
    oriented: bool

    @property
    def n_bytes(self) -> int:
        """Size the uncompressed file must have at least."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    @property
    def series_shape(self) -> tuple[int, ...]:
        """``shape`` with (X, Y, Z, 1, T) and (X, Y, Z, T, 1) read as (X, Y, Z, T)."""
        if len(self.shape) == 5 and 1 in self.shape[3:]:
            return (*self.shape[:3], self.shape[3] * self.shape[4])
        return self.shape

    def frame_interval(self) -> tuple[float, tuple[str, ...]]:
        """Frame interval in s and what the reader should be told about it.

        It stands in pixdim[4] or, for (X, Y, Z, 1, T), in pixdim[5], where 1 is also the usual filler.
        """
        own, other = self.pixdim[4], self.pixdim[5]
        if len(self.shape) == 5:
            own, other = other, own
            if own == 1 and _positive(other):
                own = other
        if not _positive(own):
            own = other if _positive(other) and other != 1 else 0.0
        if not own:
            return 1.0, ("The header gives no frame interval: 1 s is assumed.",)
        return _to_seconds(own, self.time_unit)


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _to_seconds(value: float, unit: float | None) -> tuple[float, tuple[str, ...]]:
    value = float(f"{value:.6g}")  # pixdim is float32: 0.8 would read 0.800000011920929
    seconds = value * (unit or 1.0)
    if unit in (None, 1.0) and seconds > _LONGEST:
        return value / 1000, (f"The header gives a frame interval of {value:g}: milliseconds are assumed.",)
    if unit not in (None, 1.0):
        if seconds < _SHORTEST <= value <= _LONGEST:
            return value, (f"The header gives a frame interval of {seconds:g} s: {value:g} s is assumed.",)
        return float(f"{seconds:.6g}"), ()
    return value, ()


def is_nifti(path: Path) -> bool:
    """Whether the name is that of a NIfTI file (and not of a macOS companion ``._name``)."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """File name without ``.nii`` or ``.nii.gz``."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def read_header(path: str | Path) -> Header:
    """Read the header of a NIfTI file, not its values.

    Raises
    ------
    OSError, ValueError
        where the file is missing, a folder, empty, not what its name says, or cut off.
    """
    path = Path(path)
    with _opened(path) as file:
        try:
            if _is_gz(path):
                with gzip.open(file) as unpacked:
                    return _parsed(unpacked.read(_LONGEST_HEADER), path)
            header = _parsed(file.read(_LONGEST_HEADER), path)
        except (EOFError, zlib.error, gzip.BadGzipFile) as damage:
            raise _damaged(path, damage) from None
    if path.stat().st_size < header.n_bytes:
        raise _too_short(header, path.stat().st_size)
    return header


def read(path: str | Path):
    """Read a NIfTI file whole, its checksum included.

    Returns
    -------
    data : as stored where the header asks for no scaling, else float32; Fortran order, as on disk.
    header : Header.

    Raises
    ------
    OSError, ValueError
        as ``read_header``; also where values are missing or the checksum fails.
    """
    path = Path(path)
    with _opened(path) as file:
        blocks = _unpacked(file, path) if _is_gz(path) else iter(partial(file.read, _BLOCK), b"")
        start = b""
        while len(start) < _LONGEST_HEADER and (block := next(blocks, b"")):
            start += block
        header = _parsed(start[:_LONGEST_HEADER], path)
        most = path.stat().st_size * (_DEFLATE_MOST if _is_gz(path) else 1)
        content = _filled(header, chain([start], blocks), most)
    data = np.frombuffer(content, header.dtype, math.prod(header.shape), header.offset)
    if (header.slope, header.inter) == (1.0, 0.0):
        native = header.dtype.newbyteorder("=")
        data = data if data.flags.aligned and data.dtype == native else data.astype(native)
    else:
        data = data.astype(np.float32)
        data *= np.float32(header.slope)
        data += np.float32(header.inter)
    return data.reshape(header.shape, order="F"), header


def write(path: str | Path, data, affine, *, dt: float | None = None, compresslevel: int = 1) -> Path:
    """Write an array as NIfTI under a temporary name, then move it to ``path``.

    Parameters
    ----------
    path : file ending in ``.nii`` or ``.nii.gz``; its folder is made.
    data : (X, Y, Z) or (X, Y, Z, T). bool becomes uint8, 64-bit types their 32-bit kin.
    affine : (4, 4), mm.
    dt : s, frame interval of a series.
    compresslevel : 1 to 9 for ``.nii.gz``. Default 1, our choice: CT noise hardly compresses further.

    Returns
    -------
    ``path``.
    """
    import nibabel

    path = Path(path)
    if not is_nifti(path):
        raise ValueError(f"{path}: a NIfTI file must end in .nii or .nii.gz.")
    data = np.asarray(data)
    if data.dtype in _NARROWER:
        data = data.astype(_NARROWER[data.dtype])
    image = nibabel.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm", "sec")
    if dt is not None:
        image.header.set_zooms((*image.header.get_zooms()[:3], dt))
    content = image.to_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # mtime=0: the same image gives the same bytes
        temporary.write_bytes(gzip.compress(content, compresslevel, mtime=0) if _is_gz(path) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _is_gz(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _opened(path: Path):
    if path.is_dir():
        raise IsADirectoryError(f"{path}: a NIfTI file is needed; this is a folder. Give the file in it.")
    if not path.exists():
        raise FileNotFoundError(f"{path}: the file does not exist. Check the path, or copy the data again.")
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"{path}: a NIfTI file must end in .nii or .nii.gz. Convert it, e.g. with dcm2niix.")
    file = path.open("rb")
    start = file.peek(2)[:2]
    problem = None
    if not start:
        problem = "a NIfTI file must hold data; it is empty (0 bytes). Copy or download it again."
    elif _is_gz(path) and start != _GZIP_MAGIC:
        problem = (
            "a .nii.gz file must be gzip-compressed; it is not. Should it be plain NIfTI, rename it to .nii."
        )
    elif not _is_gz(path) and start == _GZIP_MAGIC:
        problem = "a .nii file must not be compressed; it is gzip. Rename it to .nii.gz."
    if problem:
        file.close()
        raise ValueError(f"{path}: {problem}")
    return file


def _unpacked(file, path: Path):
    """Yield the bytes of all members of a gzip file, block by block; each member's checksum is checked."""
    packed, member = b"", zlib.decompressobj(_GZIP)
    try:
        while packed or (packed := file.read(_BLOCK)):
            if member.eof:
                packed = packed.lstrip(b"\0")  # some writers pad
                if not packed:
                    continue
                member = zlib.decompressobj(_GZIP)
            if block := member.decompress(packed):
                yield block
            packed = member.unused_data
    except zlib.error as damage:
        raise _damaged(path, damage) from None
    if not member.eof:
        raise _damaged(path, "it ends before its last block")


def _filled(header: Header, blocks, most: int):
    """Put blocks of bytes where the values will stay, so that a large series is written to memory once."""
    # A header that promises more bytes than there can be gets no memory for them.
    content, n = np.empty(header.n_bytes if header.n_bytes <= most else 0, np.uint8), 0
    for block in blocks:  # to the end, for the checksum
        place = content[n : n + len(block)]
        place[:] = np.frombuffer(block, np.uint8, len(place))
        n += len(block)
    if n < header.n_bytes:
        raise _too_short(header, n)
    return content


def _damaged(path: Path, damage: Exception) -> ValueError:
    return ValueError(
        f"{path}: a .nii.gz file must unpack without error; it is truncated or damaged ({damage}). "
        "Copy or download it again."
    )


def _too_short(header: Header, present: int) -> ValueError:
    return ValueError(
        f"{header.path}: the header promises {header.n_bytes} bytes for shape {header.shape} of "
        f"{header.dtype}; the file holds {present}: it is truncated. Copy or download it again."
    )


def _parsed(block: bytes, path: Path) -> Header:
    from nibabel import Nifti1Header, Nifti2Header
    from nibabel.spatialimages import HeaderDataError

    kinds = {348: Nifti1Header, 540: Nifti2Header}
    sizes = (int.from_bytes(block[:4], order) for order in ("little", "big"))
    size = next((size for size in sizes if size in kinds), 0)
    if not size or len(block) < size or block[{348: 344, 540: 4}[size] :][:2] != b"n+":
        raise ValueError(
            f"{path}: a single-file NIfTI must start with its header; this one does not: "
            "it is truncated or of another format. Copy it again or convert it, e.g. with dcm2niix."
        )
    raw = kinds[size](block[:size], check=False)
    try:
        return _header(raw, path)
    except (HeaderDataError, ValueError, KeyError, OverflowError, np.linalg.LinAlgError) as problem:
        raise ValueError(
            f"{path}: the NIfTI header is damaged ({problem}). Copy or convert the file again."
        ) from None


def _header(raw, path: Path) -> Header:
    shape = tuple(int(n) for n in raw.get_data_shape())
    dtype = raw.get_data_dtype()
    if not 1 <= int(raw["dim"][0]) <= 7 or min(shape) < 1:
        raise ValueError(f"dim is {raw['dim'].tolist()}")
    if dtype.kind not in "iuf":
        raise ValueError(f"its values are {dtype}, not real numbers")
    slope, inter = raw.get_slope_inter()
    pixdim = tuple(float(p) for p in raw["pixdim"])
    oriented = bool(raw["sform_code"] > 0 or raw["qform_code"] > 0)
    return Header(
        path=path,
        shape=shape,
        dtype=dtype,
        offset=int(raw.get_data_offset()),
        slope=1.0 if slope is None else float(slope),
        inter=0.0 if inter is None else float(inter),
        affine=raw.get_best_affine(),
        zooms=pixdim[1:4],
        pixdim=pixdim,
        time_unit=_SECONDS.get(int(raw["xyzt_units"]) & 0x38),
        oriented=oriented,
    )
