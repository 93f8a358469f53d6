"""The page of the picker: the picker alone in sight, on a server that lets go of kernels."""

import nbformat
import pytest

from perfkit import pickapp


@pytest.fixture
def started(monkeypatch):
    """What would be run, and the notebook it would show."""
    seen = {}

    def note(command):
        seen["command"] = command
        page = next(part for part in command if part.endswith(".ipynb"))
        seen["notebook"] = nbformat.read(page, as_version=4)
        return 0

    monkeypatch.setattr(pickapp, "_run_until_interrupted", note)
    return seen


def test_the_page_shows_one_line_and_the_picker(started):
    pickapp.serve(rater="mh", say=lambda line: None)
    words, *code = started["notebook"].cells
    assert words.cell_type == "markdown" and len(words.source.splitlines()) == 1
    assert {cell.cell_type for cell in code} == {"code"} and "session.widget()" in code[-1].source
    assert any("rater = 'mh'" in cell.source or 'rater = "mh"' in cell.source for cell in code)
    assert all(cell.source.startswith("%%capture") for cell in code[:-1])


def test_a_kernel_without_a_page_ends_one_with_a_page_does_not(started):
    pickapp.serve(say=lambda line: None)
    options = dict(
        part[2:].split("=", 1) for part in started["command"] if part.startswith("--") and "=" in part
    )
    assert 60 <= int(options["MappingKernelManager.cull_idle_timeout"]) <= 3600
    assert options["MappingKernelManager.cull_connected"] == "False"
    assert options["Voila.ip"] == "127.0.0.1"


@pytest.mark.parametrize("rater", ["x" * 300, "../x"])
def test_a_name_no_file_can_have_is_refused_before_anything_starts(started, rater):
    with pytest.raises(ValueError, match="rater's name"):
        pickapp.serve("no/such/cohort", rater)
    assert not started
