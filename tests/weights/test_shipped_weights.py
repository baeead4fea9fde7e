"""Weights that packages ship: every layer is the one that the library of the format reads, or has a reason."""

from __future__ import annotations

import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from shipped import FILES, matrices, shipped, tensors

import ww_callbacks as ww
from ww_callbacks.weights import find_layers

VECTOR = "no matrix: fewer than two dimensions"
DEPTHWISE = "no matrix: one input channel (depthwise, or grey images)"
TABLE = "no matrix: a table that is not trained"
SLICED = "no rule for a weight of Slice"
LOADING = "ignore:`torch.jit.load` is deprecated"

# Layers with a matrix, and how many have none, by reason; "stft_conv" is fixed, but its name does not say so.
CONTENT = {
    "alphapredict-v2.pt": (33, {}),
    "alphapredict-v7.pt": (33, {}),
    "efficientnet-lite0.pth": (34, {VECTOR: 49, DEPTHWISE: 16}),
    "g2p.npz": (7, {VECTOR: 5}),
    "lpips-alex.pth": (5, {}),
    "silero-vad-gemm.onnx": (14, {TABLE: 2}),
    "silero-vad-sliced.onnx": (5, {TABLE: 1, SLICED: 2, VECTOR: 2}),
    "silero-vad.safetensors": (13, {}),
}


def learned(name: str) -> dict[str, np.ndarray]:
    """The matrices of a file except those that are skipped because they are used in slices."""
    return {
        layer: value
        for layer, value in matrices(name).items()
        if name != "silero-vad-sliced.onnx" or ".rnn." not in layer
    }


@pytest.mark.parametrize("name", CONTENT)
def test_every_layer_is_the_one_that_another_reader_reads(name):
    layers = {layer.name: layer for layer in find_layers(shipped(name))}
    expected = learned(name)
    number, reasons = CONTENT[name]
    assert len(expected) == number
    for layer, value in expected.items():
        np.testing.assert_array_equal(layers[layer].read(), value, err_msg=layer)
    others = [layer for layer in layers.values() if layer.name not in {*expected, "stft_conv"}]
    assert Counter(layer.reason for layer in others) == reasons


@pytest.mark.parametrize("name", ["alphapredict-v7.pt", "efficientnet-lite0.pth", "g2p.npz", "silero-vad.safetensors"])
def test_alpha_is_that_of_the_matrix_from_another_reader(name):
    report = ww.analyze(shipped(name), randomize=False)
    fitted = 0
    read = {f"{layer}.weight": value for layer, value in learned(name).items()}
    for layer in ww.analyze(read, randomize=False):
        assert report[layer.name].alpha == layer.alpha
        assert report[layer.name].lambda_max == layer.lambda_max
        fitted += layer.alpha is not None
    assert fitted >= 7


def test_weights_of_one_row_are_skipped_with_the_reason():
    for layer in ww.analyze(shipped("lpips-alex.pth")):
        assert (layer.status, layer.reason) == ("skipped", "1 non-zero eigenvalues, a power-law fit needs 20")


# --- one network in several formats -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings(LOADING)
def test_a_torchscript_archive_is_refused_and_what_the_message_says_gives_the_layers_of_the_onnx_export(tmp_path):
    with pytest.raises(
        ww.WeightsFileError, match=r"a TorchScript archive, which holds code\. Load it and save its state_dict"
    ):
        ww.analyze(shipped("silero-vad.jit"))
    torch.save(torch.jit.load(shipped("silero-vad.jit")).state_dict(), tmp_path / "silero.pt")
    stored = ww.analyze(tmp_path / "silero.pt", layers=["_model.encoder.*"], randomize=False)
    exported = ww.analyze(shipped("silero-vad-gemm.onnx"), layers=["model.encoder.*"], randomize=False)
    alphas = [exported[f"model.encoder.{index}.reparam_conv"].alpha for index in range(4)]
    assert None not in alphas
    assert [stored[f"_model.encoder.{index}.reparam_conv"].alpha for index in range(4)] == alphas


@pytest.mark.filterwarnings(LOADING)
def test_the_gates_of_an_onnx_lstm_are_those_of_the_same_network_in_torch():
    of_torch = tensors("silero-vad.jit")
    layers = {layer.name: layer for layer in find_layers(shipped("silero-vad-lstm.onnx"))}
    for ours, theirs in (("W", "weight_ih"), ("R", "weight_hh")):
        for gate, weight in zip("ifgo", np.split(of_torch[f"_model.decoder.rnn.{theirs}"], 4), strict=True):
            np.testing.assert_array_equal(layers[f"/recurrent/LSTM.{ours}.{gate}"].read(), weight)
    assert layers["/recurrent/LSTM.B"].reason == "no matrix: a bias"


# --- Keras ------------------------------------------------------------------------------------------------------------


def test_of_a_keras_file_without_classes_the_dense_layer_is_read_and_kernels_of_three_dimensions_are_skipped():
    path = shipped("crepe-tiny.h5")
    with h5py.File(path) as file:
        kernel = file["classifier/classifier_3/kernel:0"][()]
    layers = {layer.name: layer for layer in find_layers(path)}
    np.testing.assert_array_equal(layers["classifier"].read(), kernel)
    unclear = "no rule for a kernel of 3 dimensions in a layer of unknown class"
    assert {layer.name: layer.reason for layer in layers.values() if layer.spec is None} == {
        f"conv{index}{suffix}": reason for index in range(1, 7) for suffix, reason in (("", unclear), ("-BN", VECTOR))
    }
    assert ww.analyze(path)["classifier"].alpha == ww.analyze({"classifier": kernel})["classifier"].alpha


def test_a_compressed_pickle_is_refused():
    with pytest.raises(ww.WeightsFileError, match=r"onet\.lz4: not a weights file, or a damaged one; known are"):
        ww.analyze(shipped("mtcnn-onet.lz4"))


# --- the list ---------------------------------------------------------------------------------------------------------


def test_the_readme_lists_every_file_with_the_version_and_the_size():
    readme = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\| `.*\|$", readme, re.M)]
    assert [row[0] for row in rows] == [f"`{name}`" for name in FILES]
    for name, package, _, _, _, size, _ in rows:
        expected, _ = FILES[name.strip("`")]
        listed, _, number = package.partition(" ")
        assert listed == expected
        assert number in ("", version(expected))
        assert size == f"{shipped(name.strip('`')).stat().st_size / 1e6:.2f} MB"
