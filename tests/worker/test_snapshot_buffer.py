import gc
import mmap
import os
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ww_callbacks.worker.snapshot_buffer import SnapshotBuffer

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
    """Device and inode: files on other devices, such as libraries, may have the same inode."""
    status = os.fstat(buffer.fd)
    return status.st_dev, status.st_ino


def holds(inode, pid="self"):
    """Number of descriptors and mappings of a file in a process."""
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            status = entry.stat()
            count += (status.st_dev, status.st_ino) == inode
        except FileNotFoundError:
            continue
    device, number = inode
    place = [f"{os.major(device):02x}:{os.minor(device):02x}", str(number)]
    mapped = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return count + sum(line.split()[3:5] == place for line in mapped)


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
def test_copy_equals_its_source_bitwise(arrays, slots):
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


def test_non_contiguous_sources_are_copied():
    base = np.arange(240.0).reshape(4, 5, 3, 4)
    sources = [base.transpose(0, 3, 1, 2), base[::-1, ::2, 0, 0], np.broadcast_to(np.float32(2), (3, 3))]
    buffer = SnapshotBuffer(layout(sources), 1)
    slot = buffer.take(reads(sources))
    for index, source in enumerate(sources):
        np.testing.assert_array_equal(buffer.array(slot, index), source)
    buffer.close()


def test_copies_are_independent_of_sources_and_other_slots(buffer):
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


def test_arrays_do_not_overlap_and_are_inside_the_buffer(buffer):
    slots = [buffer.take(reads(example())) for _ in range(2)]
    spans = sorted(
        (buffer.offset_of(array), buffer.offset_of(array) + array.nbytes)
        for array in (buffer.array(slot, index) for slot in slots for index in range(3))
    )
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert spans[-1][1] <= buffer.nbytes
    assert all(start % 64 == 0 for start, _ in spans)


def test_full_buffer_reads_nothing_and_released_slot_is_reused(buffer):
    slots = [buffer.take(reads(example())) for _ in range(2)]
    assert sorted(slots) == [0, 1]
    assert not buffer.make_room()
    assert buffer.take([lambda: pytest.fail("read although full")] * 3) is None
    addresses = [buffer.array(slots[0], index).ctypes.data for index in range(3)]
    buffer.release(slots[0])
    assert buffer.make_room()
    again = buffer.take(reads(example()))
    assert again == slots[0]
    assert [buffer.array(again, index).ctypes.data for index in range(3)] == addresses


@linux_only
@pytest.mark.linux_way
def test_memory_is_allocated_at_construction_only():
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
def test_wrong_shape_or_dtype_raises_and_frees_the_slot(buffer, wrong, place):
    arrays = example()
    arrays[place] = wrong
    with pytest.raises(ValueError, match=r"^reads: expected .*got "):
        buffer.take(reads(arrays))
    assert [buffer.take(reads(example())) is None for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("count", [2, 4])
def test_wrong_number_of_arrays_raises_and_frees_the_slot(buffer, count):
    with pytest.raises(ValueError, match=r"shorter|longer"):
        buffer.take(reads([*example(), np.ones(3)][:count]))
    assert [buffer.take(reads(example())) is None for _ in range(3)] == [False, False, True]


def test_failing_source_frees_the_slot(buffer):
    def broken():
        raise OSError("device lost")

    with pytest.raises(OSError, match="device lost"):
        buffer.take([*reads(example())[:2], broken])
    assert [buffer.take(reads(example())) is None for _ in range(3)] == [False, False, True]


def test_offsets_are_valid_in_another_mapping(buffer):
    slots = [buffer.take(reads([array + slot for array in example()])) for slot in (0, 1)]
    with mmap.mmap(buffer.fd, 0, prot=mmap.PROT_READ) as other:
        for slot in slots:
            for index in range(3):
                mine = buffer.array(slot, index)
                offset = buffer.offset_of(mine)
                assert other[offset : offset + mine.nbytes] == mine.tobytes()


@linux_only
@pytest.mark.linux_way
def test_spare_slots_take_memory_when_they_are_needed():
    buffer = SnapshotBuffer(layout(example()), slots=2, spare=3, keep=[1])

    def allocated():
        return os.fstat(buffer.fd).st_blocks * 512

    first = buffer.nbytes
    assert first <= allocated() < first + mmap.PAGESIZE
    slots = [buffer.take(reads([array + slot for array in example()])) for slot in range(5)]
    assert sorted(slots) == list(range(5))
    assert not buffer.make_room()
    assert buffer.nbytes <= allocated() < buffer.nbytes + mmap.PAGESIZE
    assert buffer.nbytes > first
    with mmap.mmap(buffer.fd, 0, prot=mmap.PROT_READ) as other:  # as the worker maps it
        for number, slot in enumerate(slots):
            for index, array in enumerate(example()):
                offset = buffer.offset_of(buffer.array(slot, index))
                assert other[offset : offset + array.nbytes] == (array + number).astype(array.dtype).tobytes()
    buffer.release(slots[3])
    assert buffer.take(reads(example())) == slots[3]
    buffer.close()
    assert not buffer.make_room()


@pytest.mark.parametrize("fault", ["reserve", "check_available"])
def test_a_spare_slot_without_memory_is_not_used(monkeypatch, fault):
    def fail(*arguments):
        raise MemoryError("none is left") if fault == "check_available" else OSError(28, "No space left on device")

    buffer = SnapshotBuffer(layout(example()), slots=1, spare=5)
    slot = buffer.take(reads(example()))
    monkeypatch.setattr(f"ww_callbacks.worker.snapshot_buffer.{fault}", fail)
    assert buffer.take(reads(example())) is None
    buffer.release(slot)
    assert buffer.take(reads(example())) == slot
    buffer.close()


@pytest.mark.parametrize("foreign", [np.ones((3, 3)), np.ones(10**6)], ids=["small", "large"])
def test_offset_of_other_arrays_raises(buffer, foreign):
    with pytest.raises(ValueError, match="not a view of this buffer"):
        buffer.offset_of(foreign)


@linux_only
@pytest.mark.parametrize("anonymous", [True, False], ids=["memfd", "temporary file"])
def test_close_frees_the_memory_and_can_be_repeated(anonymous, monkeypatch):
    if not anonymous:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    buffer = SnapshotBuffer(layout(example()), slots=2)
    fd, inode = buffer.fd, inode_of(buffer)
    assert holds(inode) >= 2  # the descriptor and the mapping
    buffer.take(reads(example()))
    buffer.close()
    assert holds(inode) == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    buffer.close()
    assert buffer.take(reads(example())) is None


@linux_only
def test_memory_is_freed_with_the_last_view():
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
def test_garbage_collected_buffer_is_freed():
    buffer = SnapshotBuffer(layout(example()), slots=1)
    inode = inode_of(buffer)
    del buffer
    gc.collect()
    assert holds(inode) == 0


@linux_only
@pytest.mark.timeout(30)
@pytest.mark.parametrize("anonymous", [True, False], ids=["memfd", "temporary file"])
def test_forked_child_closes_the_memory_and_parent_keeps_it(anonymous, monkeypatch):
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
