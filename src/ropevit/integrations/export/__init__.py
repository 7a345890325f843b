"""Exports models as ONNX files and torch.export programs, and checks their outputs against the model's.

>>> report = export_onnx(model, "model.onnx", classes=["bird", "cat"])
>>> report = export_torch(model, "model.pt2")
"""

from ropevit.integrations.export.check import Difference, MismatchError
from ropevit.integrations.export.files import ExportReport, export_onnx, export_torch

__all__ = ["Difference", "ExportReport", "MismatchError", "export_onnx", "export_torch"]
