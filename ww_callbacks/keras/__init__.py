"""The callbacks for Keras 3, on the torch, JAX and TensorFlow backends."""

try:
    import keras  # noqa: F401 - the message below replaces the traceback if Keras is missing
except ModuleNotFoundError as error:
    if error.name != "keras":  # Keras is installed and reports what its backend lacks
        raise
    raise ImportError("ww_callbacks.keras needs Keras: pip install ww_callbacks[keras]") from error

from ww_callbacks.keras.early_stopping import SpectralEarlyStopping
from ww_callbacks.keras.layerwise import layerwise
from ww_callbacks.keras.learning_rate import LayerwiseLearningRate
from ww_callbacks.keras.monitor import SpectralMonitor, monitor_of

__all__ = ["LayerwiseLearningRate", "SpectralEarlyStopping", "SpectralMonitor", "layerwise", "monitor_of"]
