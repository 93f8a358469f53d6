"""Where things lie: the repository, its data folder, and what a relative path in a notebook means."""

from __future__ import annotations

import os
from pathlib import Path


def repository() -> Path:
    """Find the checkout this package runs from; without one, the current folder stands in."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() else Path.cwd()


def data_folder() -> Path:
    """Give the folder of cohorts, picks and runs: ``PERFKIT_DATA`` if set, else ``data`` in the checkout."""
    return Path(os.environ.get("PERFKIT_DATA") or repository() / "data")


def resolve(path: str | Path) -> Path:
    """Turn a path given to a notebook into an absolute one.

    Parameters
    ----------
    path : absolute, relative to the current folder, or ``../data/…`` as the notebooks write it.

    Returns
    -------
    Absolute path. ``../data/…`` is the data folder wherever the kernel was started (JupyterLab starts it in
    ``notebooks/``, papermill where the user stands); any other relative path counts from the current folder.
    """
    path = Path(path).expanduser()
    if path.parts[:2] == ("..", "data"):
        return data_folder().joinpath(*path.parts[2:]).resolve()
    return path.resolve()
