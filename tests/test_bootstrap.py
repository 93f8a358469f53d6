"""The first start sets up, later ones do not; whatever state .venv is in, one start mends it.

Real interpreters and real virtual environments; only pip is a stub, found through PYTHONPATH, since the
real thing takes minutes (the test marked slow runs it).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest

from perfkit import bootstrap, installer

pytestmark = pytest.mark.skipif(os.name == "nt", reason="stubs are POSIX scripts")

ROOT = Path(__file__).parent.parent
STUB_PIP = """
import json, os, sys, time
if sys.argv[1] == "--version":
    sys.exit(0)
with open(os.environ["PIP_LOG"], "a") as log:
    log.write(json.dumps({"argv": sys.argv[1:], "prefix": sys.prefix}) + "\\n")
print("Collecting perfkit")
if os.environ.get("PIP_FAILS"):
    sys.exit("ERROR: no matching distribution")
time.sleep(float(os.environ.get("PIP_SECONDS", 0)))
"""


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python that has neither perfkit nor pip: the python3 of a newcomer."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True, with_pip=False)
    return folder / "bin" / "python"


class Clone:
    """A copy of the files that take part in the start, with a command line that only says what it got."""

    def __init__(self, folder, python):
        self.folder, self.python = folder, python
        self.log, self.stubs = folder.parent / "pip.log", folder.parent / "stubs"
        (folder / "perfkit").mkdir(parents=True)
        for name in ("__init__", "__main__", "bootstrap", "installer"):
            shutil.copy(ROOT / "perfkit" / f"{name}.py", folder / "perfkit")
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        (folder / "perfkit" / "cli.py").write_text(
            "import sys\ndef main():\n    print(sys.prefix, sys.argv[1:])\n"
        )
        self.stub("ensurepip", "raise ImportError")  # as on Debian without python3-venv
        self.stub("pip", "").with_name("__main__.py").write_text(STUB_PIP)

    def stub(self, package, source):
        (self.stubs / package).mkdir(parents=True, exist_ok=True)
        path = self.stubs / package / "__init__.py"
        path.write_text(source)
        return path

    def popen(self, *arguments, **environ):
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PERFKIT", "PYTHON"))},
            "PYTHONPATH": str(self.stubs),
            "PIP_LOG": str(self.log),
            **environ,
        }
        return subprocess.Popen(
            [self.python, "-m", "perfkit", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start(self, *arguments, **environ):
        process = self.popen(*arguments, **environ)
        out, err = process.communicate(timeout=60)
        return SimpleNamespace(out=out, err=err, status=process.returncode)

    @property
    def venv(self):
        return self.folder / ".venv"

    @property
    def installs(self):
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines]


@pytest.fixture
def clone(tmp_path, bare_python):
    return Clone(tmp_path / "a clone", bare_python)


def ran(clone, done, arguments):
    """Tell whether the command line ran inside .venv with these arguments."""
    return done.status == 0 and done.out == f"{clone.venv} {arguments}\n"


def test_first_start_installs_and_runs_the_command_in_the_environment(clone):
    done = clone.start("study", "--cases", "3")
    assert ran(clone, done, ["study", "--cases", "3"]), done.err
    (install,) = clone.installs
    assert install["argv"][0] == "install"
    assert install["argv"][-4:] == ["-c", "constraints.txt", "-e", ".[cpu,test]"]
    assert install["prefix"] == str(clone.venv)


def test_later_starts_do_not_install(clone):
    clone.start()
    for _ in range(2):
        done = clone.start("test")
        assert ran(clone, done, ["test"])
        assert done.err == ""
    assert len(clone.installs) == 1


@pytest.mark.parametrize(
    ("arguments", "environ", "extra"),
    [((), {}, "cpu"), (("--gpu",), {}, "gpu"), ((), {"PERFKIT_EXTRA": "gpu"}, "gpu")],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the gpu extra exists on Linux only")
def test_extra_is_chosen_before_the_command_and_kept(clone, arguments, environ, extra):
    assert ran(clone, clone.start(*arguments, "study", **environ), ["study"])
    assert ran(clone, clone.start("study"), ["study"])
    (install,) = clone.installs
    assert install["argv"][-1] == f".[{extra},test]"


@pytest.mark.skipif(sys.platform != "linux", reason="the gpu extra exists on Linux only")
def test_another_extra_takes_the_first_ones_tensorflow_away(clone):
    clone.start()
    (installer.site_packages(clone.folder) / "tensorflow_cpu-2.21.0.dist-info").mkdir()
    (installer.site_packages(clone.folder) / "tensorflow_cpu-2.21.0.dist-info" / "INSTALLER").touch()
    clone.start("--gpu")
    calls = [install["argv"] for install in clone.installs[1:]]
    assert calls[0] == ["uninstall", "--yes", "--quiet", "tensorflow", "tensorflow-cpu"]
    assert calls[1][-1] == ".[gpu,test]"


def test_start_killed_half_way_is_carried_on_by_the_next(clone):
    process = clone.popen(PIP_SECONDS="1")
    wait_for(lambda: clone.installs)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (clone.venv / "half-made").touch()
    done = clone.start("study")
    assert "not finished" in done.err
    assert ran(clone, done, ["study"])
    assert len(clone.installs) == 2
    assert (clone.venv / "half-made").exists()  # repaired, not made anew


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def test_two_first_starts_at_once_install_once(clone):
    first = clone.popen("one", PIP_SECONDS="1")
    wait_for(lambda: clone.installs)
    second = clone.start("two")
    out, _ = first.communicate()
    assert "waiting" in second.err
    assert ran(clone, second, ["two"])
    assert out == f"{clone.venv} ['one']\n"
    assert len(clone.installs) == 1


def test_pip_that_outlives_its_parent_keeps_the_lock(clone):
    process = clone.popen(PIP_SECONDS="2")
    wait_for(lambda: clone.installs)
    process.kill()
    process.communicate()
    assert "waiting" in clone.start().err


def break_python(clone):
    clone.folder.joinpath(".venv/bin/python").unlink()


def dangle_python(clone):
    break_python(clone)
    clone.folder.joinpath(".venv/bin/python").symlink_to("/nonexistent/python")


def old_python(clone):
    break_python(clone)
    stub_python(clone.folder / ".venv/bin/python", "3.10")


def no_environment(clone):
    clone.folder.joinpath(".venv/pyvenv.cfg").unlink()


def a_file(clone):
    shutil.rmtree(clone.venv)
    clone.venv.touch()


def a_link(clone):
    shutil.move(clone.venv, clone.folder / "elsewhere")
    clone.venv.symlink_to("nowhere")


def moved(clone):
    clone.folder = clone.folder.rename(clone.folder.with_name("moved"))


def stub_python(path, version):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_python, "no Python that runs"),
        (dangle_python, "no Python that runs"),
        (old_python, "holds Python 3.10"),
        (no_environment, "no virtual environment"),
        (a_file, "no Python that runs"),
        (a_link, "no Python that runs"),
        (moved, "the clone has moved"),
    ],
)
def test_useless_environment_is_made_anew_with_a_sentence(clone, damage, words):
    clone.start()
    (clone.venv / "remains").touch()
    damage(clone)
    done = clone.start("study")
    assert words in done.err
    assert ran(clone, done, ["study"])
    assert not (clone.venv / "remains").exists()
    assert ran(clone, clone.start("again"), ["again"])
    assert len(clone.installs) == 2


def test_environment_made_for_another_python_is_made_anew(clone):
    clone.start()
    stamp = clone.venv / ".perfkit-stamp"
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "python": "3.9"}))
    assert "was made for Python 3.9" in clone.start().err


def test_changed_requirements_run_pip_again_and_changed_tool_settings_do_not(clone):
    clone.start()
    settings = clone.folder / "pyproject.toml"
    settings.write_text(settings.read_text().replace("line-length = 110", "line-length = 90"))
    assert clone.start().err == ""
    with open(clone.folder / "constraints.txt", "a") as constraints:
        constraints.write("six==1.17.0\n")
    assert "requirements have changed" in clone.start().err
    assert len(clone.installs) == 2


def test_failing_pip_shows_its_words_one_sentence_and_leaves_no_stamp(clone):
    done = clone.start("study", PIP_FAILS="1")
    assert done.status == 1
    assert "ERROR: no matching distribution" in done.err
    assert "pip could not install the requirements" in done.err
    assert "Traceback" not in done.err
    assert not (clone.venv / ".perfkit-stamp").exists()
    assert ran(clone, clone.start("study"), ["study"])


def test_no_pip_at_all_names_the_debian_package(clone):
    clone.stub("pip", "raise ImportError")
    done = clone.start("study")
    assert done.status == 1
    assert "apt-get install python3-pip python3-venv" in done.err
    assert "Traceback" not in done.err


def test_folder_that_takes_no_files_is_told_in_words(clone):
    (clone.folder / ".venv.lock").mkdir()
    done = clone.start("study")
    assert done.status == 1
    assert "cannot be made" in done.err
    assert "Traceback" not in done.err


def test_wrong_extra_is_told_in_words(clone):
    done = clone.start("study", PERFKIT_EXTRA="tpu")
    assert done.status == 1
    assert "must be cpu or gpu, but is 'tpu'" in done.err


def test_complete_interpreter_runs_right_away(tmp_path):
    assert bootstrap.installed()
    assert bootstrap.ready(["--cpu", "study", "--gpu"], root=tmp_path) == ["study", "--gpu"]


def test_package_without_clone_and_requirements_says_how_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, "installed", lambda: False)
    with pytest.raises(bootstrap.SetupError, match="pip install"):
        bootstrap.ready(["study"], root=tmp_path)


def test_start_that_comes_back_incomplete_does_not_loop(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, "installed", lambda: False)
    monkeypatch.setenv(bootstrap.STARTED, "1")
    with pytest.raises(bootstrap.SetupError, match="Delete it"):
        bootstrap.ready(["study"], root=tmp_path)
    assert bootstrap.STARTED not in os.environ


@pytest.mark.parametrize(
    ("version", "answer"),
    [((3, 10), False), ((3, 11), True), ((3, 12), True), ((3, 13), True), ((3, 14), False), ((4, 0), False)],
)
def test_supported_pythons(version, answer):
    assert bootstrap.supported(version) is answer


@pytest.fixture
def old_interpreter(monkeypatch):
    monkeypatch.setattr(bootstrap, "sys", SimpleNamespace(version_info=(3, 9, 2), executable="python3"))


def test_newest_python_that_works_is_taken_from_the_path(tmp_path, old_interpreter):
    shim = stub_python(tmp_path / "shims" / "python3.13", "3.13")
    shim.write_text("#!/bin/sh\necho not installed >&2\nexit 127\n")
    stub_python(tmp_path / "usr" / "python3.11", "3.11")
    wanted = stub_python(tmp_path / "opt" / "python3.12", "3.12")
    path = os.pathsep.join(str(tmp_path / name) for name in ("shims", "usr", "opt"))
    assert bootstrap.find_python(path) == str(wanted)


def test_no_python_in_range_is_one_sentence(tmp_path, old_interpreter):
    with pytest.raises(bootstrap.SetupError, match=r"3\.12 or 3\.13 is needed, but this is 3\.9"):
        bootstrap.find_python(str(tmp_path))


def test_packages_without_installer_file_are_forgotten(tmp_path):
    for name in ("whole-1.dist-info", "half-2.dist-info"):
        (tmp_path / name).mkdir()
    (tmp_path / "whole-1.dist-info" / "INSTALLER").touch()
    installer.drop_half_installed(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["whole-1.dist-info"]


def test_progress_counts_what_pip_does(tmp_path):
    packages = tmp_path / ".venv" / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "pip-1.dist-info").mkdir()
    progress = installer.Progress(tmp_path)
    for line in ("Collecting numpy\n", "  Using cached numpy.whl\n", "Collecting scipy\n"):
        progress.read(line)
    assert "2 so far" in progress.words()
    progress.read("Installing collected packages: numpy, scipy\n")
    (packages / "numpy-2.dist-info").mkdir()
    assert "1 of 2 packages" in progress.words()


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        (("-x",), ["-m", "not slow and not gpu", "-x"]),
        (("-k", "dice", "--maxfail=1"), ["-m", "not slow and not gpu", "-k", "dice", "--maxfail=1"]),
        (("-m", "slow"), ["-m", "slow"]),
        (("-mslow",), ["-mslow"]),
    ],
)
def test_run_tests_leaves_the_slow_ones_out_unless_asked(monkeypatch, arguments, passed):
    calls = []
    monkeypatch.setattr(bootstrap.subprocess, "call", lambda command, cwd: calls.append((command, cwd)) or 5)
    assert bootstrap.run_tests(arguments) == 5
    assert calls == [([sys.executable, "-m", "pytest", *passed], str(ROOT))]


@pytest.mark.parametrize(
    ("processors", "passed"),
    [(1, []), (2, ["-n", "2", "--dist", "loadfile"]), (64, ["-n", "4", "--dist", "loadfile"])],
)
def test_the_whole_suite_takes_the_processors_there_are(monkeypatch, processors, passed):
    calls = []
    monkeypatch.setattr(bootstrap.os, "cpu_count", lambda: processors)
    monkeypatch.setattr(bootstrap.subprocess, "call", lambda command, cwd: calls.append(command) or 0)
    assert bootstrap.run_tests() == 0
    assert calls == [[sys.executable, "-m", "pytest", "-m", "not slow and not gpu", *passed]]


def test_run_tests_without_a_clone_says_so(tmp_path, capsys):
    assert bootstrap.run_tests(root=tmp_path) == 2
    assert "has none" in capsys.readouterr().err


@pytest.mark.slow
def test_fresh_clone_sets_itself_up_for_real(tmp_path, bare_python):
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "clone" / name)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PERFKIT", "PYTHON"))}
    options = {"cwd": tmp_path / "clone", "env": environment, "capture_output": True, "text": True}
    first = subprocess.run([bare_python, "-m", "perfkit", "--help"], timeout=1500, **options)
    assert first.returncode == 0, first.stderr
    assert "packages" in first.stderr  # progress in words
    second = subprocess.run([bare_python, "-m", "perfkit", "doctor"], timeout=60, **options)
    assert (second.returncode, second.stderr) == (0, ""), second.stdout
