"""Export a model as ONNX with dynamic batch, height and width, and run it with onnxruntime at two sizes.

Needs onnx: pip install ".[export]" in a clone of ropevit. On the command line:
ropevit export model.onnx --checkpoint model.safetensors
"""

import json

import onnxruntime
import torch

from ropevit.integrations.export import export_onnx
from ropevit.models import ViTConfig, build_model

config = ViTConfig(position="rope_mixed", width=64, depth=1, heads=2, img_size=(128, 192), num_classes=3)
model = build_model(config).eval()
report = export_onnx(model, "model.onnx", classes=["bird", "cat", "dog"], overwrite=True)
print(
    f"{report.path}: {report.size / 1e3:.0f} kB, opset {report.opset}, {dict(report.inputs)} -> {dict(report.outputs)}"
)

# A program in any language reads the normalization from the file, then runs it.
session = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
facts = session.get_modelmeta().custom_metadata_map
mean, std = (torch.tensor(json.loads(facts[key])).view(3, 1, 1) for key in ("mean", "std"))
classes = json.loads(facts["classes"])

for height, width in ((128, 192), (160, 96)):
    pixels = torch.rand(2, 3, height, width)  # from 0 to 1
    images = (pixels - mean) / std
    (logits,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        difference = (torch.from_numpy(logits) - model(images)).abs().max()
    predicted = ", ".join(classes[index] for index in logits.argmax(1))
    print(f"{height} x {width}: {predicted}; largest difference from PyTorch {difference:.1e}")
