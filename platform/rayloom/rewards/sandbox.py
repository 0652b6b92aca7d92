"""Runs Python code that nobody has read: no network, no files but Python's own, limits on time, memory and processes.

Linux namespaces make it (user, mount, network, processes), by `unshare` of util-linux: a root folder in memory with
Python's own files, read-only, and without any privilege. Where a machine does not allow them, nothing is run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field

from rayloom.errors import ResourceError
from rayloom.rewards.function_process import ENVIRONMENT

MOST_OUTPUT_BYTES = 1_000_000
MOST_PROCESSES = 32
_SECONDS_TO_START = 5.0
"""Of a loaded machine, until the code itself begins to run."""
_ROOT_IN_MEMORY = """
set -e
cd "$1"; shift
mount -t tmpfs -o size=64m,mode=755 sandbox .
cd "$PWD"
for folder in "$@"; do
  [ "$folder" = -- ] && break
  shift
  [ -d "$folder" ] || continue
  mkdir -p ".$folder"
  mount --bind "$folder" ".$folder"
  mount -o remount,bind,ro ".$folder"
done
shift
mkdir -p dev tmp old proc
chmod 1777 tmp
for device in null urandom; do : > dev/$device; mount --bind /dev/$device dev/$device; done
mount -t proc proc proc  # umount reads it
pivot_root . old
cd /
umount -l /old
umount -l /proc
cd /tmp
exec "$@"
"""
_APART = ["unshare", "--net", "--pid", "--ipc", "--mount", "--fork", "--kill-child"]
_POWERLESS = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
_AS_NOBODY = ["--reuid=65534", "--regid=65534", "--clear-groups"]
_WAYS = [([*_APART, "--user", "--map-root-user"], _POWERLESS)]
"""How namespaces are made, and how privileges are dropped in them."""
if os.geteuid() == 0:
    # Root needs no user namespace. The code is nobody's then: the limit on processes does not hold for root.
    _WAYS.insert(0, (_APART, [*_POWERLESS, *_AS_NOBODY]))
_FOLDERS = ("/usr", "/bin", "/lib", "/lib64", os.path.realpath(sys.base_prefix))


@dataclass(frozen=True)
class Ended:
    """How a program ended, and what it wrote to its standard output."""

    exit_code: int | None
    """None if it took too long."""
    output: str


@dataclass
class Sandbox:
    """Runs programs; ready only inside its block. Raises ResourceError where this machine does not allow it."""

    seconds: float
    memory_mb: int
    _folder: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory)
    _way: tuple[list[str], list[str]] = ([], [])

    def __enter__(self) -> Sandbox:
        said = []
        for self._way in _WAYS:
            ended = self.run("print('ready')")
            if ended.output == "ready\n":
                return self
            said.append(ended.output.strip())
        self.__exit__()
        what = f"This machine cannot run the code of answers apart from everything else: {'; '.join(said)}"
        fix = "It needs util-linux, and user namespaces (`unshare --user true` must work, in a container too)."
        raise ResourceError(what, fix=fix)

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def run(self, code: str, standard_input: str = "") -> Ended:
        """Runs the code with the base interpreter and the standard library alone."""
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                [*self._command(), "-c", code],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT | {"HOME": "/tmp", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                cwd="/",
                start_new_session=True,
            )
            try:
                process.communicate(standard_input.encode(), timeout=_SECONDS_TO_START + self.seconds)
                exit_code: int | None = process.returncode
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # unshare takes all processes of the namespace with it
                process.communicate()
                exit_code = None
            output.seek(0)
            return Ended(exit_code, output.read().decode(errors="replace"))

    def _command(self) -> list[str]:
        apart, powerless = self._way
        limits = ["prlimit", f"--as={self.memory_mb << 20}", f"--fsize={MOST_OUTPUT_BYTES}", "--core=0"]
        limits += [f"--nproc={MOST_PROCESSES}", f"--cpu={int(self.seconds) + 1}", "--nofile=64"]
        root = ["sh", "-c", _ROOT_IN_MEMORY, "sandbox", self._folder.name, *_FOLDERS, "--"]
        return [*apart, *root, *powerless, *limits, os.path.realpath(sys.executable), "-I", "-S"]
