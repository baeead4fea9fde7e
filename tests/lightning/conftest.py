"""Loads pytorch_lightning before ww_callbacks.lightning: the callbacks bind to the distribution that is loaded first.

LightningCLI of pytorch_lightning accepts subclasses of its own Callback only.
"""

import pytorch_lightning  # noqa: F401
