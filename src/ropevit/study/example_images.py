"""Test images at each size, with the predictions of the trained models, for the report."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from ropevit.data.crops import normalize
from ropevit.models.positions import position_label
from ropevit.models.vit import ViT
from ropevit.study.panels import FarPanel, FieldPanel, Panel, ZoomPanel
from ropevit.study.panels.pixels import predict_pixels
from ropevit.text import printable

#: Colors of labels: background first, then as distinguishable as possible.
#: Source: Okabe and Ito 2008, and Tableau's ten colors for more labels.
COLORS = (
    *("#222222", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2"),
    *("#9467BD", "#8C564B", "#7F7F7F", "#BCBD22", "#17BECF", "#D62728"),
)


@dataclass(frozen=True, kw_only=True)
class ExampleCell:
    """An image, or a class name with whether it is correct."""

    image: str | None = None
    text: str = ""
    right: bool | None = None


@dataclass(frozen=True, kw_only=True)
class ExampleRow:
    """A labeled row of cells."""

    label: str
    cells: tuple[ExampleCell, ...]


@dataclass(frozen=True, kw_only=True)
class SizeExamples:
    """Example images of one test size."""

    size: int
    rows: tuple[ExampleRow, ...]


@dataclass(frozen=True, kw_only=True)
class PanelExamples:
    """The examples of one panel."""

    name: str
    title: str
    train_size: int
    initial_size: int
    scale: float
    """Pixels on the page for each pixel of an image."""
    legend: tuple[tuple[str, str], ...]
    sizes: tuple[SizeExamples, ...]


@torch.inference_mode()
def make_examples(panel: Panel, models: Mapping[str, ViT]) -> PanelExamples:
    """Make the example images of each test size of a panel.

    Args:
        panel: The panel with its test images.
        models: A trained model for each embedding.
    """
    settings = panel.settings
    pixels = panel.classes is None  # labels pixels, not images
    draw = _zoom_rows if isinstance(panel, ZoomPanel) else _pixel_rows
    examples = [SizeExamples(size=size, rows=tuple(draw(panel, models, size))) for size in settings.test_sizes]  # pyright: ignore[reportArgumentType]
    labels = panel.labels if pixels else ()
    return PanelExamples(
        name=panel.name,
        title=f"{panel.name} ({panel.title})",
        train_size=settings.train_size,
        initial_size=settings.test_sizes[-1],
        scale=(190 if pixels else 88) / settings.test_sizes[-1],
        legend=tuple((printable(name), COLORS[index % len(COLORS)]) for index, name in enumerate(labels)),
        sizes=tuple(examples),
    )


def _pixel_rows(panel: FieldPanel | FarPanel, models: Mapping[str, ViT], size: int, count: int = 4) -> list[ExampleRow]:
    """Return rows of canvases, true labels and predictions; the canvases of a size are always the same."""
    canvases, truth, *_ = next(panel.canvases(size))
    canvases, truth = canvases[:count], truth[:count]
    rows = [
        ExampleRow(label="image", cells=tuple(ExampleCell(image=_data_uri(_to_image(one))) for one in canvases)),
        ExampleRow(label="truth", cells=tuple(ExampleCell(image=_data_uri(_to_label_image(one))) for one in truth)),
    ]
    for name, model in models.items():
        predictions = predict_pixels(model, normalize(canvases))
        rows.append(
            ExampleRow(
                label=position_label(name),
                cells=tuple(ExampleCell(image=_data_uri(_to_label_image(one))) for one in predictions),
            )
        )
    return rows


def _zoom_rows(panel: ZoomPanel, models: Mapping[str, ViT], size: int, count: int = 8) -> list[ExampleRow]:
    """Return rows of test images, true classes and each model's prediction."""
    pick = torch.linspace(0, len(panel.test) - 1, count).long()
    images, labels = panel.test_images(pick, size), panel.test.labels[pick]
    classes = [printable(name) for name in panel.test.classes]
    rows = [
        ExampleRow(label="image", cells=tuple(ExampleCell(image=_data_uri(_to_image(one))) for one in images)),
        ExampleRow(label="truth", cells=tuple(ExampleCell(text=classes[int(label)]) for label in labels)),
    ]
    for name, model in models.items():
        predictions = model(normalize(images)).argmax(1)
        pairs = zip(predictions.tolist(), labels.tolist(), strict=True)
        cells = tuple(ExampleCell(text=classes[guess], right=guess == label) for guess, label in pairs)
        rows.append(ExampleRow(label=position_label(name), cells=cells))
    return rows


def _to_image(image: Float[Tensor, "c H W"]) -> Image.Image:
    """Convert pixel values from 0 to 255 to a PIL image."""
    values = image.round().clamp(0, 255).to(torch.uint8).expand(3, -1, -1)
    return Image.fromarray(values.permute(1, 2, 0).cpu().contiguous().numpy())


def _to_label_image(labels: Int[Tensor, "H W"]) -> Image.Image:
    """Convert a label map to a PIL image."""
    table = torch.tensor([rgb(code) for code in COLORS], dtype=torch.uint8)
    return Image.fromarray(table[labels.cpu() % len(COLORS)].numpy())


def rgb(code: str) -> Sequence[int]:
    """Parse a color such as #009E73."""
    return tuple(bytes.fromhex(code[1:]))


def _data_uri(image: Image.Image) -> str:
    """Encode an image as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
