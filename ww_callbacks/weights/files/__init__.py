"""Weights files and folders as layers: checked first, then read layer by layer; nothing in them is executed."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Sequence

from ww_callbacks.weights.combined import combine
from ww_callbacks.weights.files import zips
from ww_callbacks.weights.files.adapters import adapters_in, layers_of_adapter
from ww_callbacks.weights.files.checkpoint import METADATA, tensors_of_checkpoint
from ww_callbacks.weights.files.directory import FLAX, INDEX, SINGLE, entries_of, tensors_of_index, weights_in
from ww_callbacks.weights.files.errors import WeightsFileError, reading, require_regular
from ww_callbacks.weights.files.foreign import foreign
from ww_callbacks.weights.files.quantization import quantization_of
from ww_callbacks.weights.files.remote import Location, RemotePath, located
from ww_callbacks.weights.files.saved import tensors_of_torch
from ww_callbacks.weights.layer import Layer
from ww_callbacks.weights.orbax.folders import is_checkpoint
from ww_callbacks.weights.state_dict import layers_of_tensors
from ww_callbacks.weights.tensor import StoredTensor

__all__ = ["StoredTensor", "WeightsFileError", "layers_of_path"]

PIPELINE = "model_index.json"
"""The file in a folder of diffusers that names the networks of a pipeline."""
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
    adapters = adapters_in(path)
    if adapters:
        return tuple(
            layer for prefix, file in adapters.items() for layer in layers_of_adapter(prefix, file, _tensors(file))
        )
    if is_folder and (path / PIPELINE).is_file():
        return _pipeline(path)
    if path.name == METADATA or (is_folder and (path / METADATA).is_file()):
        return layers_of_tensors(combine(tensors_of_checkpoint(path if is_folder else path.parent)))
    if is_folder and not _holds_weights(path) and is_checkpoint(path):
        return layers_of_tensors(combine(_orbax(path)))
    files = weights_in(path) if is_folder else [path]
    if len(files) == 1 and files[0].name.lower().endswith(".onnx"):
        return _onnx(files[0])
    if len(files) == 1 and _is_keras(files[0]):
        return _keras(files[0])
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
    if name.endswith(".safetensors"):
        from ww_callbacks.weights.files.safetensors import tensors_of_safetensors

        return tensors_of_safetensors(path)
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


def _pipeline(folder: Location) -> tuple[Layer, ...]:
    """The layers of all networks of a pipeline of diffusers, which has a folder for each."""
    with reading(folder):
        inner = [each for each in entries_of(folder) if each.is_dir() and _holds_weights(each)]
    if not inner:
        raise WeightsFileError(folder, f"{PIPELINE} without folders that hold weights")
    return tuple(layer.named(f"{each.name}/{layer.name}") for each in inner for layer in layers_of_path(each))


def _holds_weights(folder: Location) -> bool:
    with reading(folder):
        names = [entry.name.lower() for entry in folder.iterdir() if entry.is_file()]
    return any(name.endswith((".safetensors", *SINGLE, FLAX)) for name in names)


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
