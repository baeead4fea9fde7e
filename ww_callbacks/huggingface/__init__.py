"""The callback for the Trainer of Hugging Face Transformers."""

from ww_callbacks.huggingface import base  # noqa: F401 - first: it says which extra is missing
from ww_callbacks.huggingface.monitor import SpectralMonitor

__all__ = ["SpectralMonitor"]
