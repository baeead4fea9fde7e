import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from elsewhere import NO_RIGHT

from ww_callbacks.worker import memory
from ww_callbacks.worker.snapshot_buffer import SnapshotBuffer

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_temporary_file_is_used_without_memfd_and_has_no_name(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(memory.tempfile, "tempdir", str(tmp_path))
    arrays = [np.random.default_rng(0).standard_normal((30, 20)), np.arange(11, dtype="u2")]
    buffer = SnapshotBuffer([(array.shape, array.dtype) for array in arrays], slots=2)
    assert list(tmp_path.iterdir()) == []
    slot = buffer.take([lambda array=array: array for array in arrays])
    for index, array in enumerate(arrays):
        np.testing.assert_array_equal(buffer.array(slot, index), array)
    buffer.close()


@linux_only
@pytest.mark.timeout(60)
def test_failed_allocation_raises_os_error_and_leaves_no_descriptor():
    # A limit on file sizes simulates a lack of memory, because filling the memory would kill other programs.
    script = """
import os, resource
import numpy as np
from ww_callbacks.worker.snapshot_buffer import SnapshotBuffer
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
before = os.listdir("/proc/self/fd")
try:
    SnapshotBuffer([((2**20,), np.dtype("f8"))], slots=1)
except OSError as error:
    print("OSError", os.listdir("/proc/self/fd") == before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (0, "OSError True\n"), done.stderr


@linux_only
@pytest.mark.timeout(60)
def test_temporary_file_is_used_if_shared_memory_is_full_with_one_log_line(tmp_path):
    """A small mount replaces anonymous memory, whose size cannot be limited."""
    script = f"""
import logging, os, sys
sys.path.append({str(Path(__file__).parents[1])!r})
from elsewhere import small_disk
small_disk({str(tmp_path)!r}, "1m")
os.memfd_create = lambda *_: os.open({str(tmp_path)!r}, os.O_TMPFILE | os.O_RDWR)
logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stdout)
import numpy as np
import ww_callbacks as ww
model = {{"fc": np.random.default_rng(0).standard_normal((400, 400))}}
with ww.Monitor(model, every_n_steps=1, deterministic=True) as monitor:
    for step in (1, 2):
        model["fc"] *= 2
        monitor.step(step)
assert [report["fc"].status for report in monitor.history] == ["ok"] * 3
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    if done.returncode == NO_RIGHT:
        pytest.skip("no right to mount")
    line = "cannot allocate 2 MiB of shared memory for the snapshots: [Errno 28] No space left on device\n"
    assert (done.returncode, done.stdout) == (0, line), done.stderr
