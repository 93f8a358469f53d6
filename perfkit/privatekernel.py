"""Kernels that nobody else can talk to: their sockets are files in a folder of their own.

Jupyter's default is TCP on the loopback, open to every user of the machine. Two kernels with one folder would
take each other's sockets, so each has its own.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

LONGEST = 80  # bytes; our choice: a socket's path must stay below 104 (macOS) or 108 (Linux) with its name


class PrivateKernelManager(AsyncKernelManager):
    """Start the kernel of this very interpreter, on sockets below ``JUPYTER_RUNTIME_DIR``."""

    def __init__(self, **options):
        if sys.platform != "win32":  # it has no such sockets
            folder = tempfile.mkdtemp(prefix="k", dir=os.environ["JUPYTER_RUNTIME_DIR"])
            options |= {"transport": "ipc", "ip": f"{folder}/k"}
        super().__init__(**options)

    @property
    def kernel_spec(self):
        """Give the spec of this interpreter, whatever "python3" means to the user's Jupyter."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def private_folder() -> Path:
    """Make a folder that only this user can enter, with a path short enough for sockets."""
    short = len(os.fsencode(tempfile.gettempdir())) < LONGEST - 20
    return Path(tempfile.mkdtemp(prefix="perfkit-", dir=None if short or sys.platform == "win32" else "/tmp"))
