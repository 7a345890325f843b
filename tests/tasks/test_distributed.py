"""Whole trainings in processes of their own: killed and resumed, or shared by several (the scripts are longer)."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist

from ropevit.models.architectures import build_model
from ropevit.models.vit import ViTConfig
from ropevit.tasks.distributed import Communicator, make_accelerator, shutdown
from ropevit.tasks.training.checkpoints import load_training_state, training_state
from ropevit.tasks.training.config import OptimConfig, RunConfig
from ropevit.tasks.training.fsdp import apply_fsdp
from ropevit.tasks.training.optim import Ema, make_optimizer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run(run_command, tmp_path):
    """Runs a script, and gives what it prints."""

    def run(script, *arguments):
        result = run_command(tmp_path, arguments, script=BENCHMARKS / script)
        assert result.code == 0, result.errors[-3000:]
        return result.output

    return run


@pytest.mark.full
def test_repeatedly_killed_training_ends_with_the_weights_of_an_uninterrupted_one(run):
    output = run("kill_and_resume.py", "--kills", "4", "--epochs", "3")
    assert "after each of 4 kills" in output
    assert "equal: losses of 60 steps, 3 evaluations, three weights files" in output


@pytest.mark.parametrize(
    ("options", "ways"), [(["--short"], 1), pytest.param([], 7, marks=pytest.mark.full)], ids=["short", "every way"]
)
def test_several_processes_train_as_one_with_fsdp_and_resuming_with_another_number(run, options, ways):
    differences = json.loads(run("many_processes.py", "--steps", "4", *options))
    assert len(differences) == ways
    assert list(differences)[-1] == "weights shared out, then one process"
    assert max(differences.values()) < 1e-5


def test_all_processes_evaluate_the_running_statistics_that_are_saved(run, tmp_path):
    run(Path(__file__).parent / "ranks.py", str(tmp_path))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["measured"][0] == safetensors.torch.load_file(tmp_path / "best.safetensors")["running_mean"].item()
    assert first["measured"] == [1, 0.5]  # a tenth of what it saw; the moving average, half of that


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"device": "cpu", "precision": "float16"}, "got precision='float16' on a CPU"),
        ({"device": "cpu", "fsdp": True}, "got fsdp=True with one process"),
    ],
)
def test_unavailable_devices_and_precisions_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_accelerator(RunConfig(**fields))


@pytest.fixture
def alone():
    """Be the only process of a group."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def started(shard, optimizer, seed):
    """Return a model after a step, its optimizer and its moving average."""
    torch.manual_seed(seed)
    model = build_model(ViTConfig(position="rope_mixed", width=16, depth=1, heads=1, img_size=(32, 32), num_classes=3))
    model.register_buffer("statistics", torch.randn(3))
    model.register_buffer("count", torch.tensor(seed))
    if shard:
        apply_fsdp(model, torch.device("cpu"))
    made = make_optimizer(model, OptimConfig(optimizer=optimizer))
    average = Ema(model, 0.5)
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    made.step()
    model.statistics += 1
    average.update(model)
    return model, made, average


@pytest.mark.usefixtures("alone", "unchecked")
@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
@pytest.mark.parametrize("shard", [True, False])
def test_checkpoint_is_loaded_with_and_without_fsdp(shard, optimizer):
    before, after = started(not shard, optimizer, 0), started(shard, optimizer, 1)
    load_training_state(training_state(*before, not shard), *after, shard)
    first, second = (
        training_state(*each, True) if sharded else named(each)
        for each, sharded in ((before, not shard), (after, shard))
    )
    assert first["ema"].keys() == first["model"].keys()
    for part in ("model", "ema"):
        torch.testing.assert_close(dict(first[part]), dict(second[part]), rtol=0, atol=0)
    for one, two in zip(*(each["optimizer"]["param_groups"] for each in (first, second)), strict=True):
        assert one["names"] == two["names"]
        assert one.get("step") == two.get("step")
    torch.testing.assert_close(first["optimizer"]["state"], second["optimizer"]["state"], rtol=0, atol=0)


def named(parts):
    """Return a whole state, the optimizer's by the names of the parameters."""
    state = training_state(*parts, False)
    names = [name for group in state["optimizer"]["param_groups"] for name in group["names"]]
    moments = {names[number]: value for number, value in state["optimizer"]["state"].items()}
    return {**state, "optimizer": {**state["optimizer"], "state": moments}}


@pytest.mark.usefixtures("alone")
def test_error_of_the_main_process_is_raised_in_all(monkeypatch):
    channel, told = Communicator(), []
    monkeypatch.setattr(channel, "all_gather", lambda value: told.append(value) or [value])

    def fail():
        raise PermissionError("may not")

    with pytest.raises(PermissionError, match="may not"):
        channel.run_on_main(fail)
    assert told


def test_float32_convolutions_do_not_use_tf32():
    before = torch.backends.cudnn.allow_tf32
    for precision in ("bfloat16", "float32"):
        make_accelerator(RunConfig(device="cpu", precision=precision))
        shutdown()
        assert not torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = before
