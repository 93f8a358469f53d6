"""The parameters a notebook declares, checked before it runs: papermill lets a misspelt one pass in silence.

They stand in the cell tagged ``parameters``, one ``name: type = literal  # help`` a line.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import math
import typing
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter

TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict, "None": None}
WORDS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}


class Parameters:
    """What a notebook declares.

    Parameters
    ----------
    path : of the notebook, for messages.
    types : dict from name to type, in the order of the cell.
    defaults : dict from name to value, where the value is a literal.
    """

    def __init__(self, path: Path, types: dict, defaults: dict):
        self.path, self.types, self.defaults = path, types, defaults

    def __contains__(self, name: str) -> bool:
        return name in self.types

    def check(self, values: Mapping, *, where: str = "") -> dict:
        """Check values; text is read as the command line means it.

        Parameters
        ----------
        values : from name to value; a text where the parameter is none is converted ("0.3", "true").
        where : what the message begins with; default: the notebook.

        Returns
        -------
        dict from name to value, of the names that were given.

        Raises
        ------
        ValueError : a name is not declared, with the nearest that is; a value is of another type.
        """
        where = where or str(self.path)
        for name in values:
            if name not in self:
                raise ValueError(f"{where}: {self._unknown(name)}")
        return {name: self._checked(name, value, where) for name, value in values.items()}

    def _checked(self, name, value, where):
        kind = self.types[name]
        if isinstance(value, str) and kind not in (str, int, float, bool):  # a list, or anything
            with suppress(ValueError, SyntaxError):
                value = ast.literal_eval(value)
        try:
            if isinstance(value, bool) and kind in (int, float):  # pydantic would take 1 for it
                raise ValueError
            checked = TypeAdapter(kind).validate_python(value)
            if isinstance(checked, float) and not math.isfinite(checked):  # JSON has none
                raise ValueError
            return checked
        except ValueError:  # pydantic's own is one
            must = WORDS.get(kind, getattr(kind, "__name__", str(kind)))
            default = f" Its default is {self.defaults[name]!r}." if name in self.defaults else ""
            raise ValueError(
                f"{where}: the parameter {name} must be {must}: {value!r} came.{default}"
            ) from None

    def _unknown(self, name):
        near = difflib.get_close_matches(name, list(self.types), n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else f"It declares {', '.join(self.types) or 'none'}."
        return f"a parameter must be declared by the notebook, and {name} is not. {hint}"


def read_parameters(path: str | Path) -> Parameters:
    """Read what a notebook declares in its ``parameters`` cell.

    Parameters
    ----------
    path : .ipynb

    Raises
    ------
    FileNotFoundError, ValueError : no such file; not a notebook; no such cell, or it is not plain Python.
    """
    path = Path(path)
    cells = [cell for cell in _cells(path) if "parameters" in cell.get("metadata", {}).get("tags", ())]
    if not cells:
        raise ValueError(
            f"{path}: a batch sets parameters, and no cell is tagged `parameters`. Tag the first code cell."
        )
    try:
        lines = ast.parse(_source(cells[0])).body
    except SyntaxError as error:
        raise ValueError(f"{path}: the cell of parameters must be plain Python: {error}.") from None
    types, defaults = {}, {}
    for line in lines:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            name, annotation = line.target.id, ast.unparse(line.annotation)
        elif isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            name, annotation = line.targets[0].id, None
        else:
            continue
        try:
            defaults[name] = ast.literal_eval(line.value)
        except (ValueError, TypeError):  # computed: any value will do, and nothing is known of it
            defaults.pop(name, None)
        types[name] = _type(annotation, defaults.get(name))
    return Parameters(path, types, defaults)


def source_hash(path: str | Path) -> str:
    """Hash of the source of a notebook's cells: changes when they do, not when it is run."""
    cells = [(cell.get("cell_type"), _source(cell)) for cell in _cells(Path(path))]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def _cells(path):
    if not path.is_file():
        raise FileNotFoundError(f"A notebook is needed: {path} is not a file. Check the path.")
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = notebook["cells"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not a notebook of format 4. Save it anew in JupyterLab.") from None
    return cells


def _source(cell):
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def _type(annotation, default):
    """The type an annotation of built-in names says; without one that of the default; else anything."""
    if annotation is None:
        return type(default) if isinstance(default, int | float | str | bool | list | dict) else typing.Any
    try:
        return eval(annotation, {"__builtins__": {}}, TYPES)  # names of TYPES only: nothing can be called
    except Exception:
        return typing.Any
