"""The panels of a study: one task each, behind one interface."""

from ropevit.study.panels.base import CheckStop, MajorityScore, Panel, batches, vit_config
from ropevit.study.panels.far import FarPanel
from ropevit.study.panels.field import FieldPanel
from ropevit.study.panels.pixels import mean_iou, predict_tiles
from ropevit.study.panels.zoom import ZoomPanel
from ropevit.tasks.evaluation.inference_modes import BASELINE_LABELS, InferenceMode

#: Name -> panel.
PANEL_CLASSES: dict[str, type[Panel]] = {"field": FieldPanel, "zoom": ZoomPanel, "far": FarPanel}

__all__ = [
    "BASELINE_LABELS",
    "PANEL_CLASSES",
    "CheckStop",
    "FarPanel",
    "FieldPanel",
    "InferenceMode",
    "MajorityScore",
    "Panel",
    "ZoomPanel",
    "batches",
    "mean_iou",
    "predict_tiles",
    "vit_config",
]
