"""What a batch writes about itself: ``done.json`` in a case's folder, ``failures.csv`` and ``run.json``."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import platform
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from perfkit import __version__, pages

DONE = "done.json"
FAILURES = ("case", "kind", "reason", "seconds", "attempts")
LIBRARIES = ("numpy", "scipy", "keras", "tensorflow", "tensorflow-cpu", "papermill", "distributed")
EVERY = 10.0  # s; our choice: what a killed driver may miss in its records, which the next run mends


def key_of(notebook: str, parameters: dict, inputs: str, version: str = __version__) -> str:
    """Hash of all a result depends on.

    Parameters
    ----------
    notebook : hash of its source cells.
    parameters : as the notebook gets them, without the folders.
    inputs : fingerprint of the files.
    version : of perfkit.
    """
    parts = [notebook, parameters, inputs, version]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def read_done(folder: Path, key: str = "") -> dict | None:
    """Read the record of a finished case; None where there is none, or none of this ``key``."""
    try:
        record = json.loads((folder / DONE).read_text(encoding="utf-8"))
        return record if not key or record["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def now() -> str:
    """Return the time as ISO 8601, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Return the versions of Python, perfkit and the libraries it computes with."""
    found = {"python": platform.python_version(), "perfkit": __version__}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


class Records:
    """``failures.csv`` and ``run.json`` of one run; each is written whole, at most every ``EVERY`` seconds.

    Parameters
    ----------
    folder : of the run.
    facts : what ``run.json`` says beside the cases.
    cases : ids of the whole cohort, or None: lines of other cases stay in failures.csv.
    """

    def __init__(self, folder: Path, facts: dict, cases: set[str] | None = None):
        self.folder, self.facts = folder, facts
        self.cases: dict[str, dict] = {}
        old = read_failures(folder)
        self.failures = {row["case"]: row for row in old if cases is None or row["case"] in cases}
        self._written = 0.0

    def done(self, case: str, record: dict) -> None:
        """Note a finished case; its line in failures.csv goes."""
        self.failures.pop(case, None)
        self._note(case, {"state": "done"} | record)

    def failed(self, case: str, kind: str, reason: str, seconds: float, attempts: int, **more) -> None:
        """Note a failed case."""
        row = (case, kind, " ".join(reason.split()), round(seconds, 2), attempts)
        self.failures[case] = dict(zip(FAILURES, row, strict=True))
        self._note(case, {"state": "failed", **self.failures[case], **more})

    def _note(self, case, record):
        self.cases[case] = {name: value for name, value in record.items() if name != "case"}
        if time.monotonic() - self._written > EVERY:
            self.write(state="running")

    def write(self, state: str) -> None:
        """Write both files.

        Raises
        ------
        OSError : the folder cannot be written.
        """
        text = io.StringIO()
        table = csv.DictWriter(text, FAILURES, lineterminator="\n")
        table.writeheader()
        table.writerows(self.failures.values())
        facts = self.facts | {"state": state, "written": now(), "cases": self.cases}
        pages.write(self.folder / "failures.csv", text.getvalue())
        pages.write(self.folder / "run.json", json.dumps(facts, indent=1) + "\n")
        self._written = time.monotonic()


def read_failures(folder: Path) -> list[dict]:
    """Read failures.csv of a folder; empty where there is none that can be read."""
    try:
        rows = list(csv.DictReader(io.StringIO((folder / "failures.csv").read_text(encoding="utf-8"))))
    except OSError:
        return []
    return [row for row in rows if set(FAILURES) <= set(row)]
