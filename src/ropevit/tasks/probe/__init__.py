"""Probes of frozen features: k nearest neighbors and a linear classifier, at several sizes and RoPE scaling methods."""

from typing import TYPE_CHECKING

from ropevit.lazy import lazy_attributes

if TYPE_CHECKING:
    from ropevit.tasks.probe.config import ProbeConfig
    from ropevit.tasks.probe.knn import knn_predict
    from ropevit.tasks.probe.linear import linear_probe
    from ropevit.tasks.probe.run import probe

__all__ = ["ProbeConfig", "knn_predict", "linear_probe", "probe"]

#: Public name -> its module, loaded on first access.
MODULES = {"ProbeConfig": "config", "knn_predict": "knn", "linear_probe": "linear", "probe": "run"}

__getattr__, __dir__ = lazy_attributes(__name__, MODULES)
