"""The notebooks as a newcomer meets them: in JupyterLab, in a browser, run from top to bottom."""

from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.browser
NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"
V4 = nbformat.v4


def write(lab, name, *sources):
    cells = [V4.new_code_cell(source) for source in sources]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(V4.new_notebook(cells=cells, metadata=metadata), lab.folder / name)
    return name


def copy(lab, stem, **parameters):
    """Copy a notebook into the lab's folder, with parameters set as papermill sets them."""
    notebook = nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4)
    (place,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    lines = [f"{name} = {value!r}" for name, value in parameters.items()]
    assert all(f"{name}:" in notebook.cells[place].source for name in parameters)
    notebook.cells.insert(place + 1, V4.new_code_cell("\n".join(lines)))
    nbformat.write(notebook, lab.folder / f"{stem}.ipynb")
    return f"{stem}.ipynb"


def errors(cells):
    return [
        "\n".join(output["traceback"])
        for cell in cells
        for output in cell["outputs"]
        if output["output_type"] == "error"
    ]


def move_slider_and_wait(page, name):
    """Push a slider of notebook 00 by keys, until the figure shows other data."""
    data = """() => JSON.stringify(Array.from(
        document.querySelector('.perfkit-explorer .js-plotly-plot').data,
        trace => Array.from(trace.y._inputArray ?? trace.y)))"""
    page.locator(".perfkit-explorer").scroll_into_view_if_needed()
    page.locator(".perfkit-explorer .js-plotly-plot").wait_for()
    before = page.evaluate(data)
    handle = page.locator(f".perfkit-{name} .noUi-handle")
    handle.focus()
    for _ in range(4):
        handle.press("ArrowRight")
    page.wait_for_function(f"before => ({data})() !== before", arg=before)


def test_every_cell_of_a_notebook_runs_and_errors_are_seen(lab, run_all):
    cells = run_all(write(lab, "sum.ipynb", "print(6 * 7)", "1 / 0", "print('never')"))
    assert cells[0]["outputs"][0]["text"] in ("42\n", ["42\n"])
    assert "ZeroDivisionError" in errors(cells)[0]
    assert cells[2]["outputs"] == []


@pytest.mark.parametrize("stem", ["00_deconvolution_by_hand"])
def test_notebook_00_runs_and_its_sliders_redraw(stem, lab, run_all, page, tmp_path):
    cells = run_all(copy(lab, stem, out=str(tmp_path / "out")))
    assert errors(cells) == []
    move_slider_and_wait(page, "lambda_rel")
    page.screenshot(path=tmp_path / f"{stem}.png")


@pytest.mark.parametrize("stem", ["02_pick_an_aif"])
def test_notebook_02_runs_and_shows_the_picker(stem, lab, run_all, page, tmp_path, tiny_cohort):
    cells = run_all(copy(lab, stem, cohort=str(tiny_cohort), out=str(tmp_path / "out")))
    assert errors(cells) == []
    picker = page.get_by_test_id("picker").first
    picker.scroll_into_view_if_needed()
    picker.wait_for()
    page.screenshot(path=tmp_path / f"{stem}.png")
