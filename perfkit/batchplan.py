"""What a batch will run: which cases, with which parameters, and under which key their results are known."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from perfkit import __version__, annotations, batchrecord, paths
from perfkit.casefiles import page_name
from perfkit.datasets import Cohort, open_cohort
from perfkit.notebookparameters import Parameters, read_parameters, source_hash

GIVEN = ("cohort", "case", "out")  # set by the batch, case by case
BASE = 512 * 2**20  # bytes; papermill and a kernel with perfkit took 0.25 GiB; our choice: twice that
FACTOR = 6  # notebook 01 held 2.9 times the series as float32 (256²×16×53); our choice: twice that
LEARNED = "aifs.csv"  # what notebook 03 leaves in the folder that other notebooks call `learned`
RESERVED = {"failures.csv", "run.json"}
LONGEST = 100  # characters; our choice: a folder's name, with room for what is added while it is made


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the notebook.

    Parameters
    ----------
    case : id, of the scan or of the row.
    name : of its folder.
    parameters : for the notebook, without ``out``.
    record : for ``done.json``.
    expected : bytes it is thought to take.
    problem : why it cannot be run; "" where nothing is known against it.
    """

    case: str
    name: str
    parameters: dict
    record: dict
    expected: int
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs of a batch, in order.

    Parameters
    ----------
    notebook : file.
    declared : its parameters.
    runs : tuple of Run.
    whole : whether these are all cases of the cohort, or of the table.
    facts : for ``run.json``.
    """

    notebook: Path
    declared: Parameters
    runs: tuple[Run, ...]
    whole: bool
    facts: dict


def make_plan(notebook, cohort="", *, parameters=None, sets="", cases=None) -> Plan:
    """Check everything that can be checked before the first case starts.

    Parameters
    ----------
    notebook : file, or the name of one in ``notebooks/``.
    cohort : folder of scans; may be empty where there are ``sets``.
    parameters : dict from name to value, the same for all.
    sets : CSV file, a row for each run and a column for each parameter; a column ``id`` names the runs.
        An empty cell leaves the default.
    cases : ids, of scans or rows; None: all.

    Raises
    ------
    FileNotFoundError, ValueError : no such file or scan; an unknown or ill-typed parameter; a notebook that
        takes no ``case``.
    """
    notebook = find_notebook(notebook)
    declared = read_parameters(notebook)
    common = declared.check(_free_of_given(parameters or {}, cohort))
    opened = open_cohort(paths.resolve(cohort)) if cohort else None
    if sets:
        rows = list(_rows(paths.resolve(sets), declared, opened))
    elif opened is None:
        raise ValueError("A batch runs over something: give a cohort, or a table of parameter sets (--sets).")
    elif "case" not in declared:
        raise ValueError(
            f"{notebook}: a batch gives each run its case, and the notebook declares no parameter `case` "
            f"(it has {', '.join(declared.types) or 'none'}). For runs without cases give --sets."
        )
    else:
        rows = [(scan.id, {}, scan) for scan in opened.scans]
    chosen = _chosen(rows, cases, opened)
    names = folder_names([row[0] for row in rows])
    source, inputs = source_hash(notebook), Inputs(declared, opened)
    runs = tuple(
        _run(case, names[case], declared, common | own, scan, opened, source, inputs)
        for case, own, scan in chosen
    )
    facts = {
        "notebook": str(notebook),
        "notebook_hash": source,
        "cohort": str(opened.folder) if opened else "",
        "layout": opened.kind if opened else "",
        "sets": str(sets),
        "parameters": declared.defaults | common,
        "seeds": {n: v for n, v in (declared.defaults | common).items() if n.startswith("seed")},
    }
    return Plan(notebook=notebook, declared=declared, runs=runs, whole=cases is None, facts=facts)


def find_notebook(notebook) -> Path:
    """Find a notebook by path, or by its name in ``notebooks/``, with or without ``.ipynb``."""
    path = Path(notebook).expanduser()
    if path.is_file():
        return path.resolve()
    shelf = paths.repository() / "notebooks"
    for name in (path.name, f"{path.name}.ipynb"):
        if path.parent == Path(".") and (shelf / name).is_file():
            return shelf / name
    known = ", ".join(sorted(found.stem for found in shelf.glob("*.ipynb"))) or "none"
    raise FileNotFoundError(f"There is no notebook {notebook}. Give its path, or one of: {known}.")


def folder_names(cases: list[str]) -> dict[str, str]:
    """Give every case a folder's name; no two are the same on systems that know no upper case."""
    safe = {case: page_name(case) for case in cases}
    count = Counter(name.lower() for name in safe.values())
    for case, name in safe.items():
        if count[name.lower()] > 1 or name in RESERVED or len(name) > LONGEST:
            safe[case] = f"{name[: LONGEST - 9]}-{batchrecord.key_of('', {}, case)[:8]}"
    return safe


def _free_of_given(parameters: dict, cohort, *, where: str = "") -> dict:
    taken = [name for name in GIVEN if name in parameters and (cohort or name == "out")]
    if taken:
        came = f"{where}: {taken[0]}" if where else f"-p {taken[0]}"
        raise ValueError(
            f"The batch itself sets {', '.join(GIVEN)} for each case: {came} came. "
            "Give --cohort, --case and --out."
        )
    return parameters


def _rows(path: Path, declared: Parameters, opened: Cohort | None) -> Iterator[tuple]:
    """Yield (id, parameters, scan or None) of each row of the table."""
    if not path.is_file():
        raise FileNotFoundError(f"--sets names a CSV file: {path} is not a file.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (UnicodeError, csv.Error) as error:
        raise ValueError(
            f"{path}: a table is CSV in UTF-8, and this is not ({error}). Save it as such."
        ) from None
    columns = reader.fieldnames or []
    if twice := [column for column in dict.fromkeys(columns) if columns.count(column) > 1]:
        raise ValueError(
            f"{path}: a column stands for one parameter, and {twice[0]!r} came twice. Leave one."
        )
    if not rows:
        raise ValueError(f"{path}: a table of parameter sets needs a header and a row for each run.")
    seen = set()
    for number, row in enumerate(rows, start=2):
        where = f"{path}, line {number}"
        if None in row:
            raise ValueError(f"{where}: it has more cells than the header. Quote what holds a comma.")
        name = (row.pop("id", "") or "").strip() or f"row_{number - 1}"
        if name in seen:
            raise ValueError(f"{where}: an id names one run, and {name!r} came before. Make it unique.")
        seen.add(name)
        filled = {column: cell for column, cell in row.items() if cell not in (None, "")}
        values = declared.check(filled, where=where)
        _free_of_given({n: v for n, v in values.items() if n != "case"}, opened, where=where)
        try:
            scan = opened.scan(str(values["case"])) if opened and "case" in values else None
        except KeyError as error:
            raise ValueError(f"{where}: {error.args[0]}") from None
        yield name, values, scan


def _chosen(rows: list, cases, opened: Cohort | None) -> list:
    if cases is None:
        return rows
    by_id = {row[0]: row for row in rows}
    chosen = {}
    for case in cases:
        try:
            found = case if case in by_id or opened is None else opened.scan(case).id
            chosen[found] = by_id[found]
        except KeyError:
            raise ValueError(
                f"There is no case {case!r}. The first are {', '.join(list(by_id)[:5])}."
            ) from None
    return list(chosen.values())


def _run(case, name, declared: Parameters, values: dict, scan, opened, source, made_of) -> Run:
    inputs = made_of.of(scan, values)
    free = dict(values)
    if scan is not None and "case" in declared:
        free["case"] = scan.id
    parameters = free | ({"cohort": str(opened.folder)} if opened and "cohort" in declared else {})
    problem = scan.problem if scan else None
    n_voxels = math.prod(scan.shape) if scan and scan.shape else 0
    record = {
        "key": batchrecord.key_of(source, free, inputs, __version__),
        "notebook": source,
        "parameters": parameters,
        "inputs": inputs,
        "version": __version__,
    }
    return Run(
        case=case,
        name=name,
        parameters=parameters,
        record=record,
        expected=BASE + FACTOR * 4 * n_voxels,
        problem=problem or "",
    )


class Inputs:
    """What a run is made of beside its parameters' values: files, and the pick of a rater.

    A file that a parameter names counts by size and time. Of a folder only the AIFs of a trained network do:
    a notebook may write into it, and would never be done. Of a rater's picks that of the case counts: a pick
    more makes one result stale and not a thousand.
    """

    def __init__(self, declared: Parameters, opened: Cohort | None):
        self._rater = declared.defaults.get("rater", "") if "rater" in declared else None
        self._opened = opened
        self._stamp, self._picks = cache(_stamp), cache(self._read_picks)  # once for all cases

    def of(self, scan, values: dict) -> str:
        """Describe the inputs of a run."""
        return "|".join([scan.fingerprint() if scan else "", *self._files(values), *self._pick(scan, values)])

    def _files(self, values):
        for name, value in sorted(values.items()):
            if isinstance(value, str) and value and len(value) < 1000 and (stamp := self._stamp(value)):
                yield f"{name}:{stamp}"

    def _pick(self, scan, values):
        if scan is not None and self._rater is not None:
            pick = self._picks(values.get("rater", self._rater)).get(scan.id)
            if pick:
                yield f"pick:{pick.voxels}:{pick.vof_voxels}"

    def _read_picks(self, rater):
        files = annotations.rater_files(self._opened.folder, paths.data_folder() / "aif") if rater else {}
        return annotations.latest(files[rater]) if rater in files else {}


def _stamp(value: str) -> str:
    path = paths.resolve(value) if value.startswith("..") else Path(value)
    try:
        stat = (path / LEARNED if path.is_dir() else path).stat()
    except OSError:  # a text, and no path
        return ""
    return f"{stat.st_size}:{stat.st_mtime_ns}"
