"""Whether scans are new to a training: told by what they hold, not by how their files are called."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

FEW_VOXELS = 10  # our choice: smaller cores may be alike by chance


def check_unseen(cohort, prepared: dict, runs: dict) -> int:
    """Refuse scans that a run was trained on, and patients that it knows.

    Parameters
    ----------
    cohort : datasets.Cohort of ``prepared``
    prepared : dict from case id to Prepared
    runs : dict from head to folder, with the ``prepared`` scans that training keeps

    Returns
    -------
    Number of different scans that were trained on.

    Raises
    ------
    ValueError : a scan is the same, a patient has the same name, or a run does not keep its scans.

    Notes
    -----
    Scans are told by their contents, the baseline image and the core mask, never by file or case names.
    Names of patients count only where they name somebody: every phantom cohort counts its own from 1, and
    one that holds more scans of the same seed holds the first ones too, so contents will do.
    """
    fresh = {case: fingerprints(scan.baseline, scan.core) for case, scan in prepared.items()}
    known = {}
    for run in runs.values():
        scans = _trained_on(run)
        known |= scans
        seen = set().union(*(prints for _, _, prints in scans.values()))
        same = [case for case, prints in fresh.items() if prints & seen]
        if same:
            raise ValueError(
                f"A fair test needs scans that no fold has seen: {_few(same)} of {cohort.name} "
                f"{'is' if len(same) == 1 else 'are'} among the scans of {run}. Give another cohort."
            )
        names = {patient for _, patient, _ in scans.values()}
        again = sorted({scan.patient for scan in prepared.values()} & names)
        if again and phantom_options(cohort) is None:
            raise ValueError(
                f"A fair test needs patients that no fold has seen: {_few(again)} of {cohort.name} "
                f"{'has' if len(again) == 1 else 'have'} a scan in {run}. If they are others of the same "
                "name, say so in a patients.csv beside the scans (case,patient)."
            )
    return len(known)


def fingerprints(baseline, core=None) -> set[str]:
    """Tell a scan by its contents: a hash of its baseline image and, if it is not tiny, one of its core."""
    arrays = {"baseline": np.asarray(baseline)}
    if core is not None and np.count_nonzero(core) >= FEW_VOXELS:
        arrays["core"] = np.asarray(core, bool)
    return {
        hashlib.sha256(f"{name}{a.shape}".encode() + np.ascontiguousarray(a).tobytes()).hexdigest()
        for name, a in arrays.items()
    }


def _trained_on(run) -> dict:
    """The scans a training keeps: file name -> (case id, patient, fingerprints); reads no series."""
    files = sorted((Path(run) / "prepared").glob("*.npz"))
    if not files:
        raise ValueError(
            "Whether scans are fresh is told by the prepared scans that a training keeps: "
            f"{Path(run) / 'prepared'} holds none. Bring it along with the run, or train again."
        )
    found = {}
    for path in files:
        with np.load(path, allow_pickle=False) as stored:
            facts = json.loads(str(stored["plain"]))
            prints = fingerprints(stored["baseline"], stored.get("core"))
            found[path.name] = facts["id"], facts["patient"], prints
    return found


def _few(names):
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def phantom_options(cohort) -> dict | None:
    """What a phantom cohort was drawn with: seed, size, n_slices, n_frames, dt; None for patients."""
    path = Path(cohort.folder) / "cohort.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if facts.get("made_by") != "perfkit.phantom":
        return None
    return {name: facts[name] for name in ("seed", "size", "n_slices", "n_frames", "dt")}
