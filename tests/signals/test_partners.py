"""Normalisation layers and the layers they go with."""

from __future__ import annotations

import pytest

from ww_callbacks.signals.partners import find_partners


@pytest.mark.parametrize(
    ("names", "norms", "expected"),
    [
        # a residual block: each batch normalisation with the convolution before it
        (
            ["conv1", "bn1", "layer1.0.conv1", "layer1.0.bn1", "layer1.0.conv2", "layer1.0.bn2", "fc"],
            {"bn1", "layer1.0.bn1", "layer1.0.bn2"},
            {"bn1": "conv1", "layer1.0.bn1": "layer1.0.conv1", "layer1.0.bn2": "layer1.0.conv2"},
        ),
        # a transformer block that normalises first
        (
            ["wte", "h.0.ln_1", "h.0.attn.c_attn", "h.0.ln_2", "h.0.mlp.c_fc", "ln_f", "head"],
            {"h.0.ln_1", "h.0.ln_2", "ln_f"},
            {"h.0.ln_1": "h.0.attn.c_attn", "h.0.ln_2": "h.0.attn.c_attn", "ln_f": "h.0.mlp.c_fc"},
        ),
        (["norm", "fc"], {"norm"}, {"norm": "fc"}),
        (["norm"], {"norm"}, {}),
        (["fc"], set(), {}),
    ],
)
def test_partners(names, norms, expected):
    assert find_partners(names, norms) == expected
