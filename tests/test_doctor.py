"""Each defect of an environment is found, with its remedy; a sound one gets no findings."""

import subprocess
import sys
from collections import namedtuple
from importlib.metadata import version

import pytest

from perfkit import doctor

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def packages(monkeypatch):
    """Name -> version, in place of what is installed."""
    installed = {"packaging": "26"}
    monkeypatch.setattr(doctor, "installed_version", installed.get)
    return installed


def only(findings):
    (finding,) = findings
    return finding


def test_this_environment_has_nothing_broken():
    assert not [finding for finding in doctor.diagnose() if finding.broken]


@pytest.mark.parametrize(
    ("running", "broken"), [((3, 10), True), ((3, 11), False), ((3, 13), False), ((3, 14), True)]
)
def test_python_out_of_range_is_broken(running, broken):
    assert [finding.broken for finding in doctor.check_python(running)] == [True] * broken


def test_both_flavours_of_tensorflow_are_broken(packages):
    packages.update({"tensorflow": "2.21.0", "tensorflow-cpu": "2.21.0"})
    finding = only(doctor.check_tensorflow())
    assert finding.broken
    assert "uninstall -y tensorflow tensorflow-cpu" in finding.remedy


@pytest.mark.parametrize("flavour", ["tensorflow", "tensorflow-cpu"])
def test_one_flavour_of_tensorflow_is_fine(packages, flavour):
    packages[flavour] = "2.21.0"
    assert doctor.check_tensorflow() == []


def test_no_tensorflow_is_broken(packages):
    assert only(doctor.check_tensorflow()).broken


def test_another_backend_is_fine_once_keras_is_told(packages, monkeypatch):
    packages["jax"] = "0.9"
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    finding = only(doctor.check_tensorflow())
    assert (finding.broken, "KERAS_BACKEND=jax" in finding.remedy) == (False, True)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert doctor.check_tensorflow() == []


def test_missing_and_outdated_requirements_are_broken(packages, monkeypatch):
    lines = [
        "numpy>=2.0",
        "scipy>=1.14",
        "tqdm>=4",
        "colorama; sys_platform == 'none'",
        "ruff; extra == 'test'",
    ]
    monkeypatch.setattr(doctor, "requires", lambda name: lines)
    packages.update(numpy="1.26.4", tqdm="4.70.1")
    says = [finding.says for finding in doctor.check_requirements()]
    assert says == ["numpy is 1.26.4, but perfkit needs >=2.0.", "scipy is missing."]


def test_perfkit_not_installed_is_broken(monkeypatch):
    def requires(name):
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", requires)
    assert "not installed" in only(doctor.check_requirements()).says


def test_other_versions_than_the_locked_are_a_hint(packages, tmp_path):
    locked = tmp_path / "constraints.txt"
    locked.write_text(
        "numpy==2.4.6 ; python_version < '3.0'\n"
        "numpy==2.5.5 ; python_version >= '3.0'\n"
        "scipy==1.18.1\n"
        "tqdm==4.70.1\n"
    )
    packages.update(numpy="2.5.5", scipy="1.17.0")
    finding = only(doctor.check_constraints(locked))
    assert not finding.broken
    assert "1 packages differ from constraints.txt: scipy 1.17.0 (==1.18.1)." in finding.says


def test_no_constraints_no_finding(tmp_path):
    assert doctor.check_constraints(tmp_path / "constraints.txt") == []


def test_no_browser_is_a_hint_that_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    finding = only(doctor.check_browser())
    assert not finding.broken
    assert "apt-get install chromium" in finding.remedy


def test_browser_named_by_the_user_wins(monkeypatch):
    monkeypatch.setenv("PERFKIT_CHROMIUM", sys.executable)
    assert doctor.find_browser() == sys.executable


def test_gpu_beside_the_cpu_flavour_is_a_hint(packages, monkeypatch):
    listing = "GPU 0: NVIDIA H200 (UUID: GPU-0)\n"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, listing))
    assert doctor.check_gpu() == []  # no CPU flavour
    packages["tensorflow-cpu"] = "2.21.0"
    finding = only(doctor.check_gpu())
    assert finding.says.startswith("NVIDIA H200 is here")
    assert "--gpu" in finding.remedy


def test_no_gpu_no_finding(packages, monkeypatch):
    packages["tensorflow-cpu"] = "2.21.0"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor.check_gpu() == []


def kernel(monkeypatch, *argv):
    import jupyter_client.kernelspec as kernelspec

    spec = kernelspec.KernelSpec(argv=list(argv))
    monkeypatch.setattr(kernelspec.KernelSpecManager, "get_kernel_spec", lambda self, name: spec)


@pytest.mark.parametrize("command", ["python", sys.executable])
def test_own_kernel_is_fine(monkeypatch, command):
    kernel(monkeypatch, command, "-m", "ipykernel_launcher")
    assert doctor.check_kernel() == []


def test_kernel_of_another_python_is_broken(monkeypatch):
    kernel(monkeypatch, "/opt/other/bin/python", "-m", "ipykernel_launcher")
    finding = only(doctor.check_kernel())
    assert finding.broken
    assert "/opt/other/bin/python" in finding.says


def test_data_folder_that_takes_no_files_is_broken(tmp_path):
    (tmp_path / "data").touch()
    finding = only(doctor.check_data_folder(tmp_path / "data"))
    assert finding.broken
    assert "PERFKIT_DATA" in finding.remedy


@pytest.mark.parametrize(("free", "broken"), [(1e12, []), (3e9, [False]), (1e8, [True])])
def test_disk_space(tmp_path, monkeypatch, free, broken):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: Usage(1e12, 0, free))
    assert [finding.broken for finding in doctor.check_data_folder(tmp_path)] == broken


@pytest.mark.parametrize("broken", [False, True])
def test_exit_status_tells_hints_from_what_is_broken(monkeypatch, capsys, broken):
    findings = [doctor.Finding("It rains.", "Take an umbrella.", broken)]
    monkeypatch.setattr(doctor, "diagnose", lambda: findings)
    assert doctor.main() == int(broken)
    assert "It rains.\n        Take an umbrella." in capsys.readouterr().out


def test_all_well_is_said(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "diagnose", list)
    assert doctor.main() == 0
    assert "All is well" in capsys.readouterr().out


def test_installed_version_reads_the_metadata():
    assert doctor.installed_version("numpy") == version("numpy")
    assert doctor.installed_version("no-such-package") is None
