"""What a notebook declares is read as Python reads it; what it does not is refused with a near name."""

import json

import pytest

from perfkit.notebookparameters import read_parameters, source_hash

CELL = """# of the run
n: int = 3  # scans
lambda_rel: float = 0.3  # strength
matrix: str = "circulant"  # or volterra
show: bool = False
limit: int | None = None
arms: list[str] = ["cnn"]
untyped = 2
derived = n * 2
a, b = 1, 2
copy: str = ""  # a name that models of pydantic keep for themselves
"""


def notebook(path, source=CELL, *, tag="parameters", outputs=(), code="print(n)"):
    def cell(text, tags):
        common = {"execution_count": None, "outputs": list(outputs), "id": f"c{len(tags)}"}
        return common | {"cell_type": "code", "source": text, "metadata": {"tags": tags} if tags else {}}

    cells = [cell(source, [tag]), cell(code.splitlines(keepends=True), [])]
    content = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def declared(tmp_path):
    return read_parameters(notebook(tmp_path / "n.ipynb"))


def test_names_and_defaults_are_those_of_the_cell(declared):
    names = ["n", "lambda_rel", "matrix", "show", "limit", "arms", "untyped", "derived", "copy"]
    assert list(declared.types) == names
    assert declared.defaults == {
        "n": 3,
        "lambda_rel": 0.3,
        "matrix": "circulant",
        "show": False,
        "limit": None,
        "arms": ["cnn"],
        "untyped": 2,
        "copy": "",
    }


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n", "12", 12),
        ("n", "-1", -1),
        ("lambda_rel", "1e-2", 0.01),
        ("lambda_rel", "2", 2.0),
        ("matrix", "2", "2"),
        ("matrix", "", ""),
        ("show", "true", True),
        ("show", "no", False),
        ("limit", "5", 5),
        ("limit", "None", None),
        ("arms", "['a', 'b']", ["a", "b"]),
        ("untyped", "7", 7),
        ("derived", "x y", "x y"),
        ("copy", "b", "b"),
    ],
)
def test_text_is_converted(declared, name, text, value):
    (read,) = declared.check({name: text}).values()
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("n", "2.5", "n must be a whole number: '2.5' came. Its default is 3."),
        ("n", True, "n must be a whole number: True came"),
        ("n", "", "n must be a whole number"),
        ("lambda_rel", "nan", "lambda_rel must be a finite number: 'nan' came"),
        ("lambda_rel", float("inf"), "lambda_rel must be a finite number: inf came"),
        ("lambda_rel", "strong", "lambda_rel must be a finite number: 'strong' came"),
        ("show", "maybe", "show must be true or false"),
        ("matrix", 3, "matrix must be a text: 3 came"),
        ("untyped", "x", "untyped must be a whole number"),
        ("arms", "3", "arms must be list"),
        ("lamda_rel", "0.2", "lamda_rel is not. Did you mean lambda_rel?"),
        ("zzz", "0.2", "It declares n, lambda_rel"),
    ],
)
def test_what_does_not_fit_is_refused(declared, name, value, words):
    with pytest.raises(ValueError) as refusal:
        declared.check({name: value})
    assert words in str(refusal.value)


def test_the_place_of_a_wrong_value_can_be_named(declared):
    with pytest.raises(ValueError, match=r"^sets\.csv, line 4: the parameter n"):
        declared.check({"n": "x"}, where="sets.csv, line 4")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tag": "setup"}, "no cell is tagged `parameters`"),
        ({"source": "n: int = = 3"}, "must be plain Python"),
    ],
)
def test_a_notebook_without_readable_parameters_is_refused(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        read_parameters(notebook(tmp_path / "n.ipynb", **options))


def test_what_is_no_notebook_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a file"):
        read_parameters(tmp_path / "none.ipynb")
    (tmp_path / "text.ipynb").write_text("hello", encoding="utf-8")
    with pytest.raises(ValueError, match="not a notebook"):
        read_parameters(tmp_path / "text.ipynb")


def test_the_hash_is_that_of_the_source_alone(tmp_path):
    plain = source_hash(notebook(tmp_path / "a.ipynb"))
    said = {"output_type": "stream", "name": "stdout", "text": "3"}
    assert source_hash(notebook(tmp_path / "b.ipynb", outputs=[said])) == plain
    assert source_hash(notebook(tmp_path / "c.ipynb", code="print(n + 1)")) != plain
