"""Files that Keras writes, read back without it: the same layers, names and numbers as those of the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import ww_callbacks as ww
from ww_callbacks.analysis import as_matrices
from ww_callbacks.weights import Layer, find_layers
from ww_callbacks.weights.files import hdf5, hdf5_walk


def convolutions() -> Any:
    return keras.Sequential(
        [
            keras.Input((16, 16, 4)),
            layers.Conv2D(8, 3, name="c1"),
            layers.Conv2D(8, 3, groups=2),
            layers.BatchNormalization(),
            layers.SeparableConv2D(6, 3),
            layers.DepthwiseConv2D(3),
            layers.Conv2DTranspose(5, 2),
            layers.Reshape((-1, 5)),
            layers.Conv1D(7, 3),
            layers.Flatten(),
            layers.Dense(3, name="head"),
        ]
    )


def attention() -> Any:
    start = keras.Input((6, 8))
    x = layers.MultiHeadAttention(2, 4, name="mha")(start, start)
    x = layers.LayerNormalization()(x)
    x = layers.EinsumDense("abc,cd->abd", output_shape=(None, 8), name="mix")(x)
    return keras.Model(start, layers.Dense(4)(x))


def recurrent() -> Any:
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Embedding(30, 8),
            layers.Bidirectional(layers.LSTM(5, return_sequences=True)),
            layers.GRU(6, return_sequences=True),
            layers.SimpleRNN(4),
            layers.Dense(3),
        ]
    )


def nested() -> Any:
    inner = keras.Sequential([keras.Input((5,)), layers.Dense(7, name="a"), layers.Dense(5, name="b")], name="inner")
    return keras.Sequential([keras.Input((5,)), inner, layers.Dense(3, name="end")], name="outer")


MODELS: dict[str, Callable[[], Any]] = {
    "convolutions": convolutions, "attention": attention, "recurrent": recurrent, "nested": nested,
}  # fmt: skip
ENDINGS = ("keras", "weights.h5", "h5")

quick_trials = pytest.mark.usefixtures("quick_trials")


def saved(model: Any, folder: Path, ending: str) -> Path:
    path = folder / f"model.{ending}"
    (model.save_weights if ending == "weights.h5" else model.save)(path)
    return path


def analysed(model: Any) -> dict[str, Layer]:
    return {layer.name: layer for layer in find_layers(model) if layer.spec}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@quick_trials
def test_the_matrices_of_a_file_are_those_of_the_model(tmp_path, make, ending):
    model = make()
    built, stored = analysed(model), analysed(saved(model, tmp_path, ending))
    if "groups" in str(model.get_config()) and ending == "weights.h5":
        built.pop("conv2d"), stored.pop("conv2d")  # how many groups stands in the configuration only
    assert sorted(stored) == sorted(built)
    for name, layer in stored.items():
        ours, theirs = (as_matrices(one.spec, one.read()) for one in (layer, built[name]))
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@quick_trials
def test_every_weight_of_a_file_is_accounted_for(tmp_path, make, ending):
    model = make()
    found = find_layers(saved(model, tmp_path, ending))
    names = [layer.name for layer in found]
    assert len(names) == len(set(names))
    for layer in model._flatten_layers():
        if any(len(v.shape) >= 2 and v.name != "bias" for v in layer.variables) and layer is not model:
            assert any(layer.name in name.split(".") for name in names)
    assert all(layer.spec or layer.reason for layer in found)


@quick_trials
def test_kinds_come_from_the_configuration_or_are_said_to_be_inferred(tmp_path):
    model = attention()
    kinds = {ending: {layer.kind for layer in find_layers(saved(model, tmp_path, ending))} for ending in ENDINGS}
    assert "Dense" in kinds["keras"]
    assert "Dense" in kinds["h5"]
    assert all(kind.endswith("(inferred)") for kind in kinds["weights.h5"])


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_report_of_a_file_is_that_of_the_model(tmp_path, ending):
    model = keras.Sequential([keras.Input((60,)), layers.Dense(50), layers.Dense(40)])
    built, stored = ww.analyze(model), ww.analyze(saved(model, tmp_path, ending))
    assert [(layer.name, layer.alpha, layer.max_rand_eval) for layer in stored] == [
        (layer.name, layer.alpha, layer.max_rand_eval) for layer in built
    ]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("ending", ["keras", "weights.h5"])
@quick_trials
def test_half_precision(tmp_path, dtype, ending):
    model = keras.Sequential([keras.Input((6,), dtype=dtype), layers.Dense(5, dtype=dtype)])
    (layer,), (built,) = analysed(saved(model, tmp_path, ending)).values(), analysed(model).values()
    assert layer.spec.dtype == dtype
    np.testing.assert_array_equal(layer.read(), built.read())


@quick_trials
def test_optimizer_variables_are_no_layers(tmp_path):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5)])
    model.compile("adam", "mse")
    model.fit(np.zeros((2, 6)), np.zeros((2, 5)), verbose=0)
    for ending in ENDINGS:
        assert [layer.name for layer in find_layers(saved(model, tmp_path, ending))] == ["dense"]


# --- files of Keras 2 ------------------------------------------------------------------------------------------------

KERAS_2 = {
    "c1/c1/kernel:0": (3, 3, 4, 8),
    "c1/c1/bias:0": (8,),
    "batch_normalization/batch_normalization/gamma:0": (8,),
    "bidirectional/bidirectional/forward_lstm/lstm_cell/kernel:0": (5, 24),
    "bidirectional/bidirectional/forward_lstm/lstm_cell/recurrent_kernel:0": (6, 24),
    "dense_1/dense_1_3/kernel:0": (6, 5),
    "embedding/embedding/embeddings:0": (20, 8),
    "inner/x/kernel:0": (5, 4),
    "inner/y/kernel:0": (4, 4),
    "mha/mha/attention_output/kernel:0": (2, 3, 5),
    "mha/mha/query/kernel:0": (5, 2, 3),
    "my_model/dense_2/my_model/dense_2/kernel:0": (6, 5),
    "separable_conv2d/separable_conv2d/depthwise_kernel:0": (3, 3, 8, 1),
    "separable_conv2d/separable_conv2d/pointwise_kernel:0": (1, 1, 8, 6),
}
"""Paths and shapes as Keras 2.15 writes them for such layers."""


@pytest.mark.parametrize("prefix", ["", "model_weights/"])
@quick_trials
def test_files_of_keras_2(tmp_path, prefix):
    with h5py.File(tmp_path / "model.h5", "w") as file:
        for name, shape in KERAS_2.items():
            file[prefix + name] = np.random.default_rng(0).standard_normal(shape)
        file["optimizer_weights/adam/m/kernel:0"] = np.ones((3, 3))
    found = {layer.name: layer for layer in find_layers(tmp_path / "model.h5")}
    assert {name: layer.spec.matrix_shape for name, layer in found.items() if layer.spec} == {
        "c1": (9, 8, 4),
        **{f"bidirectional.forward_lstm.lstm_cell.kernel.{gate}": (1, 6, 5) for gate in "ifco"},
        **{f"bidirectional.forward_lstm.lstm_cell.recurrent_kernel.{gate}": (1, 6, 6) for gate in "ifco"},
        "dense_1": (1, 5, 6),
        "embedding": (1, 8, 20),
        "inner.x": (1, 4, 5),
        "inner.y": (1, 4, 4),
        "mha.attention_output": (1, 5, 6),
        "mha.query": (1, 6, 5),
        "my_model.dense_2": (1, 5, 6),
        "separable_conv2d": (1, 6, 8),
    }
    skipped = {name for name, layer in found.items() if not layer.spec}
    assert skipped == {"batch_normalization", "separable_conv2d.depthwise_kernel"}


@quick_trials
def test_cells_whose_variables_have_numbers_only(tmp_path):
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        file["layers/rnn/cell/vars/0"] = np.ones((5, 24))
        file["layers/rnn/cell/vars/1"] = np.ones((6, 24))
    names = [layer.name.rpartition("cell.")[2] for layer in find_layers(tmp_path / "model.weights.h5")]
    assert names == [f"{role}.{gate}" for role in ("kernel", "recurrent_kernel") for gate in "ifco"]


@quick_trials
def test_two_scopes_of_one_name_lose_nothing(tmp_path):
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file["fc/fc/kernel:0"] = np.ones((4, 3))
        file["fc/fc_1/kernel:0"] = np.ones((5, 2))
    shapes = {layer.spec.matrix_shape for layer in find_layers(tmp_path / "model.h5")}
    assert shapes == {(1, 3, 4), (1, 2, 5)}


# --- files that lie --------------------------------------------------------------------------------------------------


def written(path: Path, fill: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path, "w") as file:
        fill(file)
    return path


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((30, 20), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "fc", (30, 20))
    file.create_virtual_dataset("fc/fc/kernel:0", layout)


def external_storage(file: h5py.File) -> None:
    file.create_dataset("fc/fc/kernel:0", (4, 3), "u1", external=[("/etc/passwd", 0, 12)])


def link(file: h5py.File, to: object) -> None:
    file["fc/fc/kernel:0"] = to


def soft(file: h5py.File) -> None:
    file["there/there/kernel:0"] = np.ones((4, 3))
    link(file, h5py.SoftLink("/there/there/kernel:0"))


def cycle(file: h5py.File) -> None:
    file["fc/fc/kernel:0"] = np.ones((4, 3))
    file["fc/again"] = file["fc"]


def bomb(file: h5py.File) -> None:
    file.create_dataset("fc/fc/kernel:0", (2**20, 2**20), "f8", chunks=(1024, 1024))


def packed_bomb(file: h5py.File) -> None:
    data = file.create_dataset("fc/fc/kernel:0", (2**15, 2**11), "f8", chunks=(2**9, 2**11), compression=9)
    chunk = zlib.compress(bytes(8 * 2**20))
    for row in range(0, 2**15, 2**9):
        data.id.write_direct_chunk((row, 0), chunk)


def deep(file: h5py.File) -> None:
    file["/".join(["a"] * 100) + "/kernel:0"] = np.ones((4, 3))


@pytest.mark.parametrize(
    ("fill", "cause"),
    [
        (lambda file: link(file, h5py.ExternalLink("/etc/passwd", "/x")), "link that may lead to another file"),
        (soft, "link that may lead to another file"),
        (virtual, "keeps its numbers in other files"),
        (external_storage, "keeps its numbers in other files"),
        (bomb, "would grow from"),
        (packed_bomb, "would grow from"),
        (deep, "groups inside each other"),
        (lambda file: file.create_group("layers"), "holds no weights"),
        (lambda file: None, "holds no weights"),
        (lambda file: file.attrs.__setitem__("model_config", "{"), "holds no weights|configuration cannot be read"),
    ],
    ids=["external link", "soft link", "virtual", "external storage", "bomb", "packed bomb", "deep", "group", "none",
         "config"],
)  # fmt: skip
@quick_trials
def test_hdf5_files_that_lie(tmp_path, fill, cause):
    path = written(tmp_path / "model.h5", fill)
    with pytest.raises(ww.WeightsFileError, match=cause) as caught:
        find_layers(path)
    assert str(caught.value).startswith(f"{path}: ")


@quick_trials
def test_groups_that_hold_themselves_are_walked_once(tmp_path):
    assert [layer.name for layer in find_layers(written(tmp_path / "model.h5", cycle))] == ["fc"]


@pytest.mark.parametrize("keep", [0, 4, 100, 1000, 0.5, 0.99])
@pytest.mark.parametrize("ending", ENDINGS)
@quick_trials
def test_truncated_files(tmp_path, ending, keep):
    path = saved(keras.Sequential([keras.Input((60,)), layers.Dense(50)]), tmp_path, ending)
    os.truncate(path, int(keep * path.stat().st_size) if isinstance(keep, float) else keep)
    with pytest.raises(ww.WeightsFileError, match=r"model\."):
        ww.analyze(path)


def archive(folder: Path, change: Callable[[dict[str, bytes]], object], compression: int = 0) -> Path:
    """A ``.keras`` file with its members changed."""
    path = saved(keras.Sequential([keras.Input((6,)), layers.Dense(5)]), folder, "keras")
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@quick_trials
def test_the_configuration_is_data_and_nothing_in_it_is_called(tmp_path):
    evil = {"class_name": "Lambda", "module": "os", "config": {"name": "dense", "function": {"code": "system"}}}
    path = archive(tmp_path, lambda members: members.update({"config.json": json.dumps(evil).encode()}))
    (layer,) = find_layers(path)
    assert (layer.kind, layer.spec) == ("Lambda", None)
    assert "no rule" in layer.reason


@pytest.mark.parametrize(
    ("change", "compression", "cause"),
    [
        (lambda members: members.update({"config.json": b"{"}), 0, "configuration cannot be read"),
        (lambda members: members.pop("config.json"), 0, "config.json"),
        (lambda members: members.update({"../evil": b""}), 0, "leads out of the archive"),
        (lambda members: members.update({"model.weights.h5": b"\x89HDF\r\n\x1a\n"}), 0, "cannot be read"),
        (lambda members: members.update({"bomb": bytes(2**28 + 2**20)}), zipfile.ZIP_DEFLATED, "would grow from"),
        (lambda members: None, zipfile.ZIP_DEFLATED, "is compressed"),
    ],
    ids=["config", "no config", "../", "no hdf5", "bomb", "compressed"],
)
@quick_trials
def test_archives_that_lie(tmp_path, change, compression, cause):
    path = archive(tmp_path, change, compression)
    with pytest.raises(ww.WeightsFileError, match=cause) as caught:
        find_layers(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert not (tmp_path.parent / "evil").exists()


# --- files that the HDF5 library does not survive --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "name"), [("while True: pass", "SIGALRM"), ("import os, signal; os.kill(os.getpid(), 11)", "SIGSEGV")]
)
def test_a_file_on_which_the_library_hangs_or_crashes_is_refused(tmp_path, monkeypatch, ends, name):
    """The child stands for the library: a real such file depends on its version."""
    program = tmp_path / "walk.py"
    program.write_text(f"import signal\nsignal.alarm(1)\n{ends}\n")
    monkeypatch.setattr(hdf5_walk, "__file__", str(program))
    path = saved(keras.Sequential([keras.Input((6,)), layers.Dense(5)]), tmp_path, "weights.h5")
    with pytest.raises(ww.WeightsFileError, match=rf"damaged: the HDF5 library hangs or crashes on it \({name}\)"):
        find_layers(path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_child_takes_the_whole_way_and_loads_nothing_of_ours(tmp_path, ending):
    path = saved(keras.Sequential([keras.Input((6,)), layers.Dense(5)]), tmp_path, ending)
    program = (
        "import sys; from importlib.util import module_from_spec as make, spec_from_file_location as at\n"
        "spec = at('walk', sys.argv[1]); walk = make(spec); spec.loader.exec_module(walk)\n"
        "with walk.opened(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])) as file:\n"
        "    count = sum(1 for _ in walk.walk(file))\n"
        "print(count, [name for name in sys.modules if name.startswith(('ww_', 'torch', 'keras'))])\n"
    )
    place = [str(value) for value in (path, *hdf5._place(path))]
    done = subprocess.run(
        [sys.executable, "-c", program, hdf5_walk.__file__, *place],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    count, modules = done.stdout.strip().split(" ", 1)
    assert int(count) >= 2
    assert modules == "[]"
