"""Refuses the replicas of nn.DataParallel, which share the hooks of a changed model."""

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(eq=False)
class RefuseReplica:
    """A forward pre-hook that raises in the replicas which nn.DataParallel makes for several devices.

    A replica shares all that is not a module: hooks, and the objects in them. These would use frequencies on the device
    of the original, and share the grid and the factor of the current images between threads.

    Args:
        caller: Function that changed the model.
    """

    caller: str

    def __call__(self, module: nn.Module, args: Any) -> None:
        """Raise ValueError if the module is a replica."""
        del args
        if getattr(module, "_is_replica", False):
            raise ValueError(
                f"got nn.DataParallel over several devices after {self.caller}, whose hooks all replicas would share; "
                "use DistributedDataParallel, or one device"
            )
