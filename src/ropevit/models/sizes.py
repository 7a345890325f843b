"""Checks of input images and clips: dtype, shape, and sizes that the patches tile."""

from torch import Tensor


def check_size(height: int, width: int, patch_size: int) -> None:
    """Raise ValueError, naming the nearest valid sizes, unless height and width are multiples of the patch size."""
    sides = {"height": height, "width": width}
    if odd := {name: side for name, side in sides.items() if side % patch_size or side <= 0}:
        near = " and ".join(f"a {name} of {nearest_sizes(side, patch_size)}" for name, side in odd.items())
        raise ValueError(
            f"got {height} x {width} pixels (height x width), which patches of {patch_size} do not tile; use {near} "
            "(resize or pad images)"
        )


def check_floats(images: Tensor) -> None:
    """Raise ValueError for images of an integer dtype, which cannot be normalized."""
    if not images.is_floating_point():
        raise ValueError(
            f"got images of {images.dtype}; expected floating-point pixels, normalized as in training: "
            "(images.float() / 255 - mean) / std"
        )


def check_input(images: Tensor, channels: int, patch: tuple[int, ...]) -> None:
    """Raise ValueError for inputs of wrong dtype, rank, channels or size, or images instead of clips or vice versa.

    Args:
        images: The input.
        channels: Expected channels.
        patch: Rows and columns of a patch; (frames, rows, columns) if clips are expected.
    """
    check_floats(images)
    shape, video = tuple(images.shape), len(patch) == 3
    sides = "T, H, W" if video else "H, W"
    if images.ndim == 4 and video:
        raise ValueError(
            f"got images of shape {shape} for a video model; expected (B, {channels}, {sides}): "
            f"images.unsqueeze(2).expand(-1, -1, {patch[0]}, -1, -1) are clips that stand still"
        )
    if images.ndim == 5 and not video:
        raise ValueError(
            f"got clips of shape {shape} for an image model; expected (B, {channels}, {sides}): feed frames, or take "
            "ropevit.models.inflate(model, frames=...)"
        )
    if images.ndim != 2 + len(patch) or images.shape[1] != channels:
        raise ValueError(f"got images of shape {shape}; expected (B, {channels}, {sides})")
    if video:
        check_frames(images.shape[2], patch[0])
    check_size(images.shape[-2], images.shape[-1], patch[-1])


def check_frames(frames: int, tubelet: int) -> None:
    """Raise ValueError, naming the nearest valid numbers, unless the tubelets tile the frames of a clip."""
    if frames % tubelet or frames <= 0:
        raise ValueError(
            f"got a clip of {frames} frames, which tubelets of {tubelet} do not tile; "
            f"leave out or repeat frames to have {nearest_sizes(frames, tubelet)}"
        )


def check_sizes(name: str, sizes: tuple[int, ...], patch: int) -> None:
    """Raise ValueError, naming the nearest valid sizes, unless sizes ascend and patches tile them."""
    if not sizes:
        raise ValueError(f"got no {name} sizes; give at least one, such as --{name}-sizes 28 56")
    if list(sizes) != sorted(set(sizes)):
        raise ValueError(f"got {name} sizes {sizes}; expected each once, from small to large")
    for size in sizes:
        if size < patch or size % patch:
            below = size // patch * patch
            near = f"{below} or {below + patch}" if below > 0 else str(patch)
            raise ValueError(f"got {name} size {size}; patches of {patch} pixels do not tile it: take {near}")


def nearest_sizes(side: int, patch_size: int) -> str:
    """Return the multiples of the patch (or tubelet) just below and above a side, as text."""
    below = side // patch_size * patch_size
    return str(side) if below == side > 0 else f"{below} or {below + patch_size}" if below > 0 else f"{patch_size}"
