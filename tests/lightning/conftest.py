"""Binds the callbacks to pytorch_lightning: they take their base class from the distribution that is loaded first.

LightningCLI of pytorch_lightning accepts subclasses of its own Callback only.
"""

import pytorch_lightning  # noqa: F401

import ww_callbacks.lightning  # noqa: F401
