"""One scan: a CT perfusion series with its frame interval, geometry and masks, checked at the door."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from perfkit import checks


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Case:
    """One scan, validated when it is made; arrays are kept without a copy where their type allows.

    Parameters
    ----------
    id : str, usable as a file name.
    ctp : (X, Y, Z, T), HU; time is the last axis. 16-bit integers stay as they are, all else is float32.
    dt : s, the frame interval.
    affine : (4, 4), mm, voxel indices to world coordinates.
    brain : (X, Y, Z), bool or 0/1.
    patient : str; scans of one patient belong in one fold. Default: ``id``.
    core : (X, Y, Z), bool or 0/1; None where it is not known.
    final_infarct : (X, Y, Z), bool or 0/1, the infarct at follow-up, not the core; None where unknown.
    vendor : paths of the maps delivered with the scan, by name (``"cbf"``, ``"tmax"`` …); not read.
    vendor_maps : the same maps by name, (X, Y, Z) on the grid of ``ctp``, NaN where unknown; read when asked
        for.
    truth : what is known of a phantom, by name (``"aif"`` (T,), ``"cbf"`` (X, Y, Z) …); empty for patients.
    source : the file the series came from; errors name it.
    notes : what the reader should be told, in sentences.

    Raises
    ------
    ValueError, TypeError
        where a rule is broken; the message says which, what came and what would do.
    """

    id: str
    ctp: np.ndarray
    dt: float
    affine: np.ndarray
    brain: np.ndarray
    patient: str = ""
    core: np.ndarray | None = None
    final_infarct: np.ndarray | None = None
    vendor: Mapping[str, Path] = field(default_factory=dict)
    vendor_maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)
    source: Path | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        name = str(self.source) if self.source is not None else f"Case {self.id!r}"
        notes = (self.notes,) if isinstance(self.notes, str) else tuple(self.notes)
        checked = {
            "id": checks.check_id(self.id, name),
            "ctp": checks.check_series(self.ctp, name),
            "dt": checks.check_frame_interval(self.dt, name),
            "affine": checks.check_affine(self.affine, name),
            "patient": str(self.patient or self.id),
            "notes": notes,
        }
        shape = checked["ctp"].shape[:3]
        checked["brain"] = checks.check_mask(self.brain, shape, name, "brain")
        if not checked["brain"].any():
            raise ValueError(
                f"{name}: brain must hold at least one voxel; it is empty. Check it against ctp."
            )
        for role in ("core", "final_infarct"):
            if getattr(self, role) is not None:
                checked[role] = checks.check_mask(getattr(self, role), shape, name, role)
        for attribute, value in checked.items():
            object.__setattr__(self, attribute, value)

    @property
    def spacing(self):
        """(3,), mm: size of a voxel along its own axes."""
        return checks.spacing_of(self.affine)

    @property
    def n_frames(self) -> int:
        """Number of frames T."""
        return self.ctp.shape[-1]

    @property
    def times(self):
        """(T,), s: time of each frame, the first being 0."""
        return self.dt * np.arange(self.n_frames)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000

    def _facts(self) -> dict[str, str]:
        x, y, z, t = self.ctp.shape
        facts = {
            "patient": self.patient,
            "series": f"{x} × {y} × {z} voxels, {t} frames, {self.ctp.dtype}",
            "frame interval": f"{self.dt:g} s",
            "spacing": " × ".join(f"{s:.2f}" for s in self.spacing) + " mm",
            "brain": f"{self.brain.sum() * self.voxel_ml:.0f} ml",
            "core": "unknown" if self.core is None else f"{self.core.sum() * self.voxel_ml:.1f} ml",
        }
        if self.final_infarct is not None:
            facts["final infarct"] = f"{self.final_infarct.sum() * self.voxel_ml:.1f} ml"
        if self.truth:
            facts["truth"] = ", ".join(sorted(self.truth))
        if self.source is not None:
            facts["source"] = str(self.source)
        if self.notes:
            facts["notes"] = " ".join(self.notes)
        return facts

    def __repr__(self) -> str:
        facts = self._facts()
        return f"Case({self.id}: {facts['series']}, {facts['frame interval']}, {facts['spacing']})"

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self._facts().items()
        )
        return f"<table><caption><b>{html.escape(self.id)}</b></caption>{cells}</table>"
