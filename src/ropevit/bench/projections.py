"""Benchmark candidates of the level attention: a whole attention layer, which is `layer` between two linear layers."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ropevit.bench.attention import Body, candidate_body, make_body
from ropevit.bench.candidate import Candidate
from ropevit.bench.check import compare, rotate_exact
from ropevit.bench.peers import BenchLayer, Implementation
from ropevit.bench.shapes import Shape


@dataclass(frozen=True)
class ProjectionData:
    """Random tokens and linear layers that the implementations of a group share."""

    tokens: Tensor
    """Input (B, N, C) of the layer."""
    qkv: nn.Linear
    proj: nn.Linear
    arriving: Tensor
    """Gradient (B, N, C) of the output."""


def make_projections(shape: Shape, device: torch.device, dtype: torch.dtype, rows: int) -> ProjectionData:
    """Draw the input of a group and initialize its linear layers."""
    width = shape.heads * shape.channels
    qkv, proj = (nn.Linear(width, outputs, device=device, dtype=dtype) for outputs in (3 * width, width))
    tokens, arriving = (torch.randn(rows, shape.tokens, width, device=device, dtype=dtype) for _ in range(2))
    return ProjectionData(tokens.requires_grad_(), qkv, proj, arriving)


class AttentionLayer(nn.Module):
    """Attention with both linear layers, as `Attention` of a ViT."""

    def __init__(self, data: ProjectionData, body: Body, shape: Shape, frequencies: Tensor):
        super().__init__()
        self.qkv, self.proj, self.body, self.shape, self.frequencies = data.qkv, data.proj, body, shape, frequencies

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, C) to tokens."""
        qkv = self.qkv(x).unflatten(-1, (3, self.shape.heads, self.shape.channels))
        return self.proj(self.body(qkv, self.frequencies)[0])


def projected_candidate(impl: Implementation, layer: BenchLayer, data: ProjectionData, compiled: bool) -> Candidate:
    """Return the candidate of an implementation: its calls on the group's data."""
    module = AttentionLayer(data, candidate_body("attention", impl, layer), layer.shape, layer.frequencies)
    run = torch.compile(module) if compiled else module
    inputs = _inputs(data.tokens, module)

    @torch.no_grad()
    def forward() -> object:
        return run(data.tokens)

    def tracked() -> Tensor:
        return run(data.tokens)

    def both() -> object:
        return torch.autograd.grad(tracked(), inputs, data.arriving)

    def check() -> float:
        first = 1 if layer.shape.tokens > 1024 else 2
        masked = data.arriving.clone()
        masked[first:] = 0
        output = tracked()
        got = _named(output[:first].detach(), torch.autograd.grad(output, inputs, masked), first)
        return compare(got, _expected(impl, layer, data, first), masked.dtype)

    return Candidate(forward=forward, both=both, tracked=tracked, check=check)


def _inputs(tokens: Tensor, module: AttentionLayer) -> list[Tensor]:
    """Return what gets gradients: tokens, weights and biases, and frequencies that are learned."""
    learned = [module.frequencies] if module.frequencies.requires_grad else []
    return [tokens, *module.qkv.parameters(), *module.proj.parameters(), *learned]


def _named(output: Tensor, gradients: Iterable[Tensor], first: int) -> dict[str, Tensor]:
    """Name the output and the gradients of the first rows."""
    names = ("the tokens", "qkv.weight", "qkv.bias", "proj.weight", "proj.bias", "the frequencies")
    named = {f"gradient of {name}": gradient for name, gradient in zip(names, gradients, strict=False)}
    return {"attention": output} | named | {"gradient of the tokens": named["gradient of the tokens"][:first]}


def _expected(impl: Implementation, layer: BenchLayer, data: ProjectionData, first: int) -> dict[str, Tensor]:
    """Compute output and gradients of the first rows in float64."""
    exact = ProjectionData(
        data.tokens[:first].detach().double().requires_grad_(),
        copy.deepcopy(data.qkv).double(),
        copy.deepcopy(data.proj).double(),
        data.arriving[:first].double(),
    )
    frequencies = layer.frequencies.detach().double().requires_grad_(layer.frequencies.requires_grad)
    body = make_body("attention", lambda qkv, frequencies: rotate_exact(impl, layer, qkv, frequencies))
    module = AttentionLayer(exact, body, layer.shape, frequencies)
    output = module(exact.tokens)
    gradients = torch.autograd.grad(output, _inputs(exact.tokens, module), exact.arriving)
    return _named(output.detach(), gradients, first)
