"""Benchmark candidates of the level model: whole vision transformers, ours and timm's, of equal width and depth.

None has LayerScale, so that all do the same work. Inference runs in eval mode; a training step is the forward pass, the
loss, the backward pass and AdamW.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ropevit.bench.candidate import Candidate, Group, PlannedCandidate
from ropevit.bench.check import compare
from ropevit.bench.peers import BACKEND_DEVICE
from ropevit.bench.shapes import ModelSize
from ropevit.extras import require
from ropevit.kernels import BACKENDS, set_backend
from ropevit.models import Model, ViTConfig, build_model

Build = Callable[[], nn.Module]
#: Calls a model on the images of a candidate and returns logits.
Forward = Callable[[nn.Module], Tensor]

#: Factor on the tolerance of one rotation, since logits and gradients pass through all layers.
_DEPTH_FACTOR = 5.0

APE = "ours, ape"

#: timm's model of each position embedding; width and depth are replaced by ours.
TIMM = {
    "ape": "vit_small_patch16_224",
    "axial": "vit_small_patch16_rope_224",
    "mixed": "vit_small_patch16_rope_mixed_224",
}


def model_group(
    size: ModelSize, images: int, device: torch.device, dtype: torch.dtype, choose: Callable[[str], list[bool]]
) -> Group:
    """Return the group of models that are compared.

    Args:
        size: Dimensions of the models.
        images: Batch size.
        device: Device of the computation.
        dtype: float32, or bfloat16 for autocast.
        choose: Returns, for a library, whether to time it eagerly (False), compiled (True), both or not at all.
    """
    backends = [name for name in BACKENDS if BACKEND_DEVICE.get(name, device.type) == device.type]
    makers: list[tuple[str, str, str, Build]] = [
        (APE, "none", "ape", lambda: ours(size, "ape", None)),
        *(
            (
                f"ours ({backend}), {embedding}",
                "ours",
                embedding,
                lambda embedding=embedding, name=backend: ours(size, f"rope_{embedding}", name),
            )
            for embedding in ("axial", "mixed")
            for backend in backends
        ),
        *(
            (f"timm, {embedding}", "timm", embedding, lambda embedding=embedding: timm(size, embedding))
            for embedding in TIMM
        ),
    ]

    def entry(label: str, library: str, embedding: str, build: Build, compiled: bool) -> PlannedCandidate:
        def make() -> Candidate:
            return model_candidate(build().to(device), size, images, dtype, compiled)

        full = f"{label}{', compiled' if compiled else ''}"
        return PlannedCandidate(label=full, library=library, embedding=embedding, compiled=compiled, make=make)

    entries = [entry(*maker, compiled) for maker in makers for compiled in choose(maker[1])]
    about = f"width {size.width}, depth {size.depth}, {size.heads} heads, {images} images of {size.pixels} px"
    return Group(level="model", shape=size.name, about=about, base=APE, entries=entries)


def ours(size: ModelSize, position: str, backend: str | None) -> nn.Module:
    """Build this package's ViT with a rotation backend (None without rotation)."""
    config = ViTConfig(
        position=position,
        width=size.width,
        depth=size.depth,
        heads=size.heads,
        img_size=(size.pixels, size.pixels),
        layer_scale=None,
    )
    model = build_model(config)
    if backend is not None:
        set_backend(model, backend)
    return model


def timm(size: ModelSize, embedding: str) -> nn.Module:
    """Build timm's ViT with a position embedding, without LayerScale and with the width and depth of `size`."""
    create_model = require("timm", "train").create_model
    sizes = {"embed_dim": size.width, "depth": size.depth, "num_heads": size.heads, "img_size": size.pixels}
    model = create_model(TIMM[embedding], **sizes)
    if embedding != "ape":
        for block in model.blocks:
            block.gamma_1 = block.gamma_2 = None
    return model


def model_candidate(model: nn.Module, size: ModelSize, images: int, dtype: torch.dtype, compiled: bool) -> Candidate:
    """Return the candidate of a model: its calls on random images and labels."""
    batch = torch.randn(images, 3, size.pixels, size.pixels, device=next(model.parameters()).device)
    return forward_candidate(
        model,
        forward=lambda run: run(batch),
        exact=lambda double: double(batch[:2].double()),
        images=images,
        dtype=dtype,
        compiled=compiled,
    )


def forward_candidate(
    model: nn.Module,
    *,
    forward: Forward,
    exact: Forward,
    images: int,
    dtype: torch.dtype,
    compiled: bool = False,
) -> Candidate:
    """Return the candidate of a model that is called in its own way.

    Args:
        model: Model.
        forward: Calls a model, or the compiled one, on the batch and returns logits.
        exact: Calls a model in float64 on the first two images, or fewer.
        images: Number of images of the batch.
        dtype: float32, or bfloat16 for autocast.
        compiled: Whether to compile the model.
    """
    device = next(model.parameters()).device
    labels = torch.randint(0, 1000, (images,), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    run = torch.compile(model) if compiled else model

    def logits() -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return forward(run)  # pyright: ignore[reportArgumentType]

    def loss() -> Tensor:
        model.train()
        got = logits().float()
        return F.cross_entropy(got, labels % got.shape[1])

    @torch.no_grad()
    def inference() -> Tensor:
        model.eval()
        return logits()

    def both() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    def check() -> float:
        return check_model(model, logits, exact, labels, dtype)

    return Candidate(forward=inference, both=both, tracked=loss, check=check)


def check_model(
    model: nn.Module, logits: Callable[[], Tensor], exact: Forward, labels: Tensor, dtype: torch.dtype
) -> float:
    """Compare logits and gradients of the first images with the same model in float64 and the reference backend.

    Args:
        model: Model under test.
        logits: Runs it on the batch.
        exact: Runs a copy of it in float64 on the first images.
        labels: Class indices of the batch.
        dtype: Dtype of the matrix products.
    """
    double = copy.deepcopy(model).double().train()
    if isinstance(double, Model):
        set_backend(double, "reference")
    model.train()
    with torch.enable_grad():
        truth = exact(double)
        got, labels = logits()[: len(truth)], labels[: len(truth)] % truth.shape[1]
        found = gradients(model, F.cross_entropy(got.float(), labels))
        known = gradients(double, F.cross_entropy(truth, labels))
    return compare(
        {"logits": got.detach(), "gradient": found},
        {"logits": truth.detach(), "gradient": known},
        dtype,
        _DEPTH_FACTOR,
    )


def gradients(model: nn.Module, loss: Tensor) -> Tensor:
    """Return the gradients of all parameters as one vector; those that take no part count as 0."""
    parameters = [*model.parameters()]
    given = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in given])
