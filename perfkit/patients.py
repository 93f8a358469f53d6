"""Which patient a scan belongs to: two slabs of one patient must not be split between folds."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

INDEX = Path(__file__).resolve().parents[1] / "data" / "reference" / "isles18_training_index.csv"
FILE = "patients.csv"


def own_list(folders: Iterable[Path]) -> Mapping[str, str] | None:
    """Read the first ``patients.csv`` in ``folders``: columns case, patient and, as you like, slab.

    Returns
    -------
    Patient by case; a bare number N stands for case_N. None where there is no such file.

    Raises
    ------
    ValueError
        naming file and line where a column or value is missing or a case stands twice.
    """
    path = next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)
    return None if path is None else _read(path)


def _read(path: Path) -> dict[str, str]:
    patients: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if missing := {"case", "patient"} - set(rows.fieldnames or ()):
                raise ValueError(
                    f"{path}, line 1: the columns case and patient are needed; "
                    f"{' and '.join(sorted(missing))} is missing. Let line 1 be case,patient,slab."
                )
            for row in rows:
                case, patient = ((row[column] or "").strip() for column in ("case", "patient"))
                case = f"case_{case}" if case.isdigit() else case
                if not case or not patient or row.get(None):
                    what = "more values than columns" if row.get(None) else "no case or no patient"
                    raise ValueError(
                        f"{path}, line {rows.line_num}: each line names one case and its patient; "
                        f"this one has {what}. Correct it, e.g. case_1,1,A."
                    )
                if patients.setdefault(case, patient) != patient:
                    raise ValueError(
                        f"{path}, line {rows.line_num}: a case has one patient; {case} stands here "
                        f"with {patient}, above with {patients[case]}. Keep one of the lines."
                    )
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path}: the file must be UTF-8 text; {problem}. Save it as CSV UTF-8.") from None
    return patients


def isles_index(path: Path = INDEX) -> dict[int, str]:
    """Patient by number of the 4DPWI series for the ISLES 2018 training set; empty without the file."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {int(row["smir_id_4dpwi"]): row["patient"] for row in csv.DictReader(file)}


def assign(
    scans: Iterable[tuple[str, str, int | None]],
    own: Mapping[str, str] | None,
    folder: Path,
    given: Mapping[str, str] | None = None,
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Give each scan its patient.

    Parameters
    ----------
    scans : (id, name on disk, number of its 4DPWI series or None).
    own : what ``own_list`` found; it wins. Otherwise the ISLES 2018 index counts, by the series' number and
        never by that of the case, since phantoms share the layout.
    folder : of the cohort, for the note.
    given : patient by id where names or a table of the scans tell it; ``own`` wins.

    Returns
    -------
    Patient by id, only where it is known, and what the reader should be told.
    """
    scans = list(scans)
    if own is not None:
        known = {sid: own.get(sid, own.get(name)) for sid, name, _ in scans}
    else:
        index = isles_index() if any(number is not None for *_, number in scans) else {}
        known = {sid: index.get(number) for sid, _, number in scans}
    known = (given or {}) | {sid: patient for sid, patient in known.items() if patient is not None}
    unknown = len(scans) - len(known)
    if not unknown:
        return known, ()
    which = f"{unknown} of {len(scans)} scans" if known else "the scans"
    return known, (
        f"The patients of {which} are not known: each counts as a patient of its own, so two slabs of one "
        f"patient may fall into different folds. A file {folder / FILE} (case,patient) would tell.",
    )


def folds(patient: Mapping[str, str], n: int, seed: int, name: str) -> list[tuple[list[str], list[str]]]:
    """Split scans into ``n`` pairs (training ids, test ids) that share no patient.

    Parameters
    ----------
    patient : patient by id of the scan.
    n : number of folds.
    seed : shuffles the patients.
    name : folder or cohort that an error names.
    """
    from sklearn.model_selection import GroupKFold

    ids = list(patient)
    names, group = np.unique(list(patient.values()), return_inverse=True)
    for what, value in (("n", n), ("seed", seed)):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name}: {what} of the folds must be a whole number; it is {value!r}. Try 5.")
    if seed < 0:
        raise ValueError(f"{name}: the seed of the folds must not be negative; it is {seed}. Try 0.")
    if not 2 <= n <= len(names):
        raise ValueError(
            f"{name}: folds hold whole patients, so n lies between 2 and {len(names)} (its patients); "
            f"it is {n}. Choose fewer folds or more patients."
        )
    # GroupKFold evens out the numbers of scans but knows no seed there; renaming the patients breaks its ties
    group = np.random.default_rng(seed).permutation(len(names))[group]
    splits = GroupKFold(n).split(ids, groups=group)
    return [([ids[i] for i in train], [ids[i] for i in test]) for train, test in splits]
