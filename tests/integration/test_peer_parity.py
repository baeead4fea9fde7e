"""WeightWatcher 0.7.7 and ww_callbacks on the same trained weights."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.report import LayerReport, Report

torch = pytest.importorskip("torch")

WEIGHTS = Path(os.environ.get("WW_TEST_WEIGHTS", Path(__file__).parents[3] / "shared" / "weights"))
NETWORKS = {
    "cifar10_resnet20-12fca82f.th": "cifar_resnet20",
    "cifar10_resnet32-d509ac18.th": "cifar_resnet32",
    "cifar10_resnet44-014dd654.th": "cifar_resnet44",
    "cifar10_resnet56-4bfd9763.th": "cifar_resnet56",
    "distiller_resnet20_dense.pth.tar": "distiller_resnet20_dense",
    "distiller_resnet20_channel_regularised.pth.tar": "distiller_resnet20_chreg",
    "distiller_resnet20_5_layers_zeroed.pth.tar": "distiller_resnet20_4D5Lremoved",
}
SAME = ("lambda_max", "norm", "log_norm", "spectral_norm", "log_spectral_norm", "stable_rank", "entropy")

needs_weights = pytest.mark.skipif(not WEIGHTS.is_dir(), reason=f"no trained weights in {WEIGHTS}")
every_network = pytest.mark.parametrize("file", NETWORKS)


@lru_cache(maxsize=8)
def analysed(file: str) -> Report:
    state = torch.load(WEIGHTS / file, weights_only=True, map_location="cpu")["state_dict"]
    weights = {key: value for key, value in state.items() if value.ndim in (2, 4)}
    return ww.analyze({key.removeprefix("module.").removesuffix(".weight"): value for key, value in weights.items()})


def reference(file: str) -> dict[str, dict[str, str]]:
    with open(WEIGHTS / "reference" / f"{NETWORKS[file]}.details.csv") as lines:
        return {row["longname"].removeprefix("module."): row for row in csv.DictReader(lines)}


def pairs(file: str) -> Iterator[tuple[LayerReport, dict[str, str]]]:
    rows = reference(file)
    for layer in analysed(file):
        if layer.name in rows:
            yield layer, rows[layer.name]


@needs_weights
@every_network
def test_norms_ranks_and_entropy(file):
    compared = 0
    for layer, row in pairs(file):
        for name in SAME:
            if getattr(layer, name) is None:  # WeightWatcher writes -inf, NaN or 0
                assert layer.reason == "all weights are zero"
                continue
            expected = float(row[name])
            assert getattr(layer, name) == pytest.approx(expected, rel=1e-4)
            compared += 1
    assert compared > 80


@needs_weights
@every_network
def test_power_law_is_equal_if_the_same_xmin_is_chosen(file, capsys):
    same, other = 0, []
    for layer, row in pairs(file):
        if layer.alpha is None or float(row["alpha"]) < 0:
            continue
        if layer.xmin == pytest.approx(float(row["xmin"]), rel=1e-6):
            assert layer.alpha == pytest.approx(float(row["alpha"]), abs=1e-6, rel=1e-6)
            assert pytest.approx(float(row["D"]), abs=1e-6) == layer.D
            same += 1
        else:
            other.append(layer.name)
            # WeightWatcher excludes eigenvalues up to 1e-5 and may choose another xmin, but its D is never smaller.
            assert float(row["D"]) + 1e-6 >= layer.D
    with capsys.disabled():
        print(f"\n{file}: alpha, D, xmin equal in {same} layers, another xmin in {other}")
    assert same >= 10
    assert len(other) <= 0.15 * (same + len(other))


@needs_weights
@every_network
def test_mean_alpha_is_below_that_of_the_shuffled_control(file, capsys):
    layers = [layer for layer in analysed(file) if layer.alpha is not None and layer.rand_alpha is not None]
    alpha, control = np.mean([x.alpha for x in layers]), np.mean([x.rand_alpha for x in layers])
    formed = np.mean([layer.warning != "no tail" for layer in layers])
    with capsys.disabled():
        print(f"\n{file}: alpha {alpha:.2f}, shuffled {control:.2f}, tail formed in {formed:.0%} of {len(layers)}")
    assert alpha < control


@needs_weights
def test_sigma_mp_is_equal_for_rectangular_layers():
    file = "cifar10_resnet20-12fca82f.th"
    with open(WEIGHTS / "reference" / "cifar_resnet20.mp.details.csv") as lines:
        rows = {row["longname"].removeprefix("module."): row for row in csv.DictReader(lines)}
    compared = 0
    for layer in analysed(file):
        if layer.sigma_mp is not None and layer.Q > 1 and layer.name in rows:
            assert layer.sigma_mp == pytest.approx(float(rows[layer.name]["sigma_mp"]), abs=1e-6)
            compared += 1
    assert compared >= 3


@needs_weights
def test_published_scale_collapse_is_found():
    """The scales of some layers differ strongly between the dense and the channel-regularised network."""
    before, after = (analysed(f"distiller_resnet20_{kind}.pth.tar") for kind in ("dense", "channel_regularised"))
    changes = after.scale_collapse(before)
    assert len(changes) >= 15
    assert all(math.isfinite(change.z) for change in changes)
    assert max(abs(change.change) for change in changes) > 0.2


@pytest.fixture(scope="module")
def trained_network():
    """A small network, trained on scikit-learn's digits for 60 steps."""
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 8, 8)),
        torch.nn.Conv2d(1, 32, 3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 48, 3),
        torch.nn.Flatten(),
        torch.nn.ReLU(),
        torch.nn.Linear(768, 100),
        torch.nn.ReLU(),
        torch.nn.Linear(100, 60),
        torch.nn.ReLU(),
        torch.nn.Linear(60, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for step in range(60):
        part = slice(64 * step % 1700, 64 * step % 1700 + 64)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()
    torch.set_num_threads(threads)
    return model


def test_small_trained_network_agrees_with_weightwatcher(trained_network):
    weightwatcher = pytest.importorskip("weightwatcher")
    with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        frame = weightwatcher.WeightWatcher(model=trained_network).analyze()
    rows = {row["longname"]: row for row in frame.to_dict("records")}
    compared = 0
    for layer in ww.analyze(trained_network):
        if layer.alpha is None or layer.name not in rows:
            continue
        row = rows[layer.name]
        for name in SAME:
            assert getattr(layer, name) == pytest.approx(row[name], rel=1e-4)
        if layer.xmin == pytest.approx(row["xmin"], rel=1e-6):
            assert (layer.alpha, layer.D) == pytest.approx((row["alpha"], row["D"]), abs=1e-6)
            compared += 1
    assert compared >= 3


def test_numbers_of_a_published_notebook_are_reproduced():
    torch.manual_seed(0)
    model = torch.nn.Sequential(*[torch.nn.Linear(a, b) for a, b in ((784, 300), (300, 100), (100, 10))])
    for layer in model:
        torch.nn.init.xavier_normal_(layer.weight)
    report = ww.analyze(model)
    assert [layer.alpha for layer in report][:2] == pytest.approx([14.675, 14.347], abs=0.01)
    assert [layer.num_traps for layer in report] == [0, 0, 0]
