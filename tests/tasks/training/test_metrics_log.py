import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ropevit.tasks.classify.train import train
from ropevit.tasks.training import metrics_log
from ropevit.tasks.training.metrics_log import read_metrics


def test_tensorboard_gets_every_value_once_even_after_a_kill(small, tmp_path):
    options = {"tensorboard": True, "save_interval": 3, "resume": True}

    def die(event):
        if getattr(event, "step", 0) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small(1, **options), die)
    train(small(1, **options))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    lines = read_metrics(tmp_path / "run")
    for key in ("loss", "lr", "epoch", "top1", "ema_top1"):
        wanted = [(line["step"], pytest.approx(line[key])) for line in lines if key in line]
        assert wanted
        assert [(event.step, event.value) for event in events.Scalars(key)] == wanted


class Wandb(ModuleType):
    """What is used of Weights & Biases."""

    def __init__(self):
        super().__init__("wandb")
        self.started, self.lines, self.finished = [], [], 0

    def init(self, **options):
        self.started.append(options)
        return SimpleNamespace(log=self.log, finish=self.finish)

    def log(self, values, step):
        self.lines.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    stand_in = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    return stand_in


def test_weights_and_biases_gets_every_line_and_the_config(small, tmp_path, wandb):
    train(small(1, wandb="positions", max_steps=2))
    lines = read_metrics(tmp_path / "run")
    assert wandb.lines == [(line["step"], {k: v for k, v in line.items() if k != "step"}) for line in lines]
    (options,) = wandb.started
    assert (options["project"], options["name"], options["dir"]) == ("positions", "run", str(tmp_path / "run"))
    assert options["config"]["optim"]["optimizer"] == "lamb"
    assert wandb.finished == 1


def test_resumed_training_keeps_its_wandb_run_and_another_of_the_same_name_does_not(small, tmp_path, wandb):
    train(small(1, wandb="positions", max_steps=1))
    train(small(1, wandb="positions", max_steps=2, resume=True))
    train(small(1, wandb="positions", max_steps=1, out=tmp_path / "other" / "run"))
    first, second, third = (options["id"] for options in wandb.started)
    assert first == second != third


def test_peak_memory_works_without_the_resource_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    monkeypatch.setattr(sys, "platform", "win32")
    used = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=3 * 2**30))
    psutil = ModuleType("psutil")
    psutil.Process = lambda: used
    monkeypatch.setitem(sys.modules, "psutil", psutil)
    spec = importlib.util.spec_from_file_location("metrics_log_on_windows", metrics_log.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.LogWindow(torch.device("cpu")).memory() == 3.0
