"""Output of `ropevit train RECIPE --estimate`, and the line about the model before a training."""

from ropevit.cli.console import Console, print_line
from ropevit.models.memory import forward_macs
from ropevit.tasks.estimate import Estimate, StepSpec, estimate_step
from ropevit.tasks.evaluation.inference_modes import patch_tokens
from ropevit.tasks.registry import task_of_recipe
from ropevit.tasks.training.events import TrainStarted
from ropevit.tasks.training.run_training import TrainingConfig

_MARK = "estimated from shapes, not measured"


def model_line(config: TrainingConfig, started: TrainStarted) -> str:
    """Return parameters and cost of a model in one line; without the cost if its task does not describe a step."""
    total, learns = started.parameters, started.trainable
    trainable = "all trainable" if learns == total else f"{quantity(learns)} trainable"
    words = [f"model: {quantity(total)} parameters, {trainable}"]
    task = task_of_recipe(config.recipe)
    if task is not None and task.step_spec is not None:
        step = task.get("step_spec")(config, started.num_classes)
        macs = forward_macs(step.build, lambda model: step.forward(model, 1))
        height, width = step.size
        tokens = f"{patch_tokens(height, width, step.patch_size):,} patch tokens"
        words.append(f"{quantity(macs)} MACs and {tokens} for an image of {height} x {width} pixels")
    return "; ".join(words)


def quantity(count: int) -> str:
    """Format a number with three digits and K (thousand), M (million) or G (billion)."""
    rounded = float(f"{count:.3g}")
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "K")):
        if rounded >= size:
            return f"{rounded / size:g} {letter}"
    return str(count)


def step_of_training(config: TrainingConfig) -> StepSpec:
    """Return the specification of a training step, for any task."""
    task = task_of_recipe(config.recipe)
    assert task is not None, config.recipe
    return task.get("step_spec")(config)


def show_estimate(config: TrainingConfig) -> None:
    """Print parameters, MACs and peak memory of a training step; nothing is read or written."""
    step = step_of_training(config)
    estimate = estimate_step(step)
    for line in lines(step, estimate, config.recipe):
        print_line(Console(), line)


def lines(step: StepSpec, estimate: Estimate, name: str) -> list[str]:
    """Format an estimate as lines of text."""
    height, width = step.size
    small, large = estimate.counts
    text = [f"{name} at {height} x {width} pixels"]
    text.append(f"parameters: {estimate.parameters / 1e6:.1f} M ({_MARK})")
    text.append(f"MACs of a forward pass of one image: {estimate.macs / 1e9:.3g} G ({_MARK})")
    for precision, peaks in estimate.peaks.items():
        first, second = (
            f"{gib(peak)} GiB with {n} image{'s' * (n > 1)}" for n, peak in zip((small, large), peaks, strict=True)
        )
        more = f"{gib(estimate.per_image(precision))} GiB for each further image"
        text.append(f"peak memory of a step in {precision}: {first}, {second}; {more} ({_MARK})")
    moments = f"not included: the optimizer's moments, {gib(estimate.moments)} GiB"
    return [*text, "; ".join(filter(None, (moments, step.note)))]


def gib(count: int) -> str:
    """Format a number of bytes in GiB."""
    return f"{count / 2**30:.2g}" if count < 2**28 else f"{count / 2**30:.2f}"
