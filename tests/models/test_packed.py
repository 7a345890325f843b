import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter
from torch.testing import assert_close

from marks import embeddings, in_turn
from ropevit.models import VIT_EMBEDDINGS, ViT, ViTConfig
from ropevit.models.layers import Block, resize_embedding
from ropevit.models.packed import cheapest_row, first_fit_decreasing, pack, random_patches, sample_embedding
from ropevit.rope import grid_positions

SIZES = [(3, 5), (6, 2), (4, 4), (1, 7), (8, 9)]


def make(position="rope_mixed_ape", **fields) -> ViT:
    """A small model in which everything matters: no weight is near 0."""
    small = {"width": 32, "depth": 2, "heads": 2, "patch_size": 4, "img_size": (16, 16), "num_classes": 5}
    model = ViT(ViTConfig(position=position, **small | fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def random_images(sizes=SIZES, **options) -> list[torch.Tensor]:
    return [torch.randn(3, 4 * h, 4 * w, **options) for h, w in sizes]


@pytest.mark.parametrize(
    ("position", "fields"),
    in_turn(
        embeddings(VIT_EMBEDDINGS),
        [
            pytest.param({}, marks=pytest.mark.full),  # as the next, without registers
            {"num_registers": 2},
            {"num_registers": 1, "pooling": "avg"},
            {"class_token": False, "pooling": "avg"},
        ],
    ),
    ids=str,
)
def test_a_packed_batch_equals_each_image_alone(position, fields):
    model, images = make(position, **fields), random_images()
    packed = model.pack(images, row_tokens=80)
    assert 1 < packed.sequence_ids.shape[0] < len(images)  # some images share a row
    alone = [model.forward_features(image[None]) for image in images]
    logits = torch.cat([model.forward_head(features) for features in alone])
    assert_close(model.forward_packed(packed), logits, rtol=1e-4, atol=1e-4)
    for features, own in zip(alone, packed.split(model.forward_packed_features(packed)), strict=True):
        assert_close(own, features[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("position", ["rope_axial_ape", "rope_mixed"])
def test_gradients_equal_those_of_each_image_alone(position):
    model, images = make(position).double(), random_images(dtype=torch.float64)
    names, parameters = zip(*model.named_parameters(), strict=True)
    weight = torch.randn(len(images), 5, dtype=torch.float64)
    packed = torch.autograd.grad((model.forward_packed(model.pack(images)) * weight).sum(), parameters)
    alone = torch.autograd.grad((torch.cat([model(image[None]) for image in images]) * weight).sum(), parameters)
    for name, ours, theirs in zip(names, packed, alone, strict=True):
        assert_close(ours, theirs, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_kept_patches_stand_where_they_stood():
    model, images = make(), random_images([(4, 4), (3, 7)])
    keep = [torch.tensor([0, 5, 11]), torch.tensor([20, 2, 9, 4])]
    logits = model.forward_packed(model.pack(images, keep))
    for image, kept, own in zip(images, keep, logits, strict=True):
        x, positions = model.embed(image[None])
        x, positions = torch.cat((x[:, :1], x[:, 1:][:, kept]), dim=1), positions[kept]
        for block in model.blocks:
            x = block(x, positions)
        assert_close(own, model.forward_head(model.norm(x))[0], rtol=1e-4, atol=1e-4)


def test_the_order_of_kept_patches_does_not_matter():
    model, images = make(), random_images([(4, 4), (3, 7)])
    keep = random_patches(images, 4, 0.6)
    shuffled = [kept[torch.randperm(len(kept))] for kept in keep]
    logits = (model.forward_packed(model.pack(images, kept)) for kept in (keep, shuffled))
    assert_close(*logits, rtol=1e-4, atol=1e-4)


def test_random_patches_keep_a_fraction_but_at_least_one():
    images = random_images([(4, 4), (3, 7), (1, 1)])
    kept = random_patches(images, 4, 0.25, torch.Generator().manual_seed(1))
    assert [len(own) for own in kept] == [4, 5, 1]
    assert all(own.unique().tolist() == own.tolist() for own in kept)
    again = random_patches(images, 4, 0.25, torch.Generator().manual_seed(1))
    assert all(torch.equal(*pair) for pair in zip(kept, again, strict=True))
    with pytest.raises(ValueError, match=r"got share=0; expected the fraction of patches to keep"):
        random_patches(images, 4, 0)


@pytest.mark.usefixtures("unchecked")
def test_one_graph_serves_all_packings():
    model, counter = make("rope_mixed_ape", depth=1), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(model.forward_packed, backend=counter, fullgraph=True, dynamic=True)
    first = [
        (8, 9),
        (8, 8),
        (7, 9),
        (1, 7),
    ]  # 3 rows, 4 images: PyTorch takes equal sizes for one, and 2 is also x and y
    packings = [first, SIZES, [(5, 6), (5, 5), (5, 4), (7, 3)], [(4, 4), (3, 3), (2, 9), (6, 6), (9, 2), (8, 1)]]
    for sizes in packings:
        images = random_images(sizes)
        with torch.no_grad():
            logits = compiled(model.pack(images, row_tokens=80))
            assert_close(logits, torch.cat([model(image[None]) for image in images]), rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


def test_checkpointing_in_training_changes_nothing():
    model, images = make("rope_axial").train(), random_images()
    packed = model.pack(images)
    plain = model.forward_packed(packed)
    model.set_grad_checkpointing()
    again = model.forward_packed(packed)
    assert_close(again, plain)
    again.sum().backward()
    assert model.patch_embed.proj.weight.grad.abs().sum() > 0


def test_stochastic_depth_drops_whole_images_each_for_itself():
    block = Block(8, 2, layer_scale=None, drop_path=0.5).train()
    for linear in (block.attn.proj, block.mlp.fc2):  # each branch adds 1, or 2 where it stays and others go
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.ones_(linear.bias)
    packed = pack(random_images([(2, 2)] * 12), 4, row_tokens=30)
    added = block(torch.zeros(*packed.sequence_ids.shape, 8), packed.positions, None, packed.sequences())
    images = [added[packed.sequence_ids == image].unique() for image in range(12)]
    assert all(len(values) == 1 for values in images)
    assert {values.item() for values in images} == {0.0, 2.0, 4.0}
    assert len(added[0].unique()) > 1  # not the same for all images of a row


def test_a_longer_row_changes_no_logit_and_takes_more_images():
    model, images = make(), random_images()
    long = model.pack(images, row_tokens=120)
    assert long.sequence_ids.shape == (2, 120)
    assert_close(model.forward_packed(long), model.forward_packed(model.pack(images)), rtol=1e-4, atol=1e-4)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(40, 90))
def test_no_two_tokens_share_a_place(lengths, row):
    starts, rows = first_fit_decreasing(lengths, row)
    taken = [place for start, length in zip(starts, lengths, strict=True) for place in range(start, start + length)]
    assert len(set(taken)) == sum(lengths)
    assert max(taken) < rows * row
    assert all(start // row == (start + length - 1) // row for start, length in zip(starts, lengths, strict=True))
    assert rows <= max(1, 2 * -(-sum(lengths) // row))  # first-fit leaves at most one row half empty


def test_long_images_are_placed_first_so_that_short_ones_fill_the_gaps():
    assert first_fit_decreasing([2, 5, 5, 8], 10) == ([8, 10, 15, 0], 2)


def test_rows_are_made_longer_only_where_that_leaves_less_empty():
    assert cheapest_row([100, 100, 100]) == 100
    assert cheapest_row([100, 60, 60, 60]) == 300  # all in one row, instead of one in each of four


@pytest.mark.parametrize("size", [(4, 6), (9, 5), (2, 2), (1, 13)])
def test_an_embedding_looked_up_token_by_token_is_the_resized_one(size):
    grid = (4, 6)
    embedding = torch.randn(1, 24, 3, dtype=torch.float64)
    positions = grid_positions(*size).double()
    grids = torch.tensor([size[1], size[0]], dtype=torch.float64).expand_as(positions)
    assert_close(sample_embedding(embedding, grid, positions, grids), resize_embedding(embedding, grid, *size)[0])


def test_moving_a_batch_moves_every_field():
    assert all(field.device.type == "meta" for field in pack(random_images(), 4).to("meta"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "got no images to pack"),
        ({"images": [torch.zeros(3, 8, 8), torch.zeros(1, 8, 8)]}, r"got \(3, 8, 8\), \(1, 8, 8\) to pack"),
        ({"images": [torch.zeros(3, 8, 9)]}, "8 x 9 pixels .* do not tile; use a width of 8 or 12"),
        ({"keep": [torch.tensor([0])]}, "kept patches of 1 images for 2 images"),
        ({"keep": [torch.tensor([4]), torch.tensor([0])]}, r"got kept patches \[4\]; expected .* from 0 to 3"),
        ({"keep": [torch.tensor([], dtype=torch.long), torch.tensor([0])]}, r"got kept patches \[\]"),
        ({"row_tokens": 4}, "got an image of 5 tokens for rows of 4; raise row_tokens"),
    ],
)
def test_what_cannot_be_packed_is_refused(change, message):
    arguments = {"images": [torch.zeros(3, 8, 8)] * 2, "patch_size": 4} | change
    with pytest.raises(ValueError, match=message):
        pack(**arguments)


@pytest.mark.parametrize("fields", [{}, {"num_registers": 1, "pooling": "avg"}], ids=["token", "avg"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_a_damaged_image_changes_no_other_to_the_bit(fields, value):
    model, images = make(**fields), random_images()
    sound, weight = [image.clone() for image in images], torch.randn(len(images), 5)
    images[1][2, 3, 1] = value
    results = []
    for batch in (images, sound):
        logits = model.forward_packed(model.pack(batch, row_tokens=80))
        rest = [0, *range(2, len(images))]
        gradients = torch.autograd.grad((logits * weight)[rest].sum(), list(model.parameters()))
        results.append((logits[rest], gradients if value != 3e38 else ()))
        assert logits[1].isfinite().all() == (batch is sound)
    assert_close(*results, rtol=0, atol=0)
    rows = model.pack(images, row_tokens=80).sequence_ids
    assert any({1, other} <= set(row.tolist()) for row in rows for other in rest)  # it shares a row
    features = [model.pack(batch).split(model.forward_packed_features(model.pack(batch))) for batch in (images, sound)]
    assert features[0][1].isnan().all()
    assert_close(features[0][2:], features[1][2:], rtol=0, atol=0)
