"""What the callback has to know of the Trainer that calls it and is not told: its other callbacks, its checkpoint."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ww_callbacks.huggingface.base import CallbackHandler


@dataclass(frozen=True, slots=True)
class Caller:
    """The Trainer that calls a callback.

    Attributes:
        callbacks: all callbacks of the Trainer, those of ``report_to`` included; empty if it is not found.
        checkpoint: the folder from which training resumes, None if it does not.
    """

    callbacks: tuple[Any, ...] = ()
    checkpoint: Path | None = None

    @classmethod
    def now(cls) -> Caller:
        """The Trainer that is calling, found among the callers of this function.

        Transformers hands neither the Trainer nor its callbacks nor the checkpoint to a callback.
        """
        callbacks: tuple[Any, ...] = ()
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            owner = frame.f_locals.get("self")
            if isinstance(owner, CallbackHandler):
                callbacks = tuple(owner.callbacks)
            elif isinstance(getattr(owner, "callback_handler", None), CallbackHandler):
                folder = frame.f_locals.get("resume_from_checkpoint")
                return cls(callbacks, Path(folder) if isinstance(folder, (str, os.PathLike)) else None)
            frame = frame.f_back
        return cls(callbacks)
