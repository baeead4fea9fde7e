"""The same run decides the same, however long the analysis takes."""

from __future__ import annotations

import pytest
from delayed import Delayed

import ww_callbacks as ww

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.timeout(120)


def train(seconds, steps=300, **options):
    """Train a small network until "plateau" ends it; each analysis of a layer takes ``seconds`` more.

    Returns:
        The step of the stop (None without), its reason, and the steps and mean alphas of the results.
    """
    torch.manual_seed(0)
    relu = torch.nn.ReLU
    layers = [torch.nn.Linear(64, 96), relu(), torch.nn.Linear(96, 64), relu(), torch.nn.Linear(64, 2)]
    net = torch.nn.Sequential(*layers)
    x = torch.randn(64, 64)
    y = (x[:, :8].sum(1) > 0).long()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    with Delayed(seconds) as executor:
        monitor = ww.Monitor(net, every_n_steps=10, executor=executor, randomize=False, figures=False, **options)
        monitor.attach("stop", ww.EarlyStopping(rules=["plateau"], patience=3, min_delta=0.5))
        monitor.start()
        stop = None
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
            monitor.step(step)
            if monitor.should_stop:
                stop = step
                break
        reason = monitor.stop_reason
        monitor.close()
    return stop, reason, monitor.history.steps, monitor.history.series("alpha")


def test_a_slow_analysis_changes_neither_the_step_nor_the_reason_of_a_stop():
    fast, slow = train(0.0), train(0.03)
    assert fast[0] is not None
    assert fast[1].startswith(f"plateau at step {fast[0] - 10} (stopped at {fast[0]}): the mean alpha of")
    assert slow == fast


def test_without_waiting_a_slow_analysis_changes_what_is_decided():
    fast, slow = train(0.0), train(0.3, deterministic=False)
    assert slow[0] != fast[0]
