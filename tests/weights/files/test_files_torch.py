"""Files of torch.save: real saves, read back with every weight accounted for."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.analysis import as_matrices
from ww_callbacks.weights import find_layers

torch = pytest.importorskip("torch")
nn = torch.nn


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 24, 3), bn=nn.BatchNorm2d(24), fc=nn.Linear(60, 40), head=nn.Linear(40, 25, bias=False)
        )
    )


def saved(path: Path, content: object, **options: object) -> Path:
    torch.save(content, path, **options)
    return path


def outcome(model: object) -> dict[str, str]:
    return {layer.name: layer.reason or layer.kind for layer in find_layers(model)}


def assert_same_matrices(path: Path, model: nn.Module) -> None:
    """The file's layers are the module's, and so are their numbers."""
    built = {layer.name: layer for layer in find_layers(model)}
    stored = {layer.name: layer for layer in find_layers(path)}
    assert list(stored) == list(built)
    for name, layer in stored.items():
        assert (layer.spec is None) == (built[name].spec is None)
        if layer.spec is not None:
            ours, theirs = (as_matrices(one.spec, one.read()) for one in (layer, built[name]))
            np.testing.assert_array_equal(ours, theirs)


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in network().state_dict().items()}


CONTENTS = {
    "state dict": lambda: network().state_dict(),
    "under state_dict": lambda: {"epoch": 3, "state_dict": network().state_dict(), "best_prec1": 91.7},
    "under model": lambda: {"model": network().state_dict(), "args": None},
    "under model_state_dict": lambda: {"model_state_dict": network().state_dict()},
    "state_dict in model": lambda: {"model": {"state_dict": network().state_dict()}},
    "of DataParallel": lambda: nn.DataParallel(network()).state_dict(),
    "of DataParallel under state_dict": lambda: {"state_dict": prefixed("module.")},
    "of a compiled model": lambda: torch.compile(network()).state_dict(),
    "of a compiled model in DataParallel": lambda: {"state_dict": prefixed("module._orig_mod.")},
    "of DataParallel compiled": lambda: prefixed("_orig_mod.module."),
    "with an optimizer": lambda: {
        "model": network().state_dict(),
        "optimizer": torch.optim.Adam(network().parameters()).state_dict(),
    },
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_state_dicts_are_found_wherever_trainers_put_them(tmp_path, content):
    assert_same_matrices(saved(tmp_path / "model.pt", content()), network())


@pytest.mark.parametrize("ending", ["pt", "pth", "ckpt", "bin", "th", "pth.tar"])
def test_the_content_decides_not_the_ending(tmp_path, ending):
    assert_same_matrices(saved(tmp_path / f"model.{ending}", network().state_dict()), network())


def test_files_from_before_torch_1_6(tmp_path):
    path = saved(tmp_path / "old.pth", network().state_dict(), _use_new_zipfile_serialization=False)
    assert_same_matrices(path, network())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_precision(tmp_path, dtype):
    model = network().to(dtype)
    assert_same_matrices(saved(tmp_path / "model.pt", model.state_dict()), model)


def test_eight_bit_floats_are_read_exactly(tmp_path):
    weight = torch.randn(60, 40).to(torch.float8_e4m3fn)
    (layer,) = find_layers(saved(tmp_path / "model.pt", {"fc.weight": weight}))
    np.testing.assert_array_equal(layer.read().astype(np.float32), weight.float().numpy())


def test_a_lightning_checkpoint_after_training(tmp_path):
    lightning = pytest.importorskip("lightning")
    loader = torch.utils.data.DataLoader(torch.randn(4, 60), batch_size=2)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"width": 60})
            self.net = nn.Sequential(nn.Linear(60, 50), nn.ReLU(), nn.Linear(50, 30))

        def training_step(self, batch):
            return self.net(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    module = Module()
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, loader)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert_same_matrices(tmp_path / "last.ckpt", module)
    assert list(outcome(tmp_path / "last.ckpt")) == ["net.0", "net.2"]


def test_the_report_of_a_file_says_that_kinds_are_inferred(tmp_path):
    path = saved(tmp_path / "model.pt", network().state_dict())
    report, built = ww.analyze(path), ww.analyze(network())
    assert [layer.kind for layer in report] == [
        "convolution (inferred)",
        "vector (inferred)",
        "matrix (inferred)",
        "matrix (inferred)",
    ]
    assert [layer.alpha for layer in report] == [layer.alpha for layer in built]
    assert "inferred" in str(report)


def test_tied_weights_are_analysed_once(tmp_path):
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    path = saved(tmp_path / "model.pt", model.state_dict())
    assert outcome(path) == {"0": "matrix (inferred)", "1": "shares its weight with 0"}


def test_views_of_one_storage_are_different_weights(tmp_path):
    both = torch.randn(12, 6)
    path = saved(tmp_path / "model.pt", {"q.weight": both[:6], "k.weight": both[6:]})
    layers = {layer.name: layer for layer in find_layers(path)}
    np.testing.assert_array_equal(layers["q"].read(), both[:6].numpy())
    np.testing.assert_array_equal(layers["k"].read(), both[6:].numpy())


def test_weights_that_are_not_contiguous(tmp_path):
    path = saved(tmp_path / "model.pt", {"fc.weight": torch.arange(12.0).reshape(3, 4).t()})
    np.testing.assert_array_equal(find_layers(path)[0].read(), np.arange(12.0).reshape(3, 4).T)


def test_what_is_not_a_plain_tensor_is_listed_with_the_reason(tmp_path):
    content = {
        "int.weight": torch.ones(4, 3, dtype=torch.int8),
        "sparse.weight": torch.ones(4, 3).to_sparse(),
        "complex.weight": torch.ones(4, 3, dtype=torch.complex64),
        "quantised.weight": torch.quantize_per_tensor(torch.ones(4, 3), 0.1, 0, torch.qint8),
        "meta.weight": torch.ones(4, 3, device="meta"),
    }
    found = outcome(saved(tmp_path / "model.pt", content))
    assert list(found) == ["int", "sparse", "complex", "quantised", "meta"]
    for name, word in zip(found, ["int8", "sparse", "complex64", "qint8", "meta device"], strict=True):
        assert word in found[name]


def test_parameters_of_optimizers_are_no_weights(tmp_path):
    optimizer = torch.optim.Adam(network().parameters())
    path = saved(tmp_path / "model.pt", {"fc": {"weight": torch.ones(3, 4)}, "optimizer_state": optimizer.state_dict()})
    assert list(outcome(path)) == ["fc"]


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], 5, {"state_dict": {}}], ids=str)
def test_files_without_weights_say_what_they_hold(tmp_path, content):
    path = saved(tmp_path / "model.pt", content)
    with pytest.raises(ww.WeightsFileError, match=r"model\.pt: holds no weights but a"):
        find_layers(path)


def test_a_single_tensor(tmp_path):
    path = saved(tmp_path / "model.pt", torch.randn(40, 30))
    assert outcome(path) == {"tensor": "matrix (inferred)"}


@pytest.mark.parametrize("others", [["discriminator"], ["ema", "teacher"]])
def test_all_networks_of_a_checkpoint_are_found(tmp_path, others):
    networks = {key: network() for key in ["model", *others]}
    optimizer = torch.optim.Adam(network().parameters())
    content = {key: each.state_dict() for key, each in networks.items()}
    path = saved(tmp_path / "model.pt", content | {"optimizer": optimizer.state_dict(), "epoch": 3})
    found = {layer.name: layer for layer in find_layers(path)}
    for key, each in networks.items():
        for layer in find_layers(each):
            if layer.read is not None:
                np.testing.assert_array_equal(found[f"{key}.{layer.name}"].read(), layer.read())


def test_an_archive_of_a_big_endian_computer(tmp_path):
    weight = torch.randn(6, 5)
    path = saved(tmp_path / "model.pt", {"fc.weight": weight})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "big.pt", "w") as new:
        for member in old.infolist():
            content = old.read(member)
            is_order, is_numbers = member.filename.endswith("byteorder"), "/data/" in member.filename
            content = np.frombuffer(content, "<f4").byteswap().tobytes() if is_numbers else content
            new.writestr(member.filename, b"big" if is_order else content)
    np.testing.assert_array_equal(find_layers(tmp_path / "big.pt")[0].read(), weight.numpy())


def test_files_are_read_without_torch(tmp_path):
    path = saved(tmp_path / "model.pt", {"fc.weight": torch.randn(60, 50)})
    code = "import sys; sys.modules['torch'] = None; import ww_callbacks as ww; print(len(ww.analyze(sys.argv[1])))"
    ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout.strip(), ran.returncode) == ("1", 0), ran.stderr


def test_flat_names_of_an_optimizer_are_no_weights_and_those_that_begin_alike_are(tmp_path):
    names = ["optimal_proj.weight", "rng_mixer.weight", "optimizer.state.0.exp_avg", "optim.fc.exp_avg"]
    path = saved(tmp_path / "model.pt", {name: torch.ones(4, 3) for name in names})
    assert list(outcome(path)) == ["optimal_proj", "rng_mixer"]


def test_a_network_under_two_keys_is_listed_twice(tmp_path):
    state = {"fc.weight": torch.ones(4, 3)}
    path = saved(tmp_path / "model.pt", {"model": state, "ema": state})
    assert outcome(path) == {"model.fc": "matrix (inferred)", "ema.fc": "shares its weight with model.fc"}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("inner", [{"x": 1}, {"fc.weight": torch.ones(4, 3)}], ids=["nothing", "weights"])
def test_mappings_that_hold_each_other_many_times_end(tmp_path, inner):
    """Each of 20 levels has six keys with the same mapping: 6²⁰ ways to the last one."""
    for _ in range(20):
        inner = dict.fromkeys(("model", "module", "net", "weights", "params", "critic"), inner)
    with pytest.raises(ww.WeightsFileError):
        find_layers(saved(tmp_path / "model.pt", inner))
