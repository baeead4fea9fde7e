import gc
import mmap
import os
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from elsewhere import NO_RIGHT
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import ww_callbacks.worker.memory as memory
from ww_callbacks.worker.memory import SnapshotBuffer

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def layout(arrays):
    return [(array.shape, array.dtype) for array in arrays]


def reads(arrays):
    return [partial(lambda array: array, array) for array in arrays]


def example():
    rng = np.random.default_rng(0)
    return [rng.standard_normal((30, 20)), rng.standard_normal((5, 7, 3, 3)).astype("f4"), np.arange(11, dtype="u2")]


@pytest.fixture
def buffer():
    made = SnapshotBuffer(layout(example()), slots=2)
    yield made
    made.close()


def inode_of(buffer):
    return os.fstat(buffer.fd).st_ino


def holds(inode, pid="self"):
    """How many descriptors and mappings of a file a process has."""
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += entry.stat().st_ino == inode
        except FileNotFoundError:
            continue
    mapped = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return count + sum(line.split()[4] == str(inode) for line in mapped)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        hnp.arrays(
            st.sampled_from(["f8", "f4", "f2", "u2", "i1", "?", ">f4"]).map(np.dtype),
            hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 3),
)
def test_a_copy_equals_its_source_bit_for_bit(arrays, slots):
    buffer = SnapshotBuffer(layout(arrays), slots)
    try:
        for _ in range(slots):
            slot = buffer.take(reads(arrays))
            for index, array in enumerate(arrays):
                copy = buffer.array(slot, index)
                assert (copy.shape, copy.dtype) == (array.shape, array.dtype)
                assert copy.tobytes() == array.tobytes()
                del copy
        assert buffer.take(reads(arrays)) is None
    finally:
        buffer.close()


def test_sources_that_are_not_contiguous_are_copied_by_value():
    base = np.arange(240.0).reshape(4, 5, 3, 4)
    sources = [base.transpose(0, 3, 1, 2), base[::-1, ::2, 0, 0], np.broadcast_to(np.float32(2), (3, 3))]
    buffer = SnapshotBuffer(layout(sources), 1)
    slot = buffer.take(reads(sources))
    for index, source in enumerate(sources):
        np.testing.assert_array_equal(buffer.array(slot, index), source)
    buffer.close()


def test_a_copy_does_not_follow_its_source_and_slots_are_independent(buffer):
    arrays = example()
    first = buffer.take(reads(arrays))
    before = [array.copy() for array in arrays]
    for array in arrays:
        array += 1
    second = buffer.take(reads(arrays))
    assert first != second
    for index, (old, new) in enumerate(zip(before, arrays, strict=True)):
        np.testing.assert_array_equal(buffer.array(first, index), old)
        np.testing.assert_array_equal(buffer.array(second, index), new)


def test_arrays_of_a_buffer_do_not_overlap_and_lie_inside_it(buffer):
    slots = [buffer.take(reads(example())) for _ in range(2)]
    spans = sorted(
        (buffer.offset_of(array), buffer.offset_of(array) + array.nbytes)
        for array in (buffer.array(slot, index) for slot in slots for index in range(3))
    )
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert spans[-1][1] <= buffer.nbytes
    assert all(start % 64 == 0 for start, _ in spans)


def test_a_full_buffer_gives_none_reads_nothing_and_a_released_slot_is_used_again(buffer):
    slots = [buffer.take(reads(example())) for _ in range(2)]
    assert sorted(slots) == [0, 1]
    assert not buffer.has_free_slot
    assert buffer.take([lambda: pytest.fail("read although full")] * 3) is None
    addresses = [buffer.array(slots[0], index).ctypes.data for index in range(3)]
    buffer.release(slots[0])
    assert buffer.has_free_slot
    again = buffer.take(reads(example()))
    assert again == slots[0]
    assert [buffer.array(again, index).ctypes.data for index in range(3)] == addresses


@linux_only
@pytest.mark.linux_way
def test_the_memory_is_there_from_the_start_and_copies_need_no_more():
    array = np.ones((512, 1024))  # 4 MiB
    buffer = SnapshotBuffer(layout([array]), slots=2)

    def resident():
        text = Path("/proc/self/smaps").read_text()
        blocks = text.split("memfd:ww_callbacks")[1:]
        return sum(int(block.split("Rss:")[1].split()[0]) for block in blocks)

    assert os.fstat(buffer.fd).st_size == buffer.nbytes >= 2 * array.nbytes
    assert os.fstat(buffer.fd).st_blocks * 512 >= buffer.nbytes
    before = resident()
    assert before >= 2 * array.nbytes / 1024
    for _ in range(5):
        buffer.release(buffer.take(reads([array])))
    assert resident() == before
    buffer.close()


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((20, 30)),
        np.zeros((30, 20), "f4"),
        np.zeros((1, 20)),  # numpy would broadcast it
        np.zeros(()),
        np.zeros((30, 20), ">f8"),
    ],
    ids=["shape", "dtype", "broadcast", "scalar", "byte order"],
)
@pytest.mark.parametrize("place", [0, 2])
def test_another_shape_or_dtype_is_an_error_that_loses_no_slot(buffer, wrong, place):
    arrays = example()
    arrays[place] = wrong
    with pytest.raises(ValueError, match=r"^reads: expected .*got "):
        buffer.take(reads(arrays))
    assert [buffer.take(reads(example())) is None for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("count", [2, 4])
def test_another_number_of_arrays_is_an_error_that_loses_no_slot(buffer, count):
    with pytest.raises(ValueError, match=r"shorter|longer"):
        buffer.take(reads([*example(), np.ones(3)][:count]))
    assert [buffer.take(reads(example())) is None for _ in range(3)] == [False, False, True]


def test_a_source_that_cannot_be_read_loses_no_slot(buffer):
    def broken():
        raise OSError("device lost")

    with pytest.raises(OSError, match="device lost"):
        buffer.take([*reads(example())[:2], broken])
    assert [buffer.take(reads(example())) is None for _ in range(3)] == [False, False, True]


def test_offsets_are_those_that_another_mapping_of_the_file_sees(buffer):
    slots = [buffer.take(reads([array + slot for array in example()])) for slot in (0, 1)]
    with mmap.mmap(buffer.fd, 0, prot=mmap.PROT_READ) as other:
        for slot in slots:
            for index in range(3):
                mine = buffer.array(slot, index)
                offset = buffer.offset_of(mine)
                assert other[offset : offset + mine.nbytes] == mine.tobytes()


@pytest.mark.parametrize("foreign", [np.ones((3, 3)), np.ones(10**6)], ids=["small", "large"])
def test_foreign_arrays_have_no_offset(buffer, foreign):
    with pytest.raises(ValueError, match="not a view of this buffer"):
        buffer.offset_of(foreign)


@linux_only
@pytest.mark.parametrize("anonymous", [True, False], ids=["memfd", "temporary file"])
def test_closing_frees_the_memory_and_closing_again_is_harmless(anonymous, monkeypatch):
    if not anonymous:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    buffer = SnapshotBuffer(layout(example()), slots=2)
    fd, inode = buffer.fd, inode_of(buffer)
    assert holds(inode) >= 2  # a descriptor and the mapping
    buffer.take(reads(example()))
    buffer.close()
    assert holds(inode) == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    buffer.close()
    assert buffer.take(reads(example())) is None


@linux_only
def test_views_that_are_alive_survive_the_end_of_the_buffer_and_then_free_it():
    buffer = SnapshotBuffer(layout(example()), slots=1)
    inode = inode_of(buffer)
    view = buffer.array(buffer.take(reads(example())), 0)
    buffer.close()
    np.testing.assert_array_equal(view, example()[0])
    view[0, 0] = 5.0
    del view, buffer
    gc.collect()
    assert holds(inode) == 0


@linux_only
def test_a_buffer_that_is_dropped_unclosed_leaves_nothing_behind():
    buffer = SnapshotBuffer(layout(example()), slots=1)
    inode = inode_of(buffer)
    del buffer
    gc.collect()
    assert holds(inode) == 0


def test_a_temporary_file_serves_as_well_and_has_no_name(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(memory.tempfile, "tempdir", str(tmp_path))
    buffer = SnapshotBuffer(layout(example()), slots=2)
    assert list(tmp_path.iterdir()) == []
    slot = buffer.take(reads(example()))
    for index, array in enumerate(example()):
        np.testing.assert_array_equal(buffer.array(slot, index), array)
    buffer.close()


@linux_only
@pytest.mark.timeout(60)
def test_memory_that_is_not_to_be_had_is_an_os_error_and_leaves_no_descriptor():
    # A limit on file sizes stands for too little memory: really filling it would be the end of other programs.
    script = """
import os, resource
import numpy as np
from ww_callbacks.worker.memory import SnapshotBuffer
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
def test_where_shared_memory_is_too_small_a_temporary_file_serves_and_one_line_says_so(tmp_path):
    """A small mount takes the place of anonymous memory, which no mount limits."""
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
with ww.Monitor(model, every_n_steps=1, when_busy="wait") as monitor:
    for step in (1, 2):
        model["fc"] *= 2
        monitor.step(step)
assert [report["fc"].status for report in monitor.history] == ["ok"] * 3
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    if done.returncode == NO_RIGHT:
        pytest.skip("no right to mount")
    line = "no 2 MiB of shared memory for the snapshots ([Errno 28] No space left on device)\n"
    assert (done.returncode, done.stdout) == (0, line), done.stderr


@linux_only
@pytest.mark.timeout(30)
@pytest.mark.parametrize("anonymous", [True, False], ids=["memfd", "temporary file"])
def test_a_forked_child_holds_nothing_of_it_and_the_parent_keeps_it(anonymous, monkeypatch):
    if not anonymous:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    buffer = SnapshotBuffer(layout(example()), slots=2)
    slot = buffer.take(reads(example()))
    inode = inode_of(buffer)
    assert holds(inode) >= 2
    ready_read, ready_write = os.pipe()
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover
        os.write(ready_write, b"x")
        os.read(go_read, 1)
        os._exit(0)
    try:
        os.read(ready_read, 1)
        assert holds(inode, pid) == 0
        for index, array in enumerate(example()):
            np.testing.assert_array_equal(buffer.array(slot, index), array)
        assert os.fstat(buffer.fd).st_size == buffer.nbytes
    finally:
        os.write(go_write, b"x")
        os.waitpid(pid, 0)
        for fd in (ready_read, ready_write, go_read, go_write):
            os.close(fd)
        buffer.close()
