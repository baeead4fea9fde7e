"""The callbacks for PyTorch Lightning.

They work in the list of callbacks of a Trainer of either distribution, ``pytorch_lightning`` or ``lightning``.
"""

from ww_callbacks.lightning import base  # noqa: F401 - first: it says which extra is missing
from ww_callbacks.lightning.early_stopping import SpectralEarlyStopping
from ww_callbacks.lightning.learning_rate import LayerwiseLearningRate
from ww_callbacks.lightning.monitor import SpectralMonitor

__all__ = ["LayerwiseLearningRate", "SpectralEarlyStopping", "SpectralMonitor"]
