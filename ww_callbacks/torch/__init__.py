"""For hand-written torch loops: each layer at its own learning rate."""

from ww_callbacks.torch.layerwise import Layerwise, layerwise

__all__ = ["Layerwise", "layerwise"]
