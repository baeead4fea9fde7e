"""Weights files and folders as layers: checked first, then read layer by layer; nothing in them is executed."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Sequence
from functools import partial

from ww_callbacks.weights.combined import combine
from ww_callbacks.weights.files import zips
from ww_callbacks.weights.files.adapters import adapters_in, layers_of_adapter
from ww_callbacks.weights.files.checkpoint import METADATA, tensors_of_checkpoint
from ww_callbacks.weights.files.directory import (
    FLAX,
    INDEX,
    folders_with_weights,
    tensors_of_index,
    weights_files,
    weights_in,
)
from ww_callbacks.weights.files.errors import WeightsFileError, reading, require_regular
from ww_callbacks.weights.files.folder import layers_of_networks, left_out, left_out_beside
from ww_callbacks.weights.files.foreign import divided, foreign
from ww_callbacks.weights.files.quantization import quantization_of
from ww_callbacks.weights.files.remote import Location, RemotePath, located
from ww_callbacks.weights.files.safetensors import Contents, contents_of_safetensors
from ww_callbacks.weights.files.saved import tensors_of_torch
from ww_callbacks.weights.files.snapshots import KEY, layers_of_snapshot
from ww_callbacks.weights.layer import Layer
from ww_callbacks.weights.orbax.folders import is_checkpoint
from ww_callbacks.weights.state_dict import layers_of_tensors
from ww_callbacks.weights.tensor import StoredTensor

__all__ = ["StoredTensor", "WeightsFileError", "layers_of_path"]

PIPELINE = "model_index.json"
"""The file in a folder of diffusers that names the networks of a pipeline."""
_SAFETENSORS = ".safetensors"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_GGUF = b"GGUF"
_KNOWN = (
    ".safetensors, torch's .pt, .pth, .ckpt and .bin, .npz, .gguf, .onnx, flax's .msgpack, Keras's .keras, "
    ".weights.h5, .h5 and .hdf5"
)


def layers_of_path(path: str | os.PathLike[str] | RemotePath) -> tuple[Layer, ...]:
    """The layers of a weights file, of an index of several files, of a folder, or of low-rank adapters.

    Args:
        path: or URL; the content decides the format; for safetensors, ONNX, flax and indexes the name does.

    Raises:
        WeightsFileError: no such file, an unknown format, a damaged or an unsafe file.
    """
    path = located(path)
    with reading(path):
        path = path.absolute()
        mode = path.stat().st_mode
    is_folder = stat.S_ISDIR(mode)
    if not is_folder and not stat.S_ISREG(mode):
        raise WeightsFileError(path, "neither a file nor a folder")
    with reading(path):
        if problem := divided(path):
            raise WeightsFileError(path, problem)
    adapters = adapters_in(path)
    if adapters:
        layers = [
            layer for prefix, file in adapters.items() for layer in layers_of_adapter(prefix, file, _tensors(file))
        ]
        used = [prefix.removesuffix("/") or file.name for prefix, file in adapters.items()]
        return (*layers, *(left_out_beside(path, used) if is_folder else ()))
    if is_folder:
        return _layers_of_folder(path)
    if path.name == METADATA:
        return layers_of_tensors(combine(tensors_of_checkpoint(path.parent)))
    return _layers_of_files(path, [path])


def _layers_of_folder(folder: Location) -> tuple[Layer, ...]:
    if (folder / PIPELINE).is_file():
        return _pipeline(folder)
    if (folder / METADATA).is_file():
        layers = layers_of_tensors(combine(tensors_of_checkpoint(folder)))
        return (*layers, *left_out_beside(folder, [METADATA]))
    if not weights_files(folder) and is_checkpoint(folder):
        return layers_of_tensors(combine(_orbax(folder)))
    chosen = weights_in(folder)
    found = layers_of_networks(folder, chosen.networks, partial(_layers_of_files, folder))
    used = [network.files[0] for network in chosen.networks]
    return (*found, *left_out(folder, chosen.others, used))


def _layers_of_files(path: Location, files: Sequence[Location]) -> tuple[Layer, ...]:
    """The layers of one network.

    Args:
        path: that errors name.
        files: its file, its index or all its parts.
    """
    if len(files) == 1 and files[0].name.lower().endswith(".onnx"):
        return _onnx(files[0])
    if len(files) == 1 and _is_keras(files[0]):
        return _keras(files[0])
    if len(files) == 1 and files[0].name.lower().endswith(_SAFETENSORS):
        tensors, metadata = _safetensors(files[0])
        if KEY in metadata:
            return layers_of_snapshot(path, tensors, metadata[KEY])
    else:
        tensors = [tensor for file in files for tensor in _tensors(file)]
    _check_names(path, tensors)
    with reading(path):
        return layers_of_tensors(combine(tensors, quantization_of(files[0].parent)))


def _check_names(path: Location, tensors: Sequence[StoredTensor]) -> None:
    """Refuse names that no other file or terminal could take, such as half of a pair of UTF-16."""
    for tensor in tensors:
        try:
            tensor.name.encode()
        except UnicodeEncodeError as error:
            raise WeightsFileError(path, f"a name that is not valid Unicode: {tensor.name[:80]!a}") from error


def _tensors(path: Location) -> list[StoredTensor]:
    """The tensors of a file; Keras's formats hold more than tensors and are read elsewhere."""
    with reading(path):
        require_regular(path)
    name = path.name.lower()
    if name.endswith(INDEX):
        return tensors_of_index(path, _tensors)
    if name.endswith(_SAFETENSORS):
        return _safetensors(path).tensors
    if name.endswith(FLAX):
        from ww_callbacks.weights.files.flax import tensors_of_flax

        return tensors_of_flax(path)
    if _first_bytes(path).startswith(_GGUF):
        return _gguf(path)
    names = _members(path)
    if names and all(member.endswith(".npy") for member in names):
        from ww_callbacks.weights.files.npz import tensors_of_npz

        return tensors_of_npz(path)
    if any(member.endswith("data.pkl") for member in names) or _first_bytes(path)[:1] == b"\x80":
        return tensors_of_torch(path)
    raise WeightsFileError(path, _unknown(path))


def _safetensors(path: Location) -> Contents:
    with reading(path):
        require_regular(path)
    return contents_of_safetensors(path)


def _pipeline(folder: Location) -> tuple[Layer, ...]:
    """The layers of all networks of a pipeline of diffusers, which has a folder for each."""
    inner = folders_with_weights(folder)
    if not inner:
        raise WeightsFileError(folder, f"{PIPELINE} without folders that hold weights")
    layers = [layer.named(f"{name}/{layer.name}") for name in inner for layer in layers_of_path(folder / name)]
    return (*layers, *left_out_beside(folder, inner))


def _orbax(folder: Location) -> list[StoredTensor]:
    if isinstance(folder, RemotePath):
        raise WeightsFileError(folder, "checkpoints of Orbax are not read at a URL; download the folder, pass its path")
    try:
        from ww_callbacks.weights.orbax.tensors import tensors_of_orbax
    except ModuleNotFoundError as error:
        raise WeightsFileError(folder, "reading it needs tensorstore: pip install 'ww_callbacks[orbax]'") from error
    return tensors_of_orbax(folder)


def _gguf(path: Location) -> list[StoredTensor]:
    try:
        from ww_callbacks.weights.files.gguf import tensors_of_gguf
    except ModuleNotFoundError as error:
        raise WeightsFileError(path, "reading it needs gguf: pip install 'ww_callbacks[gguf]'") from error
    return tensors_of_gguf(path)


def _keras(path: Location) -> tuple[Layer, ...]:
    try:
        from ww_callbacks.weights.keras.files import layers_of_keras_file
    except ModuleNotFoundError as error:
        raise WeightsFileError(path, "reading it needs h5py: pip install 'ww_callbacks[files]'") from error
    return layers_of_keras_file(path)


def _onnx(path: Location) -> tuple[Layer, ...]:
    try:
        from ww_callbacks.weights.onnx.layers import layers_of_onnx
    except ModuleNotFoundError as error:
        raise WeightsFileError(path, "reading it needs onnx: pip install 'ww_callbacks[onnx]'") from error
    return layers_of_onnx(path)


def _is_keras(path: Location) -> bool:
    return _first_bytes(path) == _HDF5 or "model.weights.h5" in _members(path)


def _first_bytes(path: Location) -> bytes:
    with reading(path), path.open("rb") as file:
        return file.read(8)


def _members(path: Location) -> list[str]:
    """Names in a zip archive; none if the file is not one."""
    if not zips.is_zip(path):
        return []
    with reading(path), path.open("rb") as file, zipfile.ZipFile(file) as archive:
        return archive.namelist()


def _unknown(path: Location) -> str:
    with reading(path):
        size = path.stat().st_size
        known = foreign(path)
    if size == 0:
        return "an empty file"
    return known or f"not a weights file, or a damaged one; known are {_KNOWN}"
