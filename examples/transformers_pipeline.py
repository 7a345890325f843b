"""Save a model in the format of transformers, then load it with Auto classes and a pipeline, without a network.

The model is small and untrained, so its predictions are meaningless; `ropevit.load_model(file)` loads a trained one,
and published weights come from `from_published("rope_mixed_deit_small_patch16_LS")`.
"""

import tempfile

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

import ropevit
from ropevit.integrations.transformers import RopeViTBackbone, from_ropevit, image_processor

model = ropevit.create_model("rope_mixed_deit_tiny_patch16_LS", depth=4, img_size=96, num_classes=3)

with tempfile.TemporaryDirectory() as folder:
    converted = from_ropevit(model.eval(), classes=["bird", "cat", "dog"])
    converted.save_pretrained(folder)
    image_processor(converted.config).save_pretrained(folder)  # shorter side to 96, bicubic, center square

    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    for guess in pipeline("image-classification", model=folder)(Image.fromarray(pixels)):
        print(f"{guess['score']:.3f} {guess['label']}")

    wide = torch.randn(1, 3, 96, 160)  # any height and width that the patches tile
    loaded = AutoModelForImageClassification.from_pretrained(folder)
    print("logits as before:", torch.equal(loaded(wide).logits, model(wide)))

    backbone = RopeViTBackbone.from_pretrained(folder, out_indices=[2, 4])  # after two blocks, and after four
    print("maps:", [tuple(each.shape) for each in backbone(wide).feature_maps])
