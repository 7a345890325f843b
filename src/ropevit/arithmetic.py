"""Integer arithmetic of grids: how many patches or windows cover a side."""


def ceil_div(side: int, unit: int) -> int:
    """Return the number of units that cover a side.

    No negative number is divided (as in `-(-side // unit)`), because ONNX rounds those the other way.
    """
    return (side + unit - 1) // unit
