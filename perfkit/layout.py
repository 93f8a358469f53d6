"""The ISLES 2018 tree on disk, written so that nothing half-done ever stands under a final name.

TRAINING/case_N/SMIR.Brain.XX.O.{CT,CT_4DPWI,CT_CBF,CT_CBV,CT_MTT,CT_Tmax,OT}.<id>/<same>.nii.gz
truth/case_N/*.nii.gz, truth.json      what is known; truth.json comes last and marks a case as finished
patients.csv, aif/, cohort.json        cohort.json comes last and marks the cohort as finished
"""

from __future__ import annotations

import csv
import io
import json
import os
import zlib
from pathlib import Path

import numpy as np

FIRST_ID = (
    900_000  # our choice: ISLES 2018 numbers its files from 345 000 to 360 000; no phantom may look like one
)
COMPRESSION = 1  # our choice: noise does not compress, so the fastest level costs nothing
RECIPE_FILE = "truth/cohort-recipe.json"
# Types of the distributed files of ISLES 2018; the flows' slope keeps a decimal in whole numbers.
MAPS = {"cbf": ("CT_CBF", np.uint16, 0.1), "cbv": ("CT_CBV", np.uint16, 0.01)}
MAPS |= {"mtt": ("CT_MTT", np.float64, 1), "delay": ("CT_Tmax", np.float64, 1)}


def open_for(folder: str | Path, n: int, recipe: dict) -> Path:
    """Make the folder, or check that it holds the same cohort, and note its recipe first."""
    folder = Path(folder)
    note = folder / RECIPE_FILE
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"A cohort needs a folder; {folder} is a file. Give another path.")
    if note.exists():
        there = json.loads(note.read_text(encoding="utf-8"))
        other = [key for key in recipe | there if there.get(key) != recipe.get(key)]
        if other:
            listed = ", ".join(f"{key} {there.get(key)!r} there, {recipe.get(key)!r} asked" for key in other)
            raise ValueError(
                f"{folder} holds another phantom cohort ({listed}). Give another folder, or delete it."
            )
        extra = [path.name for path in (folder / "truth").glob("case_*") if int(path.name[5:]) > n]
        if extra:
            raise ValueError(
                f"{folder} already holds {len(extra)} cases beyond case_{n}. "
                "Ask for more cases, or give another folder."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(
            f"A phantom cohort needs a new or empty folder; {folder} holds other files. Give another one."
        )
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    (folder / "cohort.json").unlink(missing_ok=True)  # unfinished until it is written again
    write_json(note, recipe)
    return folder


def finished(folder: Path, case_id: str, recipe: dict) -> dict | None:
    """The truth.json of a finished case of the same recipe, else None."""
    path = folder / "truth" / case_id / "truth.json"
    if not path.exists():
        return None
    try:
        truth = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    whole = truth.get("recipe") == recipe and all((folder / name).is_file() for name in truth["files"])
    return truth if whole else None


def write_case(folder: Path, case, number: int, recipe: dict, compress: bool, stored_5d: bool) -> dict:
    """Write one phantom case and its truth; return what truth.json says."""
    save = _Saver(folder, case, number, ".nii.gz" if compress else ".nii")
    truth = case.truth
    n_baseline = max(1, int(np.argmax(truth["aif"] > 0.01 * truth["aif"].max())))
    baseline = case.ctp[..., :n_baseline].mean(axis=-1, dtype=np.float32)
    save.scan("CT", np.rint(baseline), np.int32)
    save.series("CT_4DPWI", case.ctp, case.dt, stored_5d)
    for name, (kind, dtype, slope) in MAPS.items():
        save.scan(kind, truth[name], dtype, slope)
    save.scan("OT", case.core, np.uint8)
    for name in ("cbf", "cbv", "mtt", "delay"):
        save.truth(name, truth[name], np.float32)
    for name, mask in (("core", truth["core"]), ("penumbra", truth["penumbra"]), ("brain", case.brain)):
        save.truth(name, mask, np.uint8)
    curves = ("aif", "vof", "frame_times", "rater_voxels", "rater_vof_voxels")
    summary = {
        "case": case.id,
        "patient": case.patient,
        "dt": case.dt,
        **{name: np.round(np.asarray(truth[name], float), 4).tolist() for name in curves[:3]},
        **{name: truth[name].tolist() for name in curves[3:]},
        "recipe": recipe,
        "files": save.names,
    }
    write_json(folder / "truth" / case.id / "truth.json", summary)
    return summary


class _Saver:
    def __init__(self, folder, case, number, suffix):
        self.folder, self.case, self.number, self.suffix = folder, case, number, suffix
        self.names = []

    def scan(self, kind, volume, dtype, slope=1):
        self._save(self._path(kind), _image(volume, self.case.affine, dtype, slope))

    def series(self, kind, ctp, dt, stored_5d):
        image = _image(ctp[:, :, :, None] if stored_5d else ctp, self.case.affine, ctp.dtype)
        image.header.set_zooms((*image.header.get_zooms()[:3], *((1.0,) if stored_5d else ()), dt))
        self._save(self._path(kind), image)

    def truth(self, name, volume, dtype):
        path = self.folder / "truth" / self.case.id / f"{name}{self.suffix}"
        self._save(path, _image(volume, self.case.affine, dtype))

    def _path(self, kind):
        order = ("CT", "CT_4DPWI", "CT_CBF", "CT_CBV", "CT_MTT", "CT_Tmax", "OT")
        name = f"SMIR.Brain.XX.O.{kind}.{FIRST_ID + 10 * self.number + order.index(kind)}"
        return self.folder / "TRAINING" / self.case.id / name / f"{name}{self.suffix}"

    def _save(self, path, image):
        data = image.to_bytes()
        write_bytes(path, _gzip(data) if path.suffix == ".gz" else data)
        self.names.append(path.relative_to(self.folder).as_posix())


def _image(volume, affine, dtype, slope=1):
    import nibabel

    stored = np.asarray(volume) if slope == 1 else np.rint(np.asarray(volume) / slope)
    image = nibabel.Nifti1Image(stored.astype(dtype, copy=False), affine, dtype=dtype)
    image.header.set_xyzt_units("mm", "sec")
    if slope != 1:
        image = _Scaled(image, slope)
    return image


class _Scaled:
    """An image of whole numbers whose header says what one of them is worth."""

    def __init__(self, image, slope):
        self.image, self.slope = image, slope

    def to_bytes(self):
        data = bytearray(self.image.to_bytes())
        data[112:120] = np.array([self.slope, 0], self.image.header["scl_slope"].dtype).tobytes()
        return bytes(data)


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(COMPRESSION, wbits=31)  # a gzip file without a time stamp
    return packer.compress(data) + packer.flush()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> None:
    """Write JSON in one move."""
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def write_patients(folder: Path, rows) -> None:
    """Write patients.csv from rows of case id, patient and slab."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("case", "patient", "slab"), *rows])
    write_bytes(folder / "patients.csv", text.getvalue().encode())
