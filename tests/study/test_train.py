import json
import math
from dataclasses import replace

import pytest
import torch

from marks import by_default
from ropevit.models import VIT_EMBEDDINGS
from ropevit.study.events import Evaluating, RunStarted, TrainProgress
from ropevit.study.job import StopRequested
from ropevit.study.train import learning_rate, start_model, train
from ropevit.tasks.training.steps import DivergedError
from ropevit.weights.saving import load_model


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def final_weights(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["model"]


def after(count):
    """Return True from the `count`-th call on."""
    asked = iter(range(1, 1000))
    return lambda: next(asked) >= count


@pytest.mark.parametrize("start", ["fan_in", "deit"])
def test_what_embeddings_share_starts_equal(make_job, start):
    panel = make_job(settings={"start": start}).panel
    names = (*VIT_EMBEDDINGS, "rope_axial:theta=10,rest=0.5")
    models = {p: start_model(panel.model_config(p), panel.settings, "zoom", 3) for p in names}
    shared = models["none"].state_dict()
    for model in models.values():
        state = model.state_dict()
        for name, tensor in shared.items():
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)
        for name in state.keys() - shared.keys():
            assert name == "pos_embed" or ".rope." in name or ".distance." in name
    other = start_model(panel.model_config("none"), panel.settings, "zoom", 4)
    assert not torch.equal(other.state_dict()["head.weight"], shared["head.weight"])


def test_layers_start_as_wide_as_asked_and_the_global_generator_is_left_alone(make_job):
    before = torch.get_rng_state()
    for start, std in (("fan_in", 1 / math.sqrt(64)), ("deit", 0.02)):
        panel = make_job(settings={"start": start, "width": 64}).panel
        model = start_model(panel.model_config("ape"), panel.settings, "zoom", 0)
        assert model.blocks[0].attn.qkv.weight.std().item() == pytest.approx(std, rel=0.05)
        assert model.pos_embed.std().item() == pytest.approx(panel.settings.ape_std, rel=0.3)
    torch.testing.assert_close(torch.get_rng_state(), before)


@pytest.mark.parametrize("panel", ["field", "zoom"])
@pytest.mark.parametrize("precision", by_default([torch.bfloat16], [torch.float32, torch.bfloat16]))
def test_a_run_leaves_its_result_log_checkpoint_and_model(make_job, panel, precision):
    events = []
    job = make_job(panel, dtype=precision, report=events.append)
    result = train(job)
    assert result == json.loads((job.folder / "result.json").read_text())
    assert (result["panel"], result["embedding"], result["seed"]) == (panel, "rope_mixed", 0)
    assert list(result["scores"]) == ["4", "8", "12"]
    assert result["train_size"] == 8
    assert result["step_ms"] > 0
    assert [line["step"] for line in read_log(job.folder)] == [1, 2, 3, 4, 5, 6]
    model, info = load_model(job.folder / "model.safetensors")
    assert sum(parameter.numel() for parameter in model.parameters()) == result["parameters"]
    assert info.metadata["panel"] == panel
    assert info.classes == (["a", "b", "c"] if panel == "zoom" else None)
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], Evaluating)
    assert [event.step for event in events if isinstance(event, TrainProgress)][-1] == 6


@pytest.mark.parametrize("panel", ["field", "zoom"])
@pytest.mark.parametrize("embedding", by_default(["rope_mixed"], ["ape", "rope_mixed"]))
def test_a_run_cut_short_goes_on_to_the_very_same_weights(make_job, tmp_path, panel, embedding):
    whole = make_job(panel, embedding, folder=tmp_path / "whole")
    train(whole)
    folder = tmp_path / "cut"
    with pytest.raises(StopRequested):
        train(make_job(panel, embedding, folder=folder, should_stop=after(4)))
    assert not (folder / "result.json").exists()
    assert [line["step"] for line in read_log(folder)] == [1, 2, 3]
    events = []
    train(make_job(panel, embedding, folder=folder, report=events.append))
    assert events[0].first == 3
    torch.testing.assert_close(final_weights(folder), final_weights(whole.folder), rtol=0, atol=0)
    assert [(line["step"], line["loss"]) for line in read_log(folder)] == [
        (line["step"], line["loss"]) for line in read_log(whole.folder)
    ]


def test_a_run_killed_between_checkpoints_goes_on_from_the_last_one(make_job, tmp_path):
    settings = {"steps": 25}  # a checkpoint every 3 steps
    whole = make_job(folder=tmp_path / "whole", settings=settings)
    train(whole)

    class KilledError(BaseException):
        """As sudden as a signal."""

    def kill(event):
        if isinstance(event, TrainProgress) and event.step >= 8:
            raise KilledError

    slow = replace(make_job(folder=tmp_path / "cut", settings=settings), report=kill)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ropevit.study.train.REPORT_EVERY", 0.0)
        with pytest.raises(KilledError):
            train(slow)
    with (slow.folder / "log.jsonl").open("a") as log:
        log.write('{"step": 9, "lo')  # a line cut short
    train(make_job(folder=slow.folder, settings=settings))
    torch.testing.assert_close(final_weights(slow.folder), final_weights(whole.folder), rtol=0, atol=0)
    assert [line["step"] for line in read_log(slow.folder)] == list(range(1, 26))


def test_a_stop_during_evaluation_keeps_the_training(make_job, tmp_path):
    folder = tmp_path / "cut"
    with pytest.raises(StopRequested):
        train(make_job(folder=folder, should_stop=after(8)))  # six steps, then the first look of the evaluation
    events = []
    train(make_job(folder=folder, report=events.append))
    assert events[0].first == 6
    assert (folder / "result.json").exists()


def test_a_loss_that_is_not_finite_stops_the_run_with_one_line(make_job):
    job = make_job()
    job.panel.loss = lambda model, images, _: model(images).sum() * math.inf
    with pytest.raises(DivergedError, match=r"the loss is -?inf at step 1 with lr .*; try a lower lr"):
        train(job)


def test_a_checkpoint_that_cannot_be_read_is_named(make_job):
    job = make_job()
    job.folder.mkdir()
    (job.folder / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"cannot go on from .*checkpoint.pt.*; delete it"):
        train(job)


def test_a_checkpoint_with_a_flipped_bit_is_not_trained_on(make_job):
    job = make_job(should_stop=after(2))
    with pytest.raises(StopRequested):
        train(job)
    path = job.folder / "checkpoint.pt"
    weight = next(iter(final_weights(job.folder).values()))
    content = bytearray(path.read_bytes())
    content[content.index(weight.numpy().tobytes()) + 3] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot go on from .*the checksum of .* is wrong.*; delete it"):
        train(job)


def test_a_checkpoint_of_another_model_is_refused(make_job):
    train(make_job(settings={"width": 32}))
    with pytest.raises(ValueError, match="cannot go on from"):
        train(make_job())


def test_learning_rate_rises_then_falls_to_nothing(make_job):
    settings = replace(make_job().panel.settings, steps=100, warmup=0.1, lr=2e-3)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[0] == pytest.approx(2e-4)
    assert max(rates) == rates[9] == rates[10] == pytest.approx(2e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 2e-6
