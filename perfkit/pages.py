"""Pages of reports: templates that escape what they are given, files that are whole or not there."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


@cache
def template(name: str):
    """Load a template of the package; an undefined value in it is an error, never a blank."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    options = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=PackageLoader("perfkit"), **options)
    environment.filters["unbroken"] = unbroken
    return environment.get_template(name)


def unbroken(sentence: str) -> str:
    """Keep what belongs together on one line: "p = .03", "95 %", "t-test"."""
    pairs = {"p = ": "p\u00a0=\u00a0", "p < ": "p\u00a0<\u00a0", " %": "\u00a0%", "t-test": "t\u2011test"}
    for loose, tight in pairs.items():
        sentence = sentence.replace(loose, tight)
    return sentence


def write(path, text: str) -> Path:
    """Write a file under its final name only when it is whole."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return path
