"""Modules form a stack: an import goes down, never up and never sideways; only tensor code needs Keras."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "perfkit"
LAYERS = [
    "__init__ paper parallel paths arrays checks nifti gamma brain midline drawing tables durable"
    " installer resample resampling scoretables archives notebookparameters privatekernel resources"
    " timing dicomheaders tensors ranking",
    "case clock curves masks operators readout corerule metrics annotations picktables bootstrap"
    " volumes patients unseen sidecars foundfiles anatomy recipe forward lesion scanner layout overlays"
    " agreement figureparts mapfiles meancurves export pages pictures resuming dicomtimes runfolder",
    "deconvolution tissuesample batchrecord batchchild scans isles24 bids scantable downloads"
    " motionscreen arteries dicomseries unitobrain blandaltman eligibility mixedmodel pairedtests power"
    " volumenoise",
    "layers losses motion dicomcase batchtask discovery calibration quality clusters recirculation readings",
    "conformal executors heads scanchecks gammaclusters hierarchy inputfunction mapreader dicomscans",
    "datasets phantom kudo augment network maps aif comparison preprocessing lesson views curvefigures"
    " batchdriver aiffigures volumefigures",
    "samples livetraining oracle estimators islesindex suggestions scanresult derivatives uncertainty"
    " perturbations",
    "trainsettings saliency casefiles metamorphic arms single departures ceilingfigures figures"
    " explorer pickerview wording placement raterviews datacheck coverage",
    "foldtraining aifeffect batchplan ceiling cohortaccuracy estimatorlab evaluation studyfigures"
    " casepages reporttables casetable headline",
    "training trainbench ceilingslices accuracy picker batch report raters methods published robustness",
    "study learnedstudy bench doctor session pickapp",
    "batchcli aifcli datacli studybench",
    "cli",
    "__main__",
]
LAYER = {module: level for level, row in enumerate(LAYERS) for module in row.split()}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))
TENSOR_ROWS = [  # may import Keras when they are imported
    "tensors layers losses heads network samples trainsettings",
    "foldtraining training saliency augment oracle ceiling ceilingslices __main__",
]
WITH_TENSORS = {module for row in TENSOR_ROWS for module in row.split()}


def imports_of(module):
    """(line, imported module of perfkit), function-local ones too; not those for type checkers alone."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    for node in nodes_that_run(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "perfkit"]
        elif isinstance(node, ast.ImportFrom) and (
            node.level or (node.module or "").split(".")[0] == "perfkit"
        ):
            base = (node.module or "") if not node.level else ".".join(filter(None, ["perfkit", node.module]))
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "perfkit" else [base]
        else:
            continue
        for name in names:
            target = [*name.split("."), "__init__"][1]
            yield node.lineno, target if target in MODULES else "__init__"


def nodes_that_run(tree):
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from (node for branch in child.orelse for node in ast.walk(branch))
            continue
        yield child
        yield from nodes_that_run(child)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    assert module in LAYER, f"{module} has no layer: add it to LAYERS"
    wrong = [
        f"{module}.py:{line} imports {target} (layer {LAYER.get(target)}) from layer {LAYER[module]}"
        for line, target in imports_of(module)
        if not LAYER.get(target, 99) < LAYER[module]
    ]
    assert not wrong


def test_the_table_names_no_module_twice():
    names = [module for row in LAYERS for module in row.split()]
    assert len(names) == len(set(names))


def test_the_reader_of_imports_sees_what_it_must(tmp_path, monkeypatch):
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from perfkit import case
else:
    import perfkit.maps
from perfkit import paper, curves as c
from . import masks
from .metrics import dice
def f():
    from perfkit.aif import select_aif
import perfkit
import numpy.paper
"""
    (tmp_path / "probe.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    monkeypatch.setattr(
        sys.modules[__name__], "MODULES", ["aif", "case", "curves", "maps", "masks", "metrics", "paper"]
    )
    seen = [target for _, target in imports_of("probe")]
    assert seen == ["maps", "paper", "curves", "masks", "metrics", "aif", "__init__"]


def test_exploring_and_comparing_do_not_import_tensorflow():
    light = [f"perfkit.{module}" for module in MODULES if module not in WITH_TENSORS]
    code = f"""
import importlib, sys
for name in {light}:
    importlib.import_module(name)
    heavy = {{"tensorflow", "keras", "torch", "jax"}} & set(sys.modules)
    assert not heavy, f"{{name}} imports {{heavy}}"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_perfkit_imports_nothing_heavy():
    code = "import sys, perfkit; print(sorted({'numpy', 'scipy', 'pandas', 'plotly'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", sorted(set(MODULES) - WITH_TENSORS))
def test_what_takes_seconds_to_import_is_imported_where_it_is_used(module):
    slow = {
        "tensorflow",
        "keras",
        "torch",
        "jax",
        "nilearn",
        "sklearn",
        "statsmodels",
        "matplotlib",
        "papermill",
        "distributed",
        "dask_jobqueue",
    }
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    at_the_top = {
        (alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not slow & at_the_top
