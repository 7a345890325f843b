import pytest
import torch

from ropevit.models import Swin, SwinConfig, ViT, ViTConfig
from ropevit.models.dense import DenseSwin, DenseSwinConfig, DenseViT, DenseViTConfig

VIT = ViTConfig(position="ape", width=8, depth=1, heads=1, img_size=(32, 32))
SWIN = SwinConfig(position="rpb", width=8, depths=(1,), heads=(1,))


@pytest.mark.usefixtures("unchecked")
def test_images_of_whole_numbers_are_refused_with_what_to_do():
    images = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    dense_vit, dense_swin = DenseViT(DenseViTConfig(body=VIT)), DenseSwin(DenseSwinConfig(body=SWIN))
    for run in (ViT(VIT), Swin(SWIN), dense_vit, dense_swin, lambda batch: ViT(VIT).pack(list(batch))):
        with pytest.raises(
            ValueError, match=r"got images of torch.uint8; expected floating-point pixels.* / 255 - mean"
        ):
            run(images)
