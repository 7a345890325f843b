import copy

import pytest
import torch
from torch import nn

from ropevit.tasks.common.ema import Ema


@pytest.fixture
def model():
    made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    made.register_buffer("table", torch.ones(2), persistent=False)
    return made


def step(model):
    with torch.no_grad():
        for weight in model.parameters():
            weight += torch.randn_like(weight)
    model(torch.randn(8, 3))


def test_weights_and_running_statistics_are_averaged_and_counts_taken_over(model):
    average, wanted = Ema(model, 0.75), copy.deepcopy(model.state_dict())
    for _ in range(3):
        step(model)
        average.update(model)
        for name, value in model.state_dict().items():
            wanted[name] = 0.75 * wanted[name] + 0.25 * value if value.is_floating_point() else value.clone()
    assert average.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(average.state_dict(), dict(wanted))
    assert average.state_dict()["1.num_batches_tracked"] == 3


def test_a_swap_brings_all_averages_into_the_model_and_another_takes_them_out(model):
    average = Ema(model, 0.75)
    step(model)
    average.update(model)
    before, averages = (copy.deepcopy(dict(each.state_dict())) for each in (model, average))
    average.swap(model)
    torch.testing.assert_close(dict(model.state_dict()), averages, rtol=0, atol=0)
    average.swap(model)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    torch.testing.assert_close(average.state_dict(), averages, rtol=0, atol=0)


def test_an_average_that_is_taken_up_goes_on_as_if_nothing_had_been(model):
    average, other = Ema(model, 0.75), Ema(copy.deepcopy(model), 0.75)
    step(model)
    average.update(model)
    other.load_state_dict(copy.deepcopy(average.state_dict()))
    step(model)
    average.update(model)
    other.update(model)
    torch.testing.assert_close(other.state_dict(), average.state_dict(), rtol=0, atol=0)
