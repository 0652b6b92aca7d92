"""The embedded cluster is private, is shared by everything in a process, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)


def _run(program: str, temporary: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=kept | {"TMPDIR": str(temporary)} | environment,
        capture_output=True,
        text=True,
    )


def test_embedded_cluster_is_private_and_cleans_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    # Ray's sockets need a short path; pytest's own folders are too long, which is what the fallback to /tmp is for.
    program = """
        import ray  # imported first, as a stage's module may do
        from rayloom.observe.ray_session import connect
        first = connect(object_store_bytes=100 << 20)
        assert first == connect() and first.is_embedded
        assert first.address.startswith("127.0.0.1:")
        assert ray.cluster_resources()["object_store_memory"] == 100 << 20
        import os, psutil
        family = [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]
        listening = [c for c in psutil.net_connections("inet") if c.status == "LISTEN" and c.pid in family]
        assert listening, "nothing listens: the check below would prove nothing"
        outside = [c.laddr for c in listening if c.laddr.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")]
        assert not outside, outside
        folder = ray._private.worker._global_node.get_temp_dir_path()
        from pathlib import Path
        assert Path(folder).parent.stat().st_mode & 0o077 == 0
        print(folder)
    """
    long_folder = tmp_path_factory.mktemp("a-folder-whose-name-is-too-long-for-the-path-of-a-socket")
    done = _run(program, long_folder)
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).exists()


@pytest.mark.parametrize(
    ("address", "expected"),
    [("ray://127.0.0.1:10001", "submit --address"), ("127.0.0.1:1", "No Ray cluster answers")],
)
def test_a_cluster_that_cannot_be_used_is_one_clear_error(tmp_path: Path, address: str, expected: str) -> None:
    program = """
        from rayloom.errors import ResourceError
        from rayloom.observe.ray_session import connect
        try:
            connect()
        except ResourceError as error:
            print(error)
    """
    done = _run(program, tmp_path, RAY_ADDRESS=address)
    assert expected in done.stdout, done.stderr
    assert address in done.stdout
