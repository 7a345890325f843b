"""Conventions of families: positions, order of channels, and rotation equal to timm's modules."""

from pathlib import Path

import pytest
import torch
from timm.layers.pos_embed_sincos import _build_grid, apply_rot_embed_cat, create_rope_embed
from torch.testing import assert_close

from ropevit.rope import ROPE_FAMILIES, RopeConvention, apply_rotary, axial_frequencies, grid_positions, rotary_cos_sin

GUIDE = Path(__file__).parents[2] / "docs" / "conventions.md"
#: timm's options of each family.
TIMM = {
    "rope_vit": {"rope_type": "cat", "grid_indexing": "xy", "temperature": 100.0},
    "dinov3": {"rope_type": "dinov3", "rotate_half": True, "temperature": 100.0},
    "eva02": {"rope_type": "cat", "temperature": 10000.0, "ref_feat_shape": (16, 16)},
    "pe": {
        "rope_type": "cat",
        "temperature": 10000.0,
        "grid_indexing": "xy",
        "ref_feat_shape": (24, 24),
        "grid_offset": 1.0,
    },
    "timm_rope": {"rope_type": "cat", "temperature": 10000.0, "ref_feat_shape": (16, 16)},
}


def sizes(h, w):
    return torch.tensor([float(w), float(h)])


@pytest.mark.parametrize("name", ROPE_FAMILIES)
@pytest.mark.parametrize(("h", "w"), [(16, 16), (5, 9), (24, 3)])
def test_the_rotation_of_reordered_channels_is_that_of_timm(name, h, w):
    options = TIMM[name] | ({"in_pixels": False} if TIMM[name]["rope_type"] == "cat" else {})
    theirs = create_rope_embed(dim=64, num_heads=2, **options)
    _, convention, theta = ROPE_FAMILIES[name]
    q = torch.randn(2, h * w, 32)
    rotated = apply_rot_embed_cat(q, theirs.get_embed(shape=(h, w)), half=convention.pairs == "halves")
    positions = convention.rotary_positions(grid_positions(h, w), sizes(h, w))
    order = convention.channel_order(32)
    ours = apply_rotary(q[..., order], rotary_cos_sin(positions, axial_frequencies(32, theta)))
    assert_close(ours, rotated[..., order], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("each_side", "separate"), ("longer_side", "max"), ("shorter_side", "min")]
)
def test_centers_are_scaled_by_the_chosen_side(ours, theirs):
    convention = RopeConvention(coordinates=ours, offset=0.25)
    found = convention.rotary_positions(grid_positions(3, 7), sizes(3, 7)) / (2 * torch.pi)
    wanted = _build_grid((3, 7), grid_type="centered", normalize_coords=theirs, grid_offset=0.25)
    assert_close(found, wanted.flatten(0, 1).flip(-1))


def test_positions_of_images_of_several_sizes_are_those_of_each_alone():
    convention = ROPE_FAMILIES["dinov3"].convention
    grids = [(2, 3), (4, 2)]
    together = convention.rotary_positions(
        torch.cat([grid_positions(*grid) for grid in grids]),
        torch.cat([sizes(*grid).expand(grid[0] * grid[1], 2) for grid in grids]),
    )
    assert_close(
        together, torch.cat([convention.rotary_positions(grid_positions(*grid), sizes(*grid)) for grid in grids])
    )


@pytest.mark.parametrize(("name", "step"), [("rope_vit", (1, 1)), ("pe", (4.0, 2.4)), ("dinov3", (2.094395, 1.256637))])
def test_the_step_is_the_distance_of_neighbors(name, step):
    assert_close(ROPE_FAMILIES[name].convention.step((10, 6)), torch.tensor(step, dtype=torch.float32))


@pytest.mark.parametrize("name", ROPE_FAMILIES)
def test_reordering_back_restores_every_bit(name):
    convention = ROPE_FAMILIES[name].convention
    for rows in (torch.randn(48, 5), torch.randn(48)):
        there = convention.reorder(rows, 16)
        assert torch.equal(there, rows) != convention.permutes_channels
        assert torch.equal(convention.reorder(there, 16, back=True), rows)


def test_the_order_of_halves_with_y_first_by_hand():
    assert RopeConvention(axes="yx", pairs="halves").channel_order(8).tolist() == [2, 6, 3, 7, 0, 4, 1, 5]


def position_text(convention) -> str:
    """Describe where a patch is, as the guide does."""
    if convention.coordinates == "each_side":
        return "its center, from -1 to 1 along each side, times 2 pi"
    index = f"its index + {convention.offset:g}" if convention.offset else "its index"
    rows, columns = convention.reference_grid or (0, 0)
    return index + (f", rescaled to a grid of {rows} x {columns}" if rows else "")


def test_the_table_of_the_guide_has_a_row_for_each_family():
    pairs = {"interleaved": "2p, 2p + 1", "halves": "p, p + D/2"}
    lines = GUIDE.read_text().splitlines()
    start = lines.index("| family | base | pairs, first half / second | pair p | position of a patch |") + 2
    rows = [
        f"| {label} | {theta:g} | {' / '.join(each.axes)} | {pairs[each.pairs]} | {position_text(each)} |"
        for label, each, theta in ROPE_FAMILIES.values()
    ]
    assert lines[start : start + len(rows) + 1] == [*rows, ""]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"axes": "yy"}, "got axes='yy'; expected one of xy, yx"),
        ({"coordinates": "pixels"}, "got coordinates='pixels'; expected one of index"),
        ({"offset": float("nan")}, "got offset=nan; expected a finite number"),
        ({"coordinates": "reference"}, "got reference_grid=None with coordinates='reference'"),
        ({"reference_grid": (2, 2)}, "with 'reference' alone"),
        ({"coordinates": "reference", "reference_grid": (0, 2)}, "expected rows and columns, above 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_convention_that_does_not_exist_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RopeConvention(**fields)


def test_rows_that_are_no_whole_heads_are_refused():
    convention = ROPE_FAMILIES["dinov3"].convention
    with pytest.raises(ValueError, match=r"got \(10, 3\) to reorder; expected rows of heads of 8 channels"):
        convention.reorder(torch.zeros(10, 3), 8)
    with pytest.raises(ValueError, match="got 6 channels a head; expected a multiple of 4"):
        convention.channel_order(6)
