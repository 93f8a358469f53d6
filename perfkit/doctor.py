"""Say what is wrong with an environment, and what would cure it; imports none of what it examines."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from perfkit import bootstrap, paths

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
BROWSER_HELP = (
    "Debian, Ubuntu: apt-get install chromium. macOS: brew install --cask google-chrome. "
    "Elsewhere: install Chrome, or set PERFKIT_CHROMIUM to the browser's path."
)
LITTLE_DISK, NO_DISK = 5e9, 0.5e9  # bytes; our choice: a `small` study, and hardly a single case


@dataclass(frozen=True)
class Finding:
    """One sentence about the environment and its remedy; ``broken`` where perfkit cannot work as it is."""

    says: str
    remedy: str = ""
    broken: bool = False

    def __str__(self):
        sign = "broken" if self.broken else "hint"
        return f"{sign:>6}: {self.says}" + (f"\n        {self.remedy}" if self.remedy else "")


def diagnose(root: Path = bootstrap.ROOT) -> list[Finding]:
    """Examine Python, packages, browser, GPU, disk, JupyterLab's kernel and the data folder.

    Parameters
    ----------
    root : the clone, with its ``constraints.txt``.

    Returns
    -------
    Findings, the broken first; empty where all is well.
    """
    findings = [
        *check_python(sys.version_info[:2]),
        *check_tensorflow(),
        *check_requirements(),
        *check_constraints(root / "constraints.txt"),
        *check_browser(),
        *check_gpu(),
        *check_kernel(),
        *check_data_folder(paths.data_folder()),
    ]
    return sorted(findings, key=lambda finding: not finding.broken)


def main() -> int:
    """Print the findings; 1 where something is broken, else 0."""
    findings = diagnose()
    for finding in findings:
        print(finding)
    if not findings:
        print(f"All is well: Python {sys.version.split()[0]} in {sys.prefix}.")
    return int(any(finding.broken for finding in findings))


def check_python(running: tuple[int, int]) -> list[Finding]:
    """Hold the interpreter's (major, minor) against the supported range."""
    if bootstrap.supported(running):
        return []
    says = "This is Python {}.{}, but perfkit runs on 3.11, 3.12 and 3.13.".format(*running)
    return [Finding(says, "Start `python3.12 -m perfkit doctor`, or any of the three.", broken=True)]


def check_tensorflow() -> list[Finding]:
    """Exactly one flavour of TensorFlow, unless another backend of Keras is there."""
    flavours = [name for name in ("tensorflow", "tensorflow-cpu") if installed_version(name)]
    if len(flavours) == 2:
        says = "tensorflow and tensorflow-cpu are both installed; they overwrite each other's files."
        cure = (
            f"{pip()} uninstall -y tensorflow tensorflow-cpu; then install one: perfkit's extra cpu or gpu."
        )
        return [Finding(says, cure, broken=True)]
    if flavours:
        return []
    others = [name for name in ("jax", "torch") if installed_version(name)]
    if others and os.environ.get("KERAS_BACKEND") in others:
        return []
    says = "No TensorFlow is installed: maps and pickers work, the network does not."
    cure = f"{pip()} install -c constraints.txt -e '.[cpu]'"
    if others:
        cure += f", or set KERAS_BACKEND={others[0]}"
    return [Finding(says, cure, broken=not others)]


def check_requirements() -> list[Finding]:
    """What perfkit requires is installed, in a version its metadata allows."""
    try:
        lines = requires("perfkit") or []
    except PackageNotFoundError:
        says = f"perfkit itself is not installed in {sys.prefix}."
        return [Finding(says, f"{pip()} install -c constraints.txt -e '.[cpu,test]'", broken=True)]
    if installed_version("packaging") is None:
        return [Finding("packaging is missing.", f"{pip()} install -c constraints.txt -e .", broken=True)]
    findings = []
    for requirement in map(parse_requirement, lines):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = installed_version(requirement.name)
        if found is None:
            says = f"{requirement.name} is missing."
        elif not requirement.specifier.contains(found, prereleases=True):
            says = f"{requirement.name} is {found}, but perfkit needs {requirement.specifier}."
        else:
            continue
        findings.append(Finding(says, f"{pip()} install -c constraints.txt -e .", broken=True))
    return findings


def check_constraints(path: Path) -> list[Finding]:
    """Hold the installed versions against the locked ones; other versions may work, but were not tried."""
    if not path.is_file() or installed_version("packaging") is None:
        return []
    differing = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        wanted = parse_requirement(line)
        found = installed_version(wanted.name)
        applies = wanted.marker is None or wanted.marker.evaluate()
        if applies and found and not wanted.specifier.contains(found, prereleases=True):
            differing.append(f"{wanted.name} {found} ({wanted.specifier})")
    if not differing:
        return []
    says = f"{len(differing)} packages differ from constraints.txt: {', '.join(differing)}."
    return [Finding(says, f"To get the tested versions: {pip()} install -c constraints.txt -e '.[cpu,test]'")]


def check_browser() -> list[Finding]:
    """Chromium or Chrome, for saving figures as images and for the browser tests."""
    if find_browser():
        return []
    says = "No Chromium or Chrome was found: figures are not saved as images, browser tests do not run."
    return [Finding(says, BROWSER_HELP)]


def find_browser() -> str | None:
    """Path of Chromium or Chrome: ``PERFKIT_CHROMIUM``, the PATH, the usual places; None without one."""
    asked = os.environ.get("PERFKIT_CHROMIUM", "")
    usual = (
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    )
    return next((found for found in map(shutil.which, (asked, *BROWSERS, *usual)) if found), None)


def check_gpu() -> list[Finding]:
    """A GPU beside a TensorFlow that cannot use it."""
    if not installed_version("tensorflow-cpu") or not (smi := shutil.which("nvidia-smi")):
        return []
    try:
        listed = subprocess.run([smi, "-L"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    if not (names := re.findall(r"^GPU \d+: (.+?)(?: \(|$)", listed, flags=re.MULTILINE)):
        return []
    says = f"{names[0]} is here, but the CPU flavour of TensorFlow is installed."
    return [Finding(says, "`python3 -m perfkit --gpu doctor` puts the GPU flavour into .venv.")]


def check_kernel() -> list[Finding]:
    """The kernel that notebooks name, "python3", must be this interpreter."""
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError:
        return []  # check_requirements has said it
    try:
        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return [Finding('JupyterLab has no kernel "python3".', f"{pip()} install ipykernel", broken=True)]
    if not os.path.isabs(command) or same_environment(command, sys.executable):
        return []  # a bare "python" stands for the interpreter that runs JupyterLab
    says = f'JupyterLab\'s kernel "python3" runs {command}, not {sys.executable}.'
    return [Finding(says, f"{sys.executable} -m ipykernel install --sys-prefix", broken=True)]


def same_environment(one: str, other: str) -> bool:
    """Tell whether two interpreters lie in one folder; their links may lead to one Python all the same."""
    return os.path.realpath(os.path.dirname(one)) == os.path.realpath(os.path.dirname(other))


def check_data_folder(folder: Path) -> list[Finding]:
    """The folder of cohorts and runs takes files, and has room for some."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        cure = "Give yourself the right to write there, or set PERFKIT_DATA to a folder of yours."
        return [Finding(f"The data folder {folder} takes no files: {error}.", cure, broken=True)]
    if free >= LITTLE_DISK:
        return []
    says = f"{folder} has {free / 1e9:.1f} GB left."
    return [Finding(says, "Free some, or set PERFKIT_DATA to a larger disk.", broken=free < NO_DISK)]


def installed_version(name: str) -> str | None:
    """Version of an installed package; None without it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def parse_requirement(line: str):
    """Read one line of metadata or constraints."""
    from packaging.requirements import Requirement

    return Requirement(line)


def pip() -> str:
    """The words that start this interpreter's pip."""
    return f"{sys.executable} -m pip"
