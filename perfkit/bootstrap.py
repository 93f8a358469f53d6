"""Make perfkit's environment on the first start and find it on every later one.

Standard library only, and no syntax newer than Python 3.6: the interpreter at hand reads this file before
anything is installed, and has to come as far as the sentence that names the Python it takes.

The environment is ``.venv`` in the clone. Its stamp is written last: an environment without one is half-made,
and pip is run again; a stamp that does not fit (other requirements, a moved clone) says what to do.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from perfkit.installer import (
    SetupError,
    environment_python,
    install,
    locked,
    make_environment,
    remove,
    say,
    working_version,
)

ROOT = Path(__file__).resolve().parent.parent
OLDEST, TOO_NEW = (3, 11), (3, 14)  # requires-python of pyproject.toml
EXTRAS = ("cpu", "gpu")
DEFAULT_TESTS = "not slow and not gpu"
TEST_PROCESSES = 4  # at most; our choice: each holds a TensorFlow of its own, a gigabyte
STARTED = "PERFKIT_STARTED"


def ready(arguments, root=ROOT):
    """Return the arguments for the command line once perfkit can run in this interpreter.

    Otherwise make or repair ``.venv`` and start again inside it; then this call does not return.

    Parameters
    ----------
    arguments : what followed ``python3 -m perfkit``; a leading ``--gpu`` is taken out.
    root : the clone.
    """
    extra, arguments = wanted_extra(arguments, os.environ)
    again = os.environ.pop(STARTED, None)
    stamp = read_stamp(root)
    if inside(root) and fits(stamp, root, sys.version_info[:2], extra):
        return arguments
    # No stamp, yet complete: made by hand or by conda. A stamp that does not fit: the requirements changed.
    complete = supported(sys.version_info[:2]) and installed()
    if complete and not (inside(root) and stamp):
        return arguments
    if again:
        raise SetupError(
            "{} is complete but does not run as an environment of its own. Delete it and start again.".format(
                root / ".venv"
            )
        )
    if not (root / "pyproject.toml").is_file():
        raise SetupError(
            f"perfkit's requirements are not installed here, and {root} is no clone to set up. "
            "Try: python -m pip install 'perfkit[cpu]'"
        )
    version = working_version(environment_python(root))
    if why_rebuild(root, stamp, version) or not fits(stamp, root, version, extra):
        set_up(root, extra)
    return restart(environment_python(root), arguments)


def run_tests(arguments=(), root=ROOT):
    """Run the clone's tests with pytest; without ``-m`` of one's own, all but the slow and GPU ones.

    Parameters
    ----------
    arguments : passed on to pytest. Without any, the whole suite runs in as many processes as there are
        processors, at most four, each taking a file at a time.

    Returns
    -------
    pytest's exit status; 2 where there is nothing to run.
    """
    if not (root / "tests").is_dir():
        say(f"the tests come with a clone of the repository, and {root} has none.")
        return 2
    if not _installed_one("pytest"):
        say(f"pytest is not installed here. Try: {sys.executable} -m pip install -e '.[test]'")
        return 2
    marked = any(str(argument).startswith("-m") for argument in arguments)
    chosen = [] if marked else ["-m", DEFAULT_TESTS]
    processes = min(os.cpu_count() or 1, TEST_PROCESSES)
    if not arguments and processes > 1 and _installed_one("pytest-xdist"):
        chosen += ["-n", str(processes), "--dist", "loadfile"]
    return subprocess.call([sys.executable, "-m", "pytest", *chosen, *arguments], cwd=str(root))


# What is there already


def wanted_extra(arguments, environ):
    """Read ``--gpu`` and ``PERFKIT_EXTRA``: (extra or None, the remaining arguments)."""
    arguments = list(arguments)
    extra = environ.get("PERFKIT_EXTRA") or None
    while arguments and arguments[0] in ("--gpu", "--cpu"):
        extra = arguments.pop(0)[2:]
    if extra is not None and extra not in EXTRAS:
        raise SetupError(f"PERFKIT_EXTRA must be cpu or gpu, but is {extra!r}.")
    if extra == "gpu" and (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SetupError("TensorFlow's GPU packages exist for Linux on x86-64 only. Start without --gpu.")
    return extra, arguments


def supported(version):
    """Tell whether perfkit's requirements exist for a Python (major, minor)."""
    return OLDEST <= tuple(version) < TOO_NEW


def inside(root):
    """Tell whether this interpreter is the clone's own environment."""
    return os.path.realpath(sys.prefix) == os.path.realpath(str(root / ".venv"))


def installed():
    """Tell whether perfkit, all it requires and one tensor library are installed in this interpreter."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        required = [line for line in requires("perfkit") or () if ";" not in line]
    except PackageNotFoundError:
        return False
    names = [re.match(r"[\w.-]+", line).group() for line in required]
    backends = ("tensorflow", "tensorflow-cpu", "torch", "jax")
    return all(map(_installed_one, names)) and any(map(_installed_one, backends))


def _installed_one(name):
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def find_python(path=None):
    """Find a Python in range: this one, else 3.13, 3.12 or 3.11 on the PATH."""
    if supported(sys.version_info[:2]):
        return getattr(sys, "_base_executable", "") or sys.executable  # outlives a .venv that has to go
    folders = (os.environ.get("PATH", "") if path is None else path).split(os.pathsep)
    for name in ("python3.13", "python3.12", "python3.11"):
        for found in filter(None, (shutil.which(name, path=folder) for folder in folders if folder)):
            if supported(working_version(found) or (0, 0)):  # pyenv's shims exist but may not run
                return found
    raise SetupError(
        "Python 3.11, 3.12 or 3.13 is needed, but this is {}.{} and the PATH has no other. Install one "
        "(Debian, Ubuntu: apt-get install python3.12; conda env create -f environment.yml) and start "
        "again.".format(*sys.version_info[:2])
    )


# The stamp


def requirements_hash(root):
    """Hash what decides about the packages: metadata and constraints, not the settings of tools."""
    metadata = (root / "pyproject.toml").read_text(encoding="utf-8").split("\n[tool.")[0]
    constraints = (root / "constraints.txt").read_text(encoding="utf-8")
    return hashlib.sha256((metadata + "\0" + constraints).encode("utf-8")).hexdigest()


def read_stamp(root):
    """The stamp of a finished environment; {} where there is none or it is unreadable."""
    try:
        stamp = json.loads((root / ".venv" / ".perfkit-stamp").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def make_stamp(root, version, extra):
    """The stamp a finished environment carries."""
    return {
        "requirements": requirements_hash(root),
        "python": "{}.{}".format(*version),
        "root": os.path.realpath(str(root)),
        "extra": extra,
    }


def fits(stamp, root, version, extra=None):
    """Tell whether a stamp is today's; without a wish, either extra will do."""
    return bool(stamp) and stamp == make_stamp(root, version, extra or stamp.get("extra"))


def write_stamp(root, stamp):
    """Write the stamp in one step."""
    path = root / ".venv" / ".perfkit-stamp"
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(stamp), encoding="utf-8")
    os.replace(str(fresh), str(path))


# Setting up


def set_up(root, extra=None):
    """Make, repair or update ``.venv``, one process at a time."""
    base = find_python()
    try:
        with locked(root / ".venv.lock"):
            _set_up(root, extra, base)
    except OSError as error:
        raise SetupError(
            "{} cannot be made: {}. The clone must be writable, with about 3 GB free.".format(
                root / ".venv", error
            )
        ) from error


def _set_up(root, extra, base):
    python = environment_python(root)
    stamp, version = read_stamp(root), working_version(python)
    reason = why_rebuild(root, stamp, version)
    if not reason and fits(stamp, root, version, extra):
        return  # another process did it while we waited
    began = time.monotonic()
    if reason:
        say(f"{reason}; it is made anew.")
        remove(root / ".venv")
        stamp = {}
    extra = extra or stamp.get("extra") or "cpu"
    if not python.exists():
        say(f"making .venv in {root} with perfkit[{extra}]: some minutes and some GB of disk, once")
        make_environment(base, root)
    elif not stamp:
        say(".venv is not finished (an earlier start was stopped?): installing what is missing")
    else:
        say("the requirements have changed: updating .venv")
    if stamp:
        write_stamp(root, dict(stamp, requirements="being changed", extra=extra))
    install(root, base, extra)
    write_stamp(root, make_stamp(root, working_version(python), extra))
    say(f"ready after {time.monotonic() - began:.0f} s; later starts skip this")


def why_rebuild(root, stamp, version):
    """The sentence that says why ``.venv`` is of no use; None where there is none or it can be repaired."""
    venv = root / ".venv"
    if not os.path.lexists(str(venv)):
        return None
    if version is None:
        return ".venv has no Python that runs"
    if not supported(version):
        return ".venv holds Python {}.{}, but perfkit needs 3.11 to 3.13".format(*version)
    if not (venv / "pyvenv.cfg").is_file():
        return ".venv is no virtual environment"
    if stamp and stamp.get("root") != os.path.realpath(str(root)):
        return "the clone has moved, which .venv does not survive"
    if stamp and stamp.get("python") != "{}.{}".format(*version):
        return ".venv was made for Python {}, but holds {}.{}".format(stamp.get("python"), *version)
    return None


def restart(python, arguments):
    """Run perfkit in ``.venv`` in place of this process."""
    command = [str(python), "-m", "perfkit", *arguments]
    os.environ[STARTED] = "1"
    for name in ("PYTHONHOME", "__PYVENV_LAUNCHER__"):
        os.environ.pop(name, None)
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "nt":
        sys.exit(subprocess.call(command))
    os.execv(command[0], command)
