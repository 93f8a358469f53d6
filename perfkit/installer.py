"""Install perfkit's requirements into ``.venv`` with pip, telling the progress in words.

Standard library only, and no syntax newer than Python 3.6, like bootstrap.py, which calls it.
"""

import os
import platform
import queue
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

HEARTBEAT = 10.0  # s; our choice: silence longer than this looks like a hang


class SetupError(Exception):
    """Setting up is impossible; the message says why and what would do."""


def environment_python(root):
    """Path of the interpreter in the clone's environment, whether it exists or not."""
    return root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def working_version(python):
    """(major, minor) of an interpreter, found by running it; None where it does not run."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        out = subprocess.run(
            [str(python), "-I", "-S", "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=30,
        ).stdout
        return tuple(int(part) for part in out.decode().split("."))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def make_environment(base, root):
    """Make an empty ``.venv``; Debian without python3-venv has no pip to put into it."""
    whole = _runs([base, "-c", "import ensurepip"])
    command = [base, "-m", "venv", str(root / ".venv")] + ([] if whole else ["--without-pip"])
    if subprocess.call(command) != 0:
        raise SetupError(f"{base} -m venv failed. On Debian, try: apt-get install python3-venv python3-pip")


def pip_command(root, base):
    """The pip that installs into ``.venv``: its own, else the base interpreter's."""
    python = str(environment_python(root))
    own = [python, "-m", "pip"]
    if _runs([*own, "--version"]) or (_runs([python, "-m", "ensurepip"]) and _runs([*own, "--version"])):
        return own
    if _runs([base, "-m", "pip", "--version"]):
        return [base, "-m", "pip", "--python", python]
    raise SetupError(f"{base} has no pip. On Debian, try: apt-get install python3-pip python3-venv")


def _runs(command):
    return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def install(root, base, extra):
    """Install the constrained requirements and perfkit itself, editable, into ``.venv``."""
    pip = pip_command(root, base)
    drop_half_installed(site_packages(root))
    if other_tensorflow(site_packages(root), extra):
        subprocess.call([*pip, "uninstall", "--yes", "--quiet", "tensorflow", "tensorflow-cpu"])
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    wanted = ["-c", "constraints.txt", "-e", f".[{extra},test]"]
    status, tail = run_pip([*pip, "install", *options, *wanted], root)
    if status != 0:
        sys.stderr.write("".join(tail))
        raise SetupError(
            "pip could not install the requirements: its last words stand above. Is the network, or a folder "
            "of wheels (PIP_FIND_LINKS), within reach? The next start carries on from here."
        )


def site_packages(root):
    """Where ``.venv`` keeps its packages."""
    pattern = "Lib/site-packages" if os.name == "nt" else "lib/python*/site-packages"
    return next(iter(sorted((root / ".venv").glob(pattern))), root / ".venv")


def drop_half_installed(folder):
    """Forget packages whose installation was cut short, since pip would take them for complete.

    pip writes a package's INSTALLER after its files.
    """
    for info in folder.glob("*.dist-info"):
        if not (info / "INSTALLER").is_file():
            shutil.rmtree(str(info))


def other_tensorflow(folder, extra):
    """Tell whether the other extra's TensorFlow is installed: both flavours write the same folder."""
    if sys.platform == "darwin" or platform.machine() in ("aarch64", "arm64"):
        return False  # one flavour serves both extras
    other = "tensorflow" if extra == "cpu" else "tensorflow_cpu"
    return any(folder.glob(f"{other}-*.dist-info"))


def run_pip(command, root):
    """Run pip, telling its progress in words; return its status and its last lines."""
    environ = dict(os.environ, PIP_USER="0", PYTHONUNBUFFERED="1")
    process = subprocess.Popen(
        command,
        cwd=str(root),
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        errors="replace",
        close_fds=False,  # pip holds the lock too: should we be killed, the next start waits for its end
    )
    lines = queue.Queue()
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    try:
        tail = _tell(lines, Progress(root))
    except BaseException:
        process.terminate()
        raise
    finally:
        process.wait()
    return process.returncode, tail


def _pump(stream, lines):
    for line in stream:
        lines.put(line)
    lines.put(None)


def _tell(lines, progress):
    tail, last = [], time.monotonic()
    while True:
        try:
            line = lines.get(timeout=1.0)
        except queue.Empty:
            line = ""
        if line is None:
            return tail
        if line:
            tail = ([*tail, line])[-25:]
            progress.read(line)
        if time.monotonic() - last >= HEARTBEAT:
            last = time.monotonic()
            say(progress.words())


class Progress:
    """What pip is at, from its output and, while it installs in silence, from the packages on disk."""

    def __init__(self, root):
        self.root, self.began = root, time.monotonic()
        self.found, self.total, self.doing = 0, 0, "starting pip"

    def read(self, line):
        """Take in one line of pip's output."""
        if line.startswith("Collecting "):
            self.found += 1
            self.doing = f"fetching packages: {self.found} so far"
        elif line.startswith("Installing collected packages:"):
            self.total = line.count(",") + 1
            self.before = self._on_disk()

    def words(self):
        """One line for the reader."""
        if self.total:
            done = min(max(self._on_disk() - self.before, 0), self.total)
            self.doing = f"unpacking and compiling: {done} of {self.total} packages"
        return f"  {time.monotonic() - self.began:3.0f} s  {self.doing}"

    def _on_disk(self):
        return len(list(site_packages(self.root).glob("*.dist-info")))


@contextmanager
def locked(path):
    """Hold a lock file; a second process waits, and says so."""
    with open(str(path), "a+") as file:
        if os.name != "nt":
            os.set_inheritable(file.fileno(), True)
        told = False
        while not _try_lock(file):
            if not told:
                say("another start is setting up .venv: waiting for it")
            told = True
            time.sleep(0.2)
        yield


def _try_lock(file):
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def say(sentence):
    """Tell the reader on stderr, so that a command's output stays clean."""
    sys.stderr.write(f"perfkit: {sentence}\n")
    sys.stderr.flush()


def remove(path):
    """Remove a file, link or folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(str(path))
    else:
        path.unlink()
