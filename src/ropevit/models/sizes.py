"""Which image sizes patches tile, and what to do about the others."""


def check_size(height: int, width: int, patch_size: int) -> None:
    """Refuse an image that the patches do not tile, naming the nearest sizes that they do."""
    if height % patch_size or width % patch_size or height <= 0 or width <= 0:
        near = " x ".join(nearest_sizes(side, patch_size) for side in (height, width))
        raise ValueError(
            f"got an image of {height} x {width} pixels (height x width), which patches of {patch_size} do not tile; "
            f"resize or pad it to {near}"
        )


def nearest_sizes(side: int, patch_size: int) -> str:
    """Name the multiples of the patch just below and above a side."""
    below = side // patch_size * patch_size
    return str(side) if below == side > 0 else f"{below} or {below + patch_size}" if below > 0 else f"{patch_size}"
