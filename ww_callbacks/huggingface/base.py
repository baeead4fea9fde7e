"""What is used of Transformers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # transformers need not be installed to check types
    TrainerCallback = object

    class CallbackHandler:
        """That of transformers."""

        callbacks: list[Any]

    INTEGRATION_TO_CALLBACK: dict[str, Any] = {}
else:
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise ImportError(
            "ww_callbacks.huggingface needs transformers: pip install ww_callbacks[huggingface]"
        ) from error
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from transformers.trainer_callback import CallbackHandler

log = logging.getLogger("transformers.ww_callbacks")
"""A child of the logger of transformers: it has its level and its handlers."""

__all__ = ["INTEGRATION_TO_CALLBACK", "CallbackHandler", "TrainerCallback", "log"]
