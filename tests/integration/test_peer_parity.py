"""WeightWatcher 0.7.7 and ww_callbacks on the same trained weights."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from shipped import matrices

import ww_callbacks as ww
from ww_callbacks.report import LayerReport, Report

NETWORKS = ("alphapredict-v7.pt", "efficientnet-lite0.pth", "g2p.npz", "mtcnn-onet.lz4", "silero-vad.safetensors")
SAME = ("lambda_max", "norm", "log_norm", "spectral_norm", "log_spectral_norm", "stable_rank", "entropy")

# Recorded from WeightWatcher's analyze(mp_fit=True), which is slow.
SIGMA_MP = {
    "enc_emb": 1.0236492955498373,
    "enc_w_ih": 0.5924018818726049,
    "enc_w_hh": 0.6937016702896308,
    "dec_emb": 1.0137270353804153,
    "dec_w_ih": 0.6234759893131503,
    "dec_w_hh": 0.6603273411423122,
    "fc_w": 0.6994533610759973,
}

every_network = pytest.mark.parametrize("name", NETWORKS)


@lru_cache
def weights(name: str) -> dict[str, np.ndarray]:
    """The matrices that both packages analyse; WeightWatcher knows no convolution of one dimension."""
    return {layer: value for layer, value in matrices(name).items() if value.ndim in (2, 4)}


@lru_cache
def analysed(name: str) -> Report:
    return ww.analyze({f"{layer}.weight": value for layer, value in weights(name).items()})


@lru_cache
def reference(name: str) -> dict[str, dict[str, Any]]:
    """WeightWatcher's rows, by layer."""
    network = torch.nn.Module()
    for layer, value in weights(name).items():
        outputs, inputs, *kernel = value.shape
        module = torch.nn.Conv2d(inputs, outputs, kernel) if kernel else torch.nn.Linear(inputs, outputs)
        module.weight = torch.nn.Parameter(torch.tensor(value))
        network.add_module(layer.replace(".", "/"), module)
    return {layer.replace("/", "."): row for layer, row in weightwatcher_rows(network).items()}


def weightwatcher_rows(model: Any) -> dict[str, dict[str, Any]]:
    import weightwatcher

    with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        frame = weightwatcher.WeightWatcher(model=model).analyze()
    return {row["longname"]: row for row in frame.to_dict("records")}


def pairs(name: str) -> Iterator[tuple[LayerReport, dict[str, Any]]]:
    rows = reference(name)
    for layer in analysed(name):
        if layer.name in rows:
            yield layer, rows[layer.name]


@every_network
def test_norms_ranks_and_entropy(name):
    compared = 0
    for layer, row in pairs(name):
        for metric in SAME:
            assert getattr(layer, metric) == pytest.approx(row[metric], rel=1e-4)
            compared += 1
    assert compared >= 42


@every_network
def test_power_law_is_equal_if_the_same_xmin_is_chosen(name, capsys):
    same, other = 0, []
    for layer, row in pairs(name):
        if layer.alpha is None:
            continue
        if layer.xmin == pytest.approx(row["xmin"], rel=1e-6):
            assert (layer.alpha, layer.D) == pytest.approx((row["alpha"], row["D"]), abs=1e-6, rel=1e-6)
            same += 1
        else:
            other.append(layer.name)
            # WeightWatcher excludes eigenvalues up to 1e-5 and may choose another xmin, but its D is never smaller.
            assert row["D"] + 1e-6 >= layer.D
    with capsys.disabled():
        print(f"\n{name}: alpha, D, xmin equal in {same} layers, another xmin in {other}")
    assert same >= 5
    assert len(other) <= 0.15 * (same + len(other))


@every_network
def test_mean_alpha_is_below_that_of_the_shuffled_control(name, capsys):
    layers = [layer for layer in analysed(name) if layer.alpha is not None and layer.rand_alpha is not None]
    alpha, control = np.mean([x.alpha for x in layers]), np.mean([x.rand_alpha for x in layers])
    formed = np.mean([layer.warning != "no tail" for layer in layers])
    with capsys.disabled():
        print(f"\n{name}: alpha {alpha:.2f}, shuffled {control:.2f}, tail formed in {formed:.0%} of {len(layers)}")
    assert alpha < control


def test_sigma_mp_is_equal_for_rectangular_layers():
    for layer in analysed("g2p.npz"):
        assert layer.sigma_mp == pytest.approx(SIGMA_MP[layer.name], abs=1e-6)


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
    rows = weightwatcher_rows(trained_network)
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
