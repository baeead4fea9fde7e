"""For hand-written torch loops: one monitor for all ranks, each layer at its own learning rate."""

from ww_callbacks.torch.distributed import DistributedMonitor
from ww_callbacks.torch.layerwise import Layerwise, layerwise

__all__ = ["DistributedMonitor", "Layerwise", "layerwise"]
