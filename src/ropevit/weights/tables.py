"""What the published code keeps in its files besides learned weights, and ours makes anew."""

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.kernels.windows import make_mask
from ropevit.models.architectures import Config
from ropevit.models.swin import SwinConfig
from ropevit.models.windows import relative_index
from ropevit.rope import axial_frequencies, grid_positions
from ropevit.weights.errors import WeightsError
from ropevit.weights.layouts import matches

#: Learned frequencies of a block of Swin, in our spelling.
SWIN_FREQUENCIES = "layers.{}.blocks.{}.attn.rope.freqs"


def derived_tables(config: Config) -> dict[str, Tensor]:
    """Make the tables that the published code expects in a file."""
    if isinstance(config, SwinConfig):
        return swin_tables(config)
    if config.rope != "mixed":
        return {}
    x, y = grid_positions(*config.grid).unbind(-1)
    return {"freqs_t_x": x.contiguous(), "freqs_t_y": y.contiguous()}


def swin_tables(config: SwinConfig) -> dict[str, Tensor]:
    """Make the tables of every block of a Swin: positions in the window, fixed frequencies, indices and masks."""
    window, tables = config.window_size, {}
    x, y = grid_positions(window, window).unbind(-1)
    for stage, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
        side = config.grid[0] // 2**stage
        mask = make_mask(side, side, window, (window // 2, window // 2), torch.device("cpu"))
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            if config.rope:
                tables |= {f"{name}.attn.rope_t_x": x.contiguous(), f"{name}.attn.rope_t_y": y.contiguous()}
            if config.rope == "axial":
                tables[f"{name}.attn.rope_freqs"] = published_frequencies(config, stage).expand(-1, heads, -1)
            if config.bias:
                tables[f"{name}.attn.relative_position_index"] = relative_index(window)
            if block % 2 and side > window:
                tables[f"{name}.attn_mask"] = torch.zeros(mask.shape).masked_fill(~mask, -100.0)
    return tables


def fixed_frequencies(config: SwinConfig, stage: int) -> Float[Tensor, "2 1 P"]:
    """Compute the frequencies of RoPE-Axial in a stage, which all its heads share."""
    return axial_frequencies(config.width * 2**stage // config.heads[stage], config.theta).unsqueeze(1)


def published_frequencies(config: SwinConfig, stage: int) -> Float[Tensor, "2 1 P"]:
    """Compute them as the published code does, turned by the float32 number next to 90 degrees: 0 is only almost 0."""
    x, y = fixed_frequencies(config, stage).unbind(0)
    return torch.stack([x + y * torch.tensor(torch.pi / 2).cos(), y])


def drop_fixed(state: dict[str, Tensor], config: Config, source: str) -> dict[str, str]:
    """Take the fixed frequencies of a published RoPE-Axial Swin out of its weights, if they are the model's own.

    Args:
        state: Weights by our names; changed in place.
        config: The model.
        source: What messages call the file.

    Returns:
        What was taken out: name -> why.

    Raises:
        WeightsError: If they are others, which the published code would not notice.
    """
    if not isinstance(config, SwinConfig) or config.rope != "axial":
        return {}
    dropped = {}
    for stage, block in matches(SWIN_FREQUENCIES, state):
        name = SWIN_FREQUENCIES.format(stage, block)
        theirs = state[name]
        if int(stage) >= len(config.depths) or not is_fixed(theirs):
            continue  # of another model, or learned: left to the checks
        ours = fixed_frequencies(config, int(stage)).expand(-1, config.heads[int(stage)], -1).to(theirs.dtype)
        if ours.shape != theirs.shape:
            continue
        if not torch.allclose(theirs, ours, rtol=torch.finfo(theirs.dtype).eps, atol=1e-5):
            raise WeightsError(
                f"{source} was made with other fixed frequencies than the model's (theta {found_theta(theirs):.4g} "
                f"instead of {config.theta:g}, in {name}); build the model with the file's rope_theta"
            )
        dropped[name] = "fixed frequencies, the same as the model's own"
        del state[name]
    return dropped


def is_fixed(frequencies: Tensor) -> bool:
    """Tell fixed frequencies (2, A, P), whose pairs turn with x or with y but never both, from learned ones."""
    if frequencies.is_meta or frequencies.ndim != 3 or frequencies.shape[0] != 2 or frequencies.shape[-1] % 2:
        return False
    (x, not_x), (not_y, y) = (row.float().chunk(2, dim=-1) for row in frequencies)
    zeros = torch.cat([not_x, not_y]).abs()
    return bool((zeros < 1e-5).all() and (x > 0).all() and (y > 0).all())


def found_theta(frequencies: Tensor) -> float:
    """Work the base out of fixed frequencies: the second over the first is theta^(-2/P)."""
    pairs = frequencies.shape[-1]
    return float(frequencies[0, 0, min(1, pairs // 2 - 1)] / frequencies[0, 0, 0]) ** (-pairs / 2)
