from collections import Counter
from itertools import chain

import numpy as np
import pytest

from ropevit.data.order import BLOCK, TrainOrder, epoch_order


def draws(order, steps):
    return [order.batch(step, share) for step in steps for share in range(order.micro_batches)]


def indices(batches):
    return [draw.index for draw in chain(*batches)]


@pytest.mark.parametrize("blocks", [(), (5, 11, 2, 6)])
def test_every_epoch_has_every_image_once_in_a_different_order(blocks):
    order = TrainOrder(24, 6, seed=3, blocks=blocks)
    epochs = [indices(draws(order, range(4 * epoch, 4 * epoch + 4))) for epoch in range(3)]
    assert order.steps_per_epoch == 4
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    assert indices(draws(TrainOrder(24, 6, seed=4, blocks=blocks), range(4))) != epochs[0]


def test_the_incomplete_last_batch_of_an_epoch_is_dropped():
    order = TrainOrder(26, 6, seed=0)
    epoch = indices(draws(order, range(order.steps_per_epoch)))
    assert len(set(epoch)) == len(epoch) == 24


@pytest.mark.parametrize(("world", "shares"), [(1, 2), (2, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("repeats", [1, 3])
def test_the_global_batch_does_not_depend_on_processes_and_micro_batches(world, shares, repeats):
    whole = TrainOrder(100, 24, seed=1, repeats=repeats)
    for step in (0, 3, 4, 9):
        expected = whole.batch(step)
        places = {draw: place for place, draw in enumerate(expected)}
        seen = []
        for rank in range(world):
            for share in range(shares):
                part = TrainOrder(100, 24, 1, repeats, world, rank, shares).batch(step, share)
                assert len(part) == 24 // (world * shares)
                seen += part
                for draw, mirror in zip(part, reversed(part), strict=True):
                    assert places[mirror] == 23 - places[draw], "a flip of the part is a flip of the whole"
        assert Counter(seen) == Counter(expected)


def test_repeats_of_an_image_are_in_one_batch_with_different_seeds():
    order = TrainOrder(90, 30, seed=0, repeats=3)
    assert order.steps_per_epoch == 3
    batches = draws(order, range(3))
    for batch in batches:
        assert set(Counter(draw.index for draw in batch).values()) == {3}
    everything = list(chain(*batches))
    assert len({draw.index for draw in everything}) == 30
    assert len({draw.seed for draw in everything}) == 90


def test_repeats_that_do_not_divide_the_batch_straddle_two_batches():
    order = TrainOrder(48, 16, seed=0, repeats=3)
    batches = [Counter(draw.index for draw in batch) for batch in draws(order, range(3))]
    assert sum(batches, Counter()) == Counter(dict.fromkeys(set().union(*batches), 3))
    assert [sum(count < 3 for count in batch.values()) for batch in batches] == [1, 2, 1]


def test_repeats_of_an_image_are_mixed_with_different_images():
    order = TrainOrder(300, 30, seed=0, repeats=3)
    batch = [draw.index for draw in order.batch(0)]
    partners = {index: {batch[29 - at] for at, other in enumerate(batch) if other == index} for index in batch}
    assert sum(len(found) > 1 for found in partners.values()) >= 8


def test_a_step_depends_on_the_seed_and_the_step_only():
    unbroken = draws(TrainOrder(50, 8, seed=5, repeats=3, world=2, rank=1, micro_batches=2), range(40))
    epoch_order.cache_clear()
    again = TrainOrder(50, 8, seed=5, repeats=3, world=2, rank=1, micro_batches=2)
    for step in reversed(range(40)):
        assert draws(again, [step]) == unbroken[2 * step : 2 * step + 2]


def test_augmentation_seeds_differ_between_epochs_and_orders():
    first, second = TrainOrder(12, 12, seed=0), TrainOrder(12, 12, seed=1)
    seeds = [draw.seed for draw in chain(first.batch(0), first.batch(1), second.batch(0))]
    assert len(set(seeds)) == 36


def test_images_of_few_shards_are_read_at_a_time():
    blocks = (10,) * 40
    order = epoch_order(400, blocks, 0, 0)
    assert sorted(order.tolist()) == list(range(400))
    groups = np.split(order // 10, [10 * BLOCK, 20 * BLOCK])
    assert [len(set(group.tolist())) for group in groups] == [16, 16, 8]
    assert (np.diff(groups[0]) != 0).mean() > 0.8, "and mixed within the group"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 6, "world": 2}, "expected a multiple of 4"),
        ({"batch_size": 12, "world": 2, "micro_batches": 2}, "12 for 2 processes with 2 micro-batches each"),
        ({"batch_size": 13}, "12 images for batches of 13"),
        ({"batch_size": 12, "length": 13, "repeats": 3, "blocks": (5,)}, "blocks of 5 images in all; expected 13"),
        ({"batch_size": 4, "world": 2, "rank": 2}, "rank 2 of 2; expected 0 to 1"),
        ({"batch_size": 0}, "counts of 1 or more"),
    ],
)
def test_invalid_orders_raise(options, message):
    with pytest.raises(ValueError, match=message):
        TrainOrder(**{"length": 12, "seed": 0} | options)
    with pytest.raises(ValueError, match="micro-batch 1; expected"):
        TrainOrder(12, 4, 0).batch(0, 1)
