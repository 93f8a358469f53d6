"""What is odd about one scan: its header, its values, its bolus, its masks, its motion, in words."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from perfkit import curves, motionscreen, nifti, quality, volumes

USUAL_DT = (0.4, 3.5)  # s; our choice: UniToBrain is at 0.5 s, protocols that save dose at 3 s and just above
SHORT_S = 43.0  # s; the shortest scans of ISLES 2018
LOWEST_HU = -1100.0  # our choice: air is −1000 to −1024; below lies padding or another scale
HIGHEST_HU = 5000.0  # our choice: bone ends at 2000, metal at the scanner's 3071 or 4095
USUAL_BRAIN_HU = (10.0, 60.0)  # our choice: oedema and CSF to haemorrhage, as the median of a brain
NO_BOLUS_HU = 1.0  # our choice: the mean brain of phantoms rises by 3 HU at least
SMALL_BRAIN_CM2 = 40.0  # our choice: a third of an adult brain's section at the basal ganglia
OUTSIDE = 0.1  # our choice: a core drawn on another image crosses the brain's edge by a pixel or so
VESSEL_SHARE = 0.005  # our choice: the brightest half per cent of a brain are arteries and veins
TRUNCATED = 0.5  # of the peak; our choice: where veins have not come down to one half, areas are lost
SAMPLE = 50_000  # voxels; our choice: 250 of them are vessels, and their mean curve is smooth

_ODD_NOTES = {"orientation": "left and right", "frame interval": "frame interval"}


@dataclass(frozen=True)
class Finding:
    """What was found: ``what`` in two words, for counting; ``detail`` in a sentence; ``odd``, or a note."""

    what: str
    detail: str
    odd: bool = True


@dataclass
class Examined:
    """What is known of a scan after a look: figures by name, what is odd, why it would be skipped."""

    facts: dict = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    problem: str | None = None
    bad_frames: np.ndarray | None = None

    def add(self, what: str, detail: str, *, odd: bool = True) -> None:
        """Add a finding."""
        self.findings.append(Finding(what, detail, odd))

    def add_note(self, note: str) -> None:
        """Add a note of the reader; about orientation and time it tells of something odd."""
        what = next((what for word, what in _ODD_NOTES.items() if word in note), "note")
        self.add(what, note, odd=what != "note")


def look_at_header(scan) -> Examined:
    """Judge what the header of a scan says; nothing is loaded.

    Parameters
    ----------
    scan : of a Cohort.
    """
    seen = Examined(problem=scan.problem)
    for note in scan.notes:
        seen.add_note(note)
    if scan.dt and not USUAL_DT[0] <= scan.dt <= USUAL_DT[1]:
        seen.add("frame interval", f"Δt is {scan.dt:g} s; usual are {USUAL_DT[0]:g} to {USUAL_DT[1]:g} s.")
    if scan.dt and scan.shape and len(scan.shape) == 4 and (span := scan.shape[-1] * scan.dt) < SHORT_S:
        seen.add("short scan", f"It lasts {span:.0f} s, less than {SHORT_S:g} s: a late bolus is cut off.")
    if scan.path.is_file() and nifti.is_nifti(scan.path) and not scan.problem:
        _compare_forms(scan.path, seen)
    return seen


def _compare_forms(path: Path, seen: Examined) -> None:
    """Compare the two places a NIfTI header gives; programs differ in which one they believe."""
    import nibabel

    header = nibabel.load(path).header
    if not (header["sform_code"] > 0 and header["qform_code"] > 0):
        return
    sform, qform = header.get_sform(), header.get_qform()
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in header.get_data_shape()[:3]], (1,))).reshape(4, -1)
    off = np.abs((sform - qform) @ corners).max()
    if off > volumes.AFFINE_TOLERANCE:
        seen.add(
            "two affines", f"sform and qform of the header differ by up to {off:.3g} mm; sform is taken."
        )
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        seen.add("left and right", "sform and qform of the header disagree about left and right.")


def look_at_frames(case, seen: Examined) -> None:
    """Judge the values: their range, frames and slices that are empty, frames that are there twice."""
    low, high = case.ctp.min(axis=(0, 1)), case.ctp.max(axis=(0, 1))  # (Z, T)
    seen.facts |= {"lowest_hu": float(low.min()), "highest_hu": float(high.max())}
    if low.min() < LOWEST_HU:
        seen.add("values", f"The lowest is {low.min():.6g} HU, below air: padding, or another scale.")
    if high.max() > HIGHEST_HU:
        seen.add("values", f"The highest is {high.max():.6g} HU, beyond bone and metal.")
    blank = low == high
    empty = blank.all(axis=0)
    if empty.any():
        seen.add("empty frames", f"{_frames_named(empty)} hold one value only.")
    dropped = blank & ~empty & ~blank.all(axis=1, keepdims=True)
    if dropped.any():
        seen.add("empty slices", f"Slices are empty in {_frames_named(dropped.any(axis=0)).lower()}.")
    digests = [_digest(case.ctp[..., t]) for t in range(case.n_frames)]
    first = {digest: t for t, digest in reversed(list(enumerate(digests)))}
    repeated = np.array([first[d] != t for t, d in enumerate(digests)]) & ~empty
    if repeated.any():
        seen.add("repeated frames", f"{_frames_named(repeated)} equal an earlier one.")
    seen.facts["digest"] = hashlib.blake2b(b"".join(digests), digest_size=8).hexdigest()
    seen.bad_frames = empty | dropped.any(axis=0)


def _digest(frame) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(frame.T).data, digest_size=8).digest()


def _frames_named(which) -> str:
    frames = np.flatnonzero(which)
    shown = ", ".join(map(str, frames[:5])) + (" …" if len(frames) > 5 else "")
    return f"{len(frames)} frames ({shown})" if len(frames) > 1 else f"Frame {shown}"


def look_at_masks(case, seen: Examined) -> None:
    """Judge the size of the brain, and whether core and final infarct lie in it."""
    pixel_cm2 = float(np.prod(case.spacing[:2])) / 100
    seen.facts["brain_ml"] = float(case.brain.sum() * case.voxel_ml)
    if (area := case.brain.sum(axis=(0, 1)).max() * pixel_cm2) < SMALL_BRAIN_CM2:
        seen.add(
            "small brain", f"Its largest section has {area:.0f} cm², a brain's {SMALL_BRAIN_CM2:g} or more."
        )
    for role in ("core", "final_infarct"):
        mask, name = getattr(case, role, None), role.replace("_", " ")
        if mask is None:
            continue
        seen.facts[f"{role}_ml"] = float(mask.sum() * case.voxel_ml)
        around = ndimage.binary_dilation(case.brain, np.ones((3, 3, 1)))
        outside = (mask & ~around).sum() / max(1, mask.sum())
        if not mask.any():
            seen.add(f"empty {name}", f"The mask of the {name} is empty.")
        if outside > OUTSIDE:
            seen.add(f"{name} outside", f"{outside:.0%} of the {name} lie outside the brain.")


def look_at_bolus(case, seen: Examined) -> None:
    """Judge HU before the bolus, and whether the scan holds the whole of it."""
    voxels = np.flatnonzero(case.brain)
    voxels = voxels[:: max(1, len(voxels) // SAMPLE)]
    series = case.ctp[np.unravel_index(voxels, case.brain.shape)].astype(np.float32)
    mean = series.mean(axis=0, dtype=float)
    onset, n = curves.bolus_onset(mean, case.dt), curves.n_baseline(mean, case.dt)
    baseline = series[:, :n].mean(axis=1)
    tissue = mean - mean[:n].mean()
    area = series[:, n:].mean(axis=1) - baseline
    brightest = np.argsort(area)[-max(1, round(VESSEL_SHARE * len(area))) :]
    vessel = (series[brightest] - baseline[brightest, None]).mean(axis=0, dtype=float)
    level = float(np.median(baseline))
    seen.facts |= {
        "brain_hu": level,
        "onset_s": onset,
        "tissue_peak_hu": float(tissue.max()),
        "vessel_peak_hu": float(vessel.max()),
        "vessel_tail": quality.tail(vessel),
    }
    if not USUAL_BRAIN_HU[0] <= level <= USUAL_BRAIN_HU[1]:
        hint = " Is 1024 to be subtracted?" if 1024 < level < 1124 else ""
        seen.add("values", f"The brain has {level:.0f} HU before the bolus, a brain has 25 to 40.{hint}")
    for finding in _about_the_bolus(case, tissue, vessel, onset, n):
        seen.add(*finding)


def _about_the_bolus(case, tissue, vessel, onset, n):
    peak = float(tissue.max())
    if peak < NO_BOLUS_HU or vessel.max() < quality.WEAK_PEAK / 3:
        yield (
            "no bolus",
            f"The brain rises by {peak:.1f} HU, its vessels by {vessel.max():.0f} HU: no contrast.",
        )
        return
    if vessel.max() < quality.WEAK_PEAK:
        yield "weak bolus", f"The brightest vessels peak at {vessel.max():.0f} HU."
    if vessel.argmax() >= len(vessel) - 2:
        yield "truncated bolus", "The vessels still rise in the last frames."
    elif (tail := quality.tail(vessel)) > TRUNCATED:
        yield "truncated bolus", f"The vessels end at {tail:.0%} of their peak."
    if n == 1 and onset <= curves.BASELINE_GUARD:
        yield "late start", f"The scan starts inside the bolus, which comes after {onset:.1f} s."


def look_at_motion(case, seen: Examined) -> None:
    """Judge whether the head lies still; frames that are empty in part are left out."""
    moved = motionscreen.screen_motion(case)
    if seen.bad_frames is not None:
        moved = np.where(seen.bad_frames, 0, moved)
    seen.facts["motion_mm"] = float(moved.max())
    if moved.max() > motionscreen.MOVED_MM:
        frames = _frames_named(moved > motionscreen.MOVED_MM)
        seen.add(
            "motion",
            f"The head moves by about {moved.max():.1f} mm in {frames.lower()}. perfkit.motion corrects it.",
        )


CHECKS = (look_at_frames, look_at_masks, look_at_bolus, look_at_motion)
