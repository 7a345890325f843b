import torch

from ropevit.data.rng import batch_indices, make_generator, uniform


def test_random_numbers_depend_on_the_keys_only():
    draws = {keys: torch.rand(4, generator=make_generator(*keys)) for keys in [("a", 0, 1), ("a", 1, 0), ("b", 0, 1)]}
    torch.rand(10)
    for keys, numbers in draws.items():
        torch.testing.assert_close(torch.rand(4, generator=make_generator(*keys)), numbers, rtol=0, atol=0)
    assert len({tuple(numbers.tolist()) for numbers in draws.values()}) == 3


def test_uniform_numbers_are_in_range():
    numbers = uniform(1000, -2, 3, make_generator("range"))
    assert -2 <= numbers.min() < -1.9
    assert 2.9 < numbers.max() < 3


def test_each_epoch_has_every_item_once_even_where_batches_straddle_epochs():
    for count, size in [(10, 4), (7, 7), (3, 8)]:
        order = torch.cat([batch_indices(count, size, step, "set") for step in range(count)])
        for epoch in order.unflatten(0, (-1, count)):
            assert sorted(epoch.tolist()) == list(range(count))
        assert len({tuple(epoch.tolist()) for epoch in order.unflatten(0, (-1, count))}) > 1
