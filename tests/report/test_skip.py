"""Why a layer has no fit: a value from a closed set, and its sentence."""

from typing import get_args

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.report import Role, Skip, SkipReason
from ww_callbacks.report.skip import SENTENCES

RNG = np.random.default_rng(0)


def test_every_reason_has_a_sentence() -> None:
    assert set(SENTENCES) == set(get_args(SkipReason))
    for reason in SENTENCES:
        sentence = Skip(reason, "the detail {0}").sentence
        assert sentence
        assert "{detail}" not in sentence


def arrays() -> dict[str, object]:
    return {
        "ok": RNG.standard_normal((80, 60)),
        "vector": np.ones(5),
        "cube": np.ones((2, 3, 4)),
        "ragged": [[1.0], [1.0, 2.0]],
        "complex": np.ones((3, 4), dtype=complex),
        "zero": np.zeros((30, 20)),
        "empty": np.zeros((0, 5)),
        "nan": np.full((30, 30), np.nan),
        "huge": 1e300 * RNG.random((30, 30)),
        "small": RNG.standard_normal((100, 10)),
        "orthogonal": np.linalg.qr(RNG.standard_normal((60, 60)))[0],
    }


ARRAY_REASONS = {
    "ok": None,
    "vector": "no_matrix",
    "cube": "no_rule",
    "ragged": "unreadable",
    "complex": "unsupported_dtype",
    "zero": "zero",
    "empty": "empty",
    "nan": "non_finite",
    "huge": "out_of_range",
    "small": "too_few_eigenvalues",
    "orthogonal": "equal_eigenvalues",
}


def test_the_reasons_of_arrays() -> None:
    report = ww.analyze(arrays())
    assert {layer.name: layer.skip_reason for layer in report} == ARRAY_REASONS
    assert [layer.name for layer in report if layer.status == "failed"] == ["nan", "huge"]
    assert ww.analyze(arrays(), layers=["ok"])["small"].skip_reason == "excluded"


def test_the_reasons_and_roles_of_a_zoo_of_modules() -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Unknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack = nn.Parameter(torch.ones(3, 4))

    zoo = nn.ModuleDict(
        {
            "table": nn.Embedding(90, 64),
            "large": nn.Embedding(50_001, 2),
            "tied": nn.Linear(64, 90, bias=False),
            "conv": nn.Conv2d(64, 64, 3),
            "depthwise": nn.Conv2d(4, 4, 3, groups=4),
            "norm": nn.LayerNorm((4, 5)),
            "vectors": nn.BatchNorm1d(4),
            "gates": nn.GRU(60, 60, bias=False),
            "attention": nn.MultiheadAttention(64, 2, add_bias_kv=True),
            "lazy": nn.LazyLinear(5),
            "bilinear": nn.Bilinear(3, 4, 5),
            "complex": nn.Linear(3, 4, dtype=torch.complex64),
            "unknown": Unknown(),
        }
    )
    zoo["tied"].weight = zoo["table"].weight
    report = ww.analyze(zoo)
    for layer in report:
        assert (layer.skip_reason is None) == (layer.status == "ok") == (layer.reason == "")
        assert layer.skip_reason is None or layer.skip_reason in get_args(SkipReason)
        assert layer.role in get_args(Role)
    found = {layer.name: (layer.role, layer.skip_reason) for layer in report}
    assert found == {
        "table": ("embedding", None),
        "large": ("embedding", "too_many_rows"),
        "tied": ("matrix", "tied"),
        "conv": ("convolution", None),
        "depthwise": ("convolution", "no_matrix"),
        "norm": ("norm", "no_matrix"),
        "norm.bias": ("bias", "no_matrix"),
        "vectors": ("vector", "no_matrix"),
        **{f"gates.weight_{side}_l0.{gate}": ("recurrent", None) for side in ("ih", "hh") for gate in "rzn"},
        "attention.q": ("matrix", None),
        "attention.k": ("matrix", None),
        "attention.v": ("matrix", None),
        "attention.bias_k": ("bias", "no_matrix"),
        "attention.bias_v": ("bias", "no_matrix"),
        "attention.out_proj": ("matrix", None),
        "lazy": ("matrix", "not_built"),
        "bilinear": ("other", "no_matrix"),
        "complex": ("matrix", "unsupported_dtype"),
        "unknown.stack": ("other", "no_rule"),
    }


def test_reason_and_role_are_columns_and_survive_json() -> None:
    report = ww.analyze({"w": RNG.standard_normal((80, 60)), "b": np.ones(5)})
    columns = report.layers[1].to_dict()
    assert (columns["role"], columns["skip_reason"]) == ("other", "no_matrix")
    assert ww.LayerReport.from_dict(columns) == report.layers[1]
    assert report.layers[0].to_dict()["skip_reason"] is None
