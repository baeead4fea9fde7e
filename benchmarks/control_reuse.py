"""Accuracy and CPU time of reused shuffled controls during training.

    python benchmarks/control_reuse.py [--steps 600]

An MLP learns to classify noisy data. Every 20 steps each layer is analysed with a new control and with a control that
is reused by the rule of `reuse_control`. The error is the relative error of `max_rand_eval`.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch import nn

from ww_callbacks.analysis.control_cache import Controls
from ww_callbacks.spectra import element_variance

TOLERANCES = (0.01, 0.02, 0.05, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 256))
    means = torch.randn(256, 512)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    kept: dict[tuple[float, int], object] = {}
    found: dict[float, list[tuple[bool, float, bool]]] = {tolerance: [] for tolerance in TOLERANCES}
    seconds = {"new": 0.0, "again": 0.0}
    for step in range(steps + 1):
        labels = torch.randint(0, 256, (128,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(means[labels] + 2 * torch.randn(128, 512)), labels).backward()
        optimizer.step()
        if step % 20:
            continue
        for index, layer in enumerate(module for module in net if isinstance(module, nn.Linear)):
            weights = layer.weight.detach().numpy()[None].copy()
            variances = [element_variance(weights[0])]
            begin = time.process_time()
            exact, _ = Controls().control(weights, seed=0, variances=variances, step=step)
            seconds["new"] += time.process_time() - begin
            for tolerance in TOLERANCES:
                controls = Controls(tolerance, kept.get((tolerance, index)))
                begin = time.process_time()
                ours, of_step = controls.control(weights, seed=0, variances=variances, step=step)
                if tolerance == 0.02:
                    seconds["again"] += time.process_time() - begin
                kept[tolerance, index] = controls.kept
                error = abs(ours.max_rand_eval / exact.max_rand_eval - 1)
                found[tolerance].append((of_step != step, error, ours.num_traps != exact.num_traps))
    print("| reuse_control | reused | error of max_rand_eval: median of these | largest | different number of traps |")
    print("| --- | --- | --- | --- | --- |")
    for tolerance, all_ in found.items():
        errors = [error for again, error, _ in all_ if again] or [0.0]
        print(
            f"| {tolerance} | {len([1 for again, *_ in all_ if again])} of {len(all_)} | {np.median(errors):.2%} "
            f"| {max(errors):.2%} | {sum(other for *_, other in all_)} |"
        )
    print(f"CPU time of all controls: {seconds['new']:.2f} s new, {seconds['again']:.2f} s at 0.02")


if __name__ == "__main__":
    main()
