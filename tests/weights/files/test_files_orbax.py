"""Checkpoints of Orbax that are damaged or lie. What Orbax itself writes is read in tests/neighbours/test_orbax.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.weights import find_layers

tensorstore = pytest.importorskip("tensorstore")
KERNEL = np.random.default_rng(0).standard_normal((8, 6)).astype("f4")


def entry(*keys, value_type="jax.Array"):
    described = [{"key": key, "key_type": 2} for key in keys]
    return {"key_metadata": described, "value_metadata": {"value_type": value_type, "skip_deserialize": False}}


def stored(folder, name, values, is_database=False, **metadata):
    """Write an array as Orbax does."""
    base = {"driver": "file", "path": f"{folder}/"}
    inside = {"driver": "ocdbt", "base": base, "path": f"{name}/", "config": {"compression": None}}
    metadata = {"shape": values.shape, "chunks": [4, 6], "dtype": values.dtype.str, "compressor": None} | metadata
    store = inside if is_database else base | {"path": f"{folder}/{name}/"}
    spec = {"driver": "zarr", "kvstore": store, "metadata": metadata, "store_data_equal_to_fill_value": True}
    with tensorstore.Transaction(atomic=is_database) as transaction:
        tensorstore.open(spec, create=True, transaction=transaction).result()[...] = values


def written(folder, entries=None, **described):
    folder.mkdir(parents=True)
    entries = [entry("fc", "kernel")] if entries is None else entries
    tree = {"tree_metadata": {str(i): each for i, each in enumerate(entries)}}
    tree |= {"use_zarr3": False, "store_array_data_equal_to_fill_value": True} | described
    (folder / "_METADATA").write_text(json.dumps(tree))
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint with one kernel in two parts."""
    folder = written(tmp_path / "checkpoint")
    stored(folder, "fc.kernel", KERNEL)
    return folder


def refusal(folder, read=False):
    act = find_layers(folder)[0].read if read else partial(find_layers, folder)
    with pytest.raises(ww.WeightsFileError) as caught:
        act()
    assert str(caught.value).startswith(str(folder))
    return caught.value.cause


def test_the_checkpoint_by_hand_is_good(checkpoint):
    (layer,) = find_layers(checkpoint)
    assert (layer.name, layer.spec.matrix_shape) == ("fc", (1, 6, 8))
    assert layer.read().tobytes() == KERNEL.tobytes()
    np.testing.assert_array_equal(layer.read.narrow(1, 2, 3)(), KERNEL[:, 2:5])


def test_a_missing_part_is_told(checkpoint):
    (checkpoint / "fc.kernel" / "1.0").unlink()
    assert "array 'fc.kernel' cannot be read" in refusal(checkpoint, read=True)


def test_a_truncated_part_is_told(checkpoint):
    os.truncate(checkpoint / "fc.kernel" / "1.0", 20)
    assert "array 'fc.kernel' cannot be read" in refusal(checkpoint, read=True)


def test_a_missing_array_is_told(checkpoint):
    shutil.rmtree(checkpoint / "fc.kernel")
    assert "array 'fc.kernel' cannot be read" in refusal(checkpoint)


def test_parts_that_old_versions_leave_out_are_zeros(tmp_path):
    folder = written(tmp_path / "checkpoint", store_array_data_equal_to_fill_value=False)
    stored(folder, "fc.kernel", KERNEL)
    (folder / "fc.kernel" / "1.0").unlink()
    (layer,) = find_layers(folder)
    np.testing.assert_array_equal(layer.read(), np.vstack([KERNEL[:4], np.zeros((4, 6))]))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"shape": [10**9, 10**9]}, "would grow"),
        ({"chunks": [10**9, 10**9]}, "would grow"),
        ({"shape": [-1, 6]}, "cannot be read"),
        ({"shape": [8]}, "cannot be read"),
        ({"dtype": "|O"}, "cannot be read"),
        ({"dtype": "pickle"}, "cannot be read"),
        ({"zarr_format": 3}, "cannot be read"),
        ({"filters": [{"id": "pickle"}]}, "cannot be read"),
        ({"compressor": {"id": "pickle"}}, "cannot be read"),
    ],
)
def test_arrays_that_lie(checkpoint, change, cause):
    path = checkpoint / "fc.kernel" / ".zarray"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert cause in refusal(checkpoint)


@pytest.mark.parametrize("dtype", ["<i8", "|b1", "<c8"])
def test_arrays_of_other_dtypes_are_listed(tmp_path, dtype):
    folder = written(tmp_path / "checkpoint")
    stored(folder, "fc.kernel", np.ones((8, 6), dtype))
    (layer,) = find_layers(folder)
    assert "unsupported dtype" in layer.reason


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("", "not the description of a tree"),
        ("[]", "not the description of a tree"),
        ("{}", "not the description of a tree"),
        ('{"tree_metadata": [1]}', "not the description of a tree"),
        ('{"tree_metadata": {"a": {}}}', "not the description of a tree"),
        ('{"tree_metadata": {}}', "holds no weights"),
        ("[" * 100_000, "not the description of a tree"),
    ],
)
def test_descriptions_that_are_none(tmp_path, content, cause):
    folder = written(tmp_path / "checkpoint")
    (folder / "_METADATA").write_text(content)
    assert cause in refusal(folder)


@pytest.mark.parametrize(
    ("entries", "cause"),
    [
        ([entry()], "an entry has 0 keys"),
        ([entry(*"a" * 100)], "an entry has 100 keys"),
        ([entry("a", "b"), entry("a.b")], "described twice"),
        ([entry("a"), entry("a", "b")], "cannot be read"),
        ([entry("..", "..", "etc")], "cannot be read"),
        ([entry("a/../../secret")], "leads out of the folder"),
        ([entry("/etc/passwd")], "leads out of the folder"),
        ([entry("..\\secret")], "leads out of the folder"),
        ([entry("a\0")], "leads out of the folder"),
        ([entry("step", value_type="scalar"), entry("name", value_type="string")], "holds no weights"),
    ],
)
def test_trees_that_lie(tmp_path, entries, cause):
    assert cause in refusal(written(tmp_path / "checkpoint", entries))


def test_a_database_that_leads_out_of_its_folder_is_refused(tmp_path):
    google_crc32c = pytest.importorskip("google_crc32c")
    folder = written(tmp_path / "checkpoint")
    stored(folder, "fc.kernel", np.repeat(KERNEL, 100, axis=0), is_database=True, chunks=[800, 6])
    assert [layer.name for layer in find_layers(folder)] == ["fc"]
    manifest = (folder / "manifest.ocdbt").read_bytes()
    (file,) = (file for file in (folder / "d").iterdir() if f"d/{file.name}".encode() in manifest)
    shutil.copy(file, tmp_path / file.name[1:])
    manifest = manifest.replace(f"d/{file.name}".encode(), f"../{file.name[1:]}".encode())
    checksum = google_crc32c.value(manifest[:-4]).to_bytes(4, "little")
    (folder / "manifest.ocdbt").write_bytes(manifest[:-4] + checksum)
    with pytest.raises(ww.WeightsFileError) as caught:
        find_layers(folder)
    assert "Invalid key" in str(caught.value.__cause__)


def test_folders_that_are_no_whole_checkpoint(checkpoint, tmp_path):
    unfinished = checkpoint.rename(tmp_path / "1.orbax-checkpoint-tmp-0")
    assert "unfinished" in refusal(unfinished)
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    (nothing / "_CHECKPOINT_METADATA").write_text("{}")
    assert "_METADATA is missing" in refusal(nothing)


def test_steps(tmp_path):
    for step in ("9", "10"):
        stored(written(tmp_path / "run" / step / "default"), "fc.kernel", KERNEL)
    assert refusal(tmp_path / "run") == "holds several steps, give the folder of one: ['9', '10']"
    assert [layer.name for layer in find_layers(tmp_path / "run" / "9")] == ["fc"]
    shutil.rmtree(tmp_path / "run" / "9")
    assert [layer.name for layer in find_layers(tmp_path / "run")] == ["fc"]


def test_items_are_networks(tmp_path):
    names = ("params", "ema_params", "opt_state")
    for name in names:
        stored(written(tmp_path / "run" / name), "fc.kernel", KERNEL)
    written(tmp_path / "run" / "empty", [])
    assert [layer.name for layer in find_layers(tmp_path / "run")] == ["params.fc", "ema_params.fc"]


WITHOUT = """
import sys
sys.modules["tensorstore"] = None
import ww_callbacks as ww
try:
    ww.analyze(sys.argv[1])
except ww.WeightsFileError as error:
    print(error.cause)
"""


def test_the_message_without_tensorstore_names_the_extra(checkpoint):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(checkpoint)], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.strip() == "reading it needs tensorstore: pip install 'ww_callbacks[orbax]'"
