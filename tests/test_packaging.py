"""One source of truth: metadata, constraints, conda file, README and CI agree."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from perfkit import bootstrap

ROOT = Path(__file__).parent.parent
ASKED_FOR = {"jupyterlab", "tensorflow", "ipywidgets", "nibabel", "plotly", "papermill", "statsmodels"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
COMMANDS = ("python3 -m perfkit study", "python3 -m perfkit test")


def environments():
    """Marker environments of the systems and Pythons we support."""
    systems = [
        ("linux", "Linux", "posix", "x86_64"),
        ("linux", "Linux", "posix", "aarch64"),
        ("darwin", "Darwin", "posix", "arm64"),
        ("win32", "Windows", "nt", "AMD64"),
    ]
    for sys_platform, platform_system, os_name, platform_machine in systems:
        for minor in (11, 12, 13):
            yield {
                "sys_platform": sys_platform,
                "platform_system": platform_system,
                "os_name": os_name,
                "platform_machine": platform_machine,
                "python_version": f"3.{minor}",
                "python_full_version": f"3.{minor}.9",
                "extra": "",
            }


def pins(environment):
    """Package -> pinned specifier under one environment; a package pinned twice is an error."""
    found = {}
    for pin in map(Requirement, CONSTRAINTS):
        if pin.marker is None or pin.marker.evaluate(environment):
            assert pin.name not in found, f"{pin.name} is pinned twice for {environment}"
            found[canonicalize_name(pin.name)] = pin.specifier
    return found


def direct(*extras):
    lines = PROJECT["dependencies"] + [
        line for extra in extras for line in PROJECT["optional-dependencies"][extra]
    ]
    return [Requirement(line) for line in lines]


def conda_file():
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def conda_pip_lines():
    (section,) = [entry["pip"] for entry in conda_file()["dependencies"] if isinstance(entry, dict)]
    return section


def blocks(path):
    """The fenced code blocks of a Markdown file, each a list of lines."""
    found = re.findall(
        r"^```\w*\n(.*?)^```$", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    return [block.splitlines() for block in found]


def test_constraints_hold_no_address():
    for line in CONSTRAINTS:
        assert not re.search(r"://|@|--|\bfile:|\.(com|org|net|io|whl)\b", line), line
        assert {operator.operator for operator in Requirement(line).specifier} == {"=="}, line


@pytest.mark.parametrize("name", ["pyproject.toml", "environment.yml", ".pre-commit-config.yaml", ".ci/run"])
def test_no_package_index_is_named(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"index-url|find-links|trusted-host|https?://", text)


@pytest.mark.parametrize(
    "environment", list(environments()), ids=lambda e: "{sys_platform}-{python_version}".format(**e)
)
def test_every_direct_dependency_is_pinned_within_its_range(environment):
    pinned = pins(environment)
    for requirement in direct("cpu", "gpu", "test"):
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        (pin,) = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin.version), f"{requirement} against {pin}"


@pytest.mark.parametrize(
    "environment", list(environments()), ids=lambda e: "{sys_platform}-{python_version}".format(**e)
)
def test_each_extra_brings_one_flavour_of_tensorflow(environment):
    for extra in ("cpu", "gpu"):
        lines = map(Requirement, PROJECT["optional-dependencies"][extra])
        flavours = [line.name for line in lines if line.marker.evaluate(environment)]
        gpu_exists = (environment["sys_platform"], environment["platform_machine"]) == ("linux", "x86_64")
        assert len(flavours) == (1 if extra == "cpu" or gpu_exists else 0)


def test_bootstrap_and_conda_take_the_pythons_of_the_metadata():
    oldest, too_new = ("{}.{}".format(*version) for version in (bootstrap.OLDEST, bootstrap.TOO_NEW))
    assert PROJECT["requires-python"] == f">={oldest},<{too_new}"
    assert f"python {PROJECT['requires-python']}" in conda_file()["dependencies"]


def test_conda_file_names_the_packages_users_asked_for():
    lines = [line for line in conda_pip_lines() if not line.startswith("-")]
    assert {Requirement(line).name for line in lines} - {"tensorflow-cpu"} == ASKED_FOR


def test_conda_file_installs_this_clone_under_the_constraints():
    options = [line for line in conda_pip_lines() if line.startswith("-")]
    assert options == ["-c constraints.txt", "-e .[test]"]
    assert conda_file()["channels"] == ["conda-forge"]


@pytest.mark.parametrize(
    "environment", list(environments()), ids=lambda e: "{sys_platform}-{python_version}".format(**e)
)
def test_conda_file_takes_one_flavour_of_tensorflow_and_only_what_the_metadata_allow(environment):
    lines = [Requirement(line) for line in conda_pip_lines() if not line.startswith("-")]
    taken = [line for line in lines if line.marker is None or line.marker.evaluate(environment)]
    assert len([line for line in taken if line.name.startswith("tensorflow")]) == 1
    required = {canonicalize_name(requirement.name) for requirement in direct("cpu")}
    assert {canonicalize_name(line.name) for line in taken} <= required
    assert {line.name for line in taken} <= set(pins(environment))


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_gives_each_command_a_block_of_its_own(command):
    assert [command] in blocks(ROOT / "README.md")


def test_ci_calls_the_test_command_of_the_readme():
    script = ROOT / ".ci" / "run"
    (tests,) = [block for block in blocks(ROOT / "README.md") if block[0].endswith("perfkit test")]
    assert script.read_text(encoding="utf-8").splitlines()[-1:] == tests
    assert "export CI=true" in script.read_text(encoding="utf-8")
    assert os.name == "nt" or os.access(script, os.X_OK)


@pytest.mark.parametrize("name", ["__init__", "__main__", "bootstrap", "installer"])
def test_an_old_interpreter_can_read_what_runs_before_the_version_check(name):
    source = (ROOT / "perfkit" / f"{name}.py").read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 6))
    futures = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    assert not futures  # `annotations` came with 3.7


def test_wheel_version_is_the_package_version():
    import perfkit

    assert perfkit.__version__ == PROJECT["version"]


def test_files_the_readme_names_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for place in re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r"`(data/README\.md|LICENSE)`", text):
        assert (ROOT / place).is_file(), place


def test_readme_says_early_that_this_is_not_for_clinical_use():
    assert "not for clinical use" in (ROOT / "README.md").read_text(encoding="utf-8")[:1000].lower()


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")], ids=" ".join)
def test_code_and_notebooks_are_clean_for_ruff(arguments):
    places = [str(ROOT / name) for name in ("perfkit", "tests", "notebooks")]
    command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", *places]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
