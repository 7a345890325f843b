"""Features of image files: patch tokens on their grid, class and register tokens, and the pooled vector."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from ropevit.data.loading import batches
from ropevit.files import write_atomically
from ropevit.models.architectures import Model
from ropevit.tasks.classify.predict import FileReader, InputTransform, Unreadable, by_shape


class ImageFeatures(NamedTuple):
    """Features of one image in float32, after the final norm."""

    height: int
    """Height of the model's input in pixels."""
    width: int
    """Width of the model's input in pixels."""
    patches: Float[Tensor, "h w C"]
    """Patch tokens on their grid, the first row at the top; of a Swin, the map of the last stage."""
    prefix: Float[Tensor, "n C"]
    """Class token and registers, as far as the model has them; n = 0 for a Swin."""
    pooled: Float[Tensor, "D"]
    """What a classification head reads."""

    @property
    def summary(self) -> str:
        """One line about the grid."""
        (h, w, channels), prefix = self.patches.shape, len(self.prefix)
        tokens = f", {prefix} prefix token{'' if prefix == 1 else 's'}" if prefix else ""
        return f"{h} x {w} patches of {channels} channels{tokens}, at {self.height} x {self.width} pixels"

    def save(self, path: Path, facts: dict[str, str]) -> None:
        """Write a .safetensors file with `patches`, `prefix` and `pooled`; its metadata has the sizes, and the facts.

        Raises:
            ValueError: If it cannot be written.
        """
        parts = {"patches": self.patches, "prefix": self.prefix, "pooled": self.pooled}
        tensors = {
            name: part.clone(memory_format=torch.contiguous_format) for name, part in parts.items()
        }  # none shared
        sizes = {"height": str(self.height), "width": str(self.width)}
        content = save(tensors, {"format": "ropevit-features"} | sizes | facts)
        write_atomically(path, lambda file: file.write(content))


def extract_files(
    model: Model, files: Sequence[Path], transform: InputTransform, *, batch_size: int = 32, workers: int = 0
) -> Iterator[ImageFeatures | Unreadable]:
    """Compute the features of image files in batches; images of different shapes in a batch are grouped by shape.

    Args:
        model: A model without a head; it is set to eval mode.
        files: Image files.
        transform: Preprocessing.
        batch_size: Images per batch.
        workers: Number of DataLoader workers; 0 reads in this process.

    Returns:
        For each file, in order, its features or the reason why it could not be read.

    Raises:
        ValueError: If a number is out of range.
    """
    if batch_size < 1:
        raise ValueError(f"got batch_size={batch_size}; expected at least 1")
    keys = (range(len(files))[start : start + batch_size] for start in range(0, len(files), batch_size))
    for images in batches(FileReader(tuple(files), transform), keys, workers):
        yield from by_shape(images, lambda stacked: extract(model, stacked))


@torch.inference_mode()
def extract(model: Model, images: Float[Tensor, "b c H W"]) -> list[ImageFeatures]:
    """Return the features of normalized images of one size.

    Args:
        model: A model without a head; it is set to eval mode.
        images: Normalized images.
    """
    images = images.to(next(model.parameters()).device)
    tokens = model.eval().forward_features(images)
    maps, pooled = model.as_map(tokens, images).movedim(1, -1), model.forward_head(tokens)
    prefix = tokens[:, : getattr(model, "num_prefix_tokens", 0)] if tokens.ndim == 3 else tokens.flatten(1, 2)[:, :0]
    maps, prefix, pooled = (part.float().cpu() for part in (maps, prefix, pooled))
    height, width = images.shape[-2:]
    return [ImageFeatures(height, width, *one) for one in zip(maps, prefix, pooled, strict=True)]
