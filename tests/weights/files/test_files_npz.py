"""Archives of numpy: real saves, and archives that lie."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.weights import find_layers
from ww_callbacks.weights.files.zips import opened


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "encoder.fc.weight": rng.standard_normal((40, 30)).astype(np.float32),
        "encoder.fc.bias": rng.standard_normal(40),
        "conv": rng.standard_normal((20, 16, 3, 3)).astype(np.float16),
        "big_endian": rng.standard_normal((30, 25)).astype(">f4"),
        "fortran": np.asfortranarray(rng.standard_normal((30, 25))),
        "count": np.arange(12).reshape(3, 4),
    }


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_array_is_accounted_for_and_read_exactly(tmp_path, save):
    save(tmp_path / "weights.npz", **weights())
    layers = {layer.name: layer for layer in find_layers(tmp_path / "weights.npz")}
    assert list(layers) == ["encoder.fc", "conv", "big_endian", "fortran", "count"]
    assert "unsupported dtype int64" in layers.pop("count").reason
    for name, layer in layers.items():
        stored = layer.read()
        assert (stored.shape, stored.dtype) == (layer.spec.shape, layer.spec.storage_dtype)
        np.testing.assert_array_equal(stored, weights()["encoder.fc.weight" if name == "encoder.fc" else name])


def test_the_report_is_that_of_the_mapping(tmp_path):
    chosen = {name: weights()[name] for name in ("conv", "fortran")}
    np.savez(tmp_path / "weights.npz", **chosen)
    stored, given = ww.analyze(tmp_path / "weights.npz"), ww.analyze(chosen)
    assert [(layer.name, layer.alpha, layer.max_rand_eval) for layer in stored] == [
        (layer.name, layer.alpha, layer.max_rand_eval) for layer in given
    ]


def test_flax_and_keras_names_have_the_inputs_first(tmp_path):
    kernel = np.random.default_rng(0).standard_normal((3, 3, 16, 20))
    np.savez(tmp_path / "weights.npz", **{"conv.kernel": kernel, "fc.kernel": kernel[0, 0]})
    conv, fc = find_layers(tmp_path / "weights.npz")
    assert (conv.name, conv.spec.matrix_shape) == ("conv", (9, 20, 16))
    assert (fc.name, fc.spec.matrix_shape) == ("fc", (1, 20, 16))


def test_arrays_of_objects_are_refused_unread(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    np.savez(tmp_path / "weights.npz", fc=np.array([Evil()], dtype=object))
    with pytest.raises(ww.WeightsFileError, match=r"'fc\.npy' holds Python objects, .* refused"):
        find_layers(tmp_path / "weights.npz")
    assert not (tmp_path / "ran").exists()


def header(text: str, body: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    padded = text.ljust(117) + "\n"
    return b"\x93NUMPY" + bytes(version) + len(padded).to_bytes(2, "little") + padded.encode() + body


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (npy(np.ones((30, 20)))[:-8], "does not fit the 4792 bytes"),
        (npy(np.ones((30, 20))) + bytes(8), "does not fit the 4808 bytes"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 1024)}", bytes(64)), "does not fit"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (-2, -4)}", bytes(64)), "not a list of sizes"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': 8}", bytes(64)), "cannot be read"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", bytes(16)), "Python objects"),
        (header("__import__('os').getcwd()", bytes(16)), "cannot be read"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}", bytes(16), (9, 0)), "version"),
        (b"", "cannot be read"),
        (b"no array", "cannot be read"),
    ],
    ids=range(10),
)
def test_headers_of_arrays_are_not_believed(tmp_path, content, cause):
    path = archive(tmp_path / "weights.npz", {"fc.npy": content})
    with pytest.raises(ww.WeightsFileError) as caught:
        find_layers(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert cause in str(caught.value)


@pytest.mark.parametrize("name", ["../fc.npy", "/fc.npy", "a/../../fc.npy", "..\\fc.npy"])
def test_names_that_lead_out_of_the_archive_are_refused(tmp_path, name):
    path = archive(tmp_path / "weights.npz", {name: npy(np.ones((3, 2)))})
    with pytest.raises(ww.WeightsFileError, match="leads out of the archive"):
        find_layers(path)


def test_a_zip_bomb_is_refused_unread(tmp_path):
    bomb = header("{'descr': '<f8', 'fortran_order': False, 'shape': (34603008, 1)}")
    packed = zipfile.ZipFile(tmp_path / "weights.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with packed as file, file.open("fc.npy", "w") as out:
        out.write(bomb)
        for _ in range(264):
            out.write(bytes(2**20))
    assert (tmp_path / "weights.npz").stat().st_size < 2**21
    with pytest.raises(ww.WeightsFileError, match=r"'fc\.npy' would grow from \d+ to \d+ bytes, refused"):
        find_layers(tmp_path / "weights.npz")


def test_an_encrypted_member_is_refused(tmp_path):
    path = archive(tmp_path / "weights.npz", {"fc.npy": npy(np.ones((3, 2)))})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ww.WeightsFileError, match="encrypted"):
        find_layers(path)


def test_a_damaged_member_is_noticed_when_it_is_read(tmp_path):
    path = archive(tmp_path / "weights.npz", {"fc.npy": npy(np.ones((30, 20)))})
    (layer,) = find_layers(path)
    content = bytearray(path.read_bytes())
    content[1000] ^= 255
    path.write_bytes(content)
    with pytest.raises(ww.WeightsFileError, match="CRC"):
        layer.read()
    with pytest.raises(ww.WeightsFileError, match=r"weights\.npz: .*CRC"):
        ww.analyze(path)


def test_an_archive_is_closed_after_use(tmp_path):
    path = archive(tmp_path / "weights.npz", {"fc.npy": npy(np.ones((30, 20)))})
    with opened(path) as file:
        pass
    assert file.fp is None
