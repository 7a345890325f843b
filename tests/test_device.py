import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from marks import by_default
from ropevit.device import delay_by_one, resolve_device, start_copy, to_device
from ropevit.models import ViTConfig, build_model, set_scaling
from ropevit.models.swin import SwinConfig
from ropevit.tasks import distributed
from ropevit.tasks.detect.boxes import Target


def pretend(monkeypatch, kind, count=1):
    """Let PyTorch find accelerators of a kind that this machine lacks."""
    found = None if kind is None else torch.device(kind)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: found)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_auto_takes_the_accelerator_that_there_is_and_names_choose_it(monkeypatch, kind):
    pretend(monkeypatch, kind, count=2)
    assert resolve_device("auto") == resolve_device(kind) == torch.device(kind)
    assert resolve_device(f"{kind}:1") == torch.device(kind, 1)
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto", ("cpu",)) == torch.device("cpu")
    for name in (f"{kind}:2", *({"cuda", "mps", "xpu"} - {kind})):
        with pytest.raises(ValueError, match=f"got device '{name}', which is not available here; take auto, cpu"):
            resolve_device(name)


def test_what_is_no_device_or_cannot_compute_is_refused(monkeypatch):
    pretend(monkeypatch, None)
    assert resolve_device("auto") == torch.device("cpu")
    for name in ("toaster", "meta", "", "cuda:x"):
        with pytest.raises(ValueError, match=f"got device '{name}'; take auto, cpu, cuda, cuda:N, mps or xpu"):
            resolve_device(name)
    with pytest.raises(ValueError, match="got device 'mps'; take auto, cpu or cuda"):
        resolve_device("mps", ("cpu", "cuda"))


def test_one_device_is_not_for_several_processes(monkeypatch):
    chosen = []
    pretend(monkeypatch, "cuda", count=2)
    monkeypatch.setattr(torch.accelerator, "set_device_index", chosen.append)
    assert distributed.choose_device("cuda:1") == torch.device("cuda", 1)
    assert chosen == [1]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="got device 'cuda:1' for several processes; give cuda, and each"):
        distributed.choose_device("cuda:1")
    assert distributed.choose_device("cuda") == torch.device("cuda")
    with pytest.raises(ValueError, match="got device mps, but accelerate uses cpu on this machine"):
        distributed.check_device(torch.device("mps"), torch.device("cpu"))


class Elsewhere(torch.Tensor):
    """Stands for a tensor on a device that this machine lacks, or in pinned memory; notes what is asked of it."""

    @classmethod
    def make(cls, place, pinned=False):
        self = torch.arange(3.0).as_subclass(cls)
        self.place, self.pinned, self.asked = torch.device(place), pinned, []
        return self

    @property
    def device(self):
        return self.place

    def is_pinned(self):
        return self.pinned

    def pin_memory(self):
        if self.place.type != "cpu" or self.pinned:
            raise RuntimeError("cannot pin")
        self.asked.append("pin")
        self.pinned = True
        return self

    def to(self, device, non_blocking=False):
        self.asked.append((device.type, non_blocking))
        return self

    def cpu(self):
        return torch.tensor(self.tolist())


COPIES = [
    ("cpu", False, "cuda", ["pin", ("cuda", True)]),
    ("cpu", True, "cuda", [("cuda", True)]),
    ("cuda", False, "cuda", [("cuda", False)]),
    ("cuda", False, "cpu", [("cpu", False)]),
    ("cpu", False, "mps", [("mps", False)]),
    ("mps", False, "mps", [("mps", False)]),
    ("cpu", False, "xpu", [("xpu", False)]),
    ("cpu", False, "cpu", [("cpu", False)]),
]


@pytest.mark.parametrize(("source", "pinned", "target", "expected"), COPIES)
def test_only_copies_from_pinned_memory_to_cuda_are_not_waited_for(source, pinned, target, expected):
    values = Elsewhere.make(source, pinned)
    to_device(values, torch.device(target))
    assert values.asked == expected


@pytest.mark.usefixtures("unchecked")
def test_objects_of_a_detector_are_copied_in_the_same_way():
    for source, pinned, target, expected in COPIES:
        labels, boxes = (Elsewhere.make(source, pinned) for _ in range(2))
        Target(labels, boxes).to(target)
        assert labels.asked == boxes.asked == expected


@pytest.mark.parametrize("place", ["cpu", "mps", "xpu"])
def test_off_cuda_a_started_copy_holds_what_there_was_at_its_start(place):
    values = Elsewhere.make(place)
    wait = start_copy(values)
    if place != "cpu":  # on the CPU there is nothing to copy
        values.zero_()
    assert wait().tolist() == [0.0, 1.0, 2.0]


class NoFloat64(TorchDispatchMode):
    """Stands for a device without float64, as Apple's is: nothing on `meta` may be of it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            assert not (isinstance(leaf, torch.Tensor) and leaf.is_meta and leaf.dtype == torch.float64), func
        return found


ROTATIONS = ("rope_axial", "rope_mixed", "rope_golden", "rope_polar")

#: Position embedding, scaling and whether a Swin has them.
STEPS = [
    ("ape", None, False),
    *(("rope_mixed_ape", method, False) for method in (None, "ntk", "yarn+log")),
    *itertools.product(ROTATIONS, (None, "ntk", "yarn+log"), (False, True)),
]


@pytest.mark.parametrize(
    "step",
    by_default([step for step in STEPS if step[1] == "yarn+log" or (not step[1] and not step[2])], STEPS),
    ids=str,
)
def test_a_training_step_needs_no_float64_on_the_device(step):
    position, method, swin = step
    fields = {"position": position, "img_size": (32, 32), "num_classes": 3}
    small = ViTConfig(**fields, width=32, depth=1, heads=2, patch_size=8)
    config = SwinConfig(**fields, width=16, depths=(1, 1), heads=(1, 2), window_size=4) if swin else small
    model = build_model(config)
    if method:
        set_scaling(model, method)
    model = model.to("meta").train()
    images = torch.empty(2, 3, 64, 40, device="meta")
    with NoFloat64(), pytest.raises(AssertionError, match="aten"):
        images.double()
    with NoFloat64():
        model(images).sum().backward()
        with torch.no_grad():
            model.eval()(images)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_an_item_is_made_before_the_last_one_is_taken(count):
    seen = []
    made = (seen.append(("make", number)) or number for number in range(count))
    for number in delay_by_one(made):
        seen.append(("take", number))
    takes = [seen.index(("take", number)) for number in range(count)]
    assert takes == sorted(takes)
    assert all(seen.index(("make", number + 1)) < takes[number] for number in range(count - 1))
