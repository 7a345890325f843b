"""What `ropevit train RECIPE --estimate` shows."""

from ropevit.cli.console import Console, print_line
from ropevit.tasks.common.estimate import Estimate, StepSpec, estimate_step
from ropevit.tasks.common.training import Training
from ropevit.tasks.registry import task_of_recipe

_MARK = "estimated from shapes, not measured"


def step_of_training(config: Training) -> StepSpec:
    """Describe a step of any training."""
    task = task_of_recipe(config.recipe)
    assert task is not None, config.recipe
    return task.get("step_spec")(config)


def show_estimate(config: Training) -> None:
    """Print what a step of a training needs; nothing is read or written."""
    found = step_of_training(config)
    estimate = estimate_step(found)
    for line in lines(found, estimate, config.recipe):
        print_line(Console(), line)


def lines(found: StepSpec, estimate: Estimate, name: str) -> list[str]:
    """Put an estimate in words."""
    height, width = found.size
    small, large = estimate.counts
    said = [f"{name} at {height} x {width} pixels"]
    said.append(f"parameters: {estimate.parameters / 1e6:.1f} M ({_MARK})")
    said.append(f"multiply-adds of a forward pass of one image: {estimate.multiply_adds / 1e9:.3g} G ({_MARK})")
    for precision, peaks in estimate.peaks.items():
        first, second = (
            f"{gib(peak)} GiB with {n} image{'s' * (n > 1)}" for n, peak in zip((small, large), peaks, strict=True)
        )
        more = f"{gib(estimate.per_image(precision))} GiB for each image more"
        said.append(f"peak memory of a step in {precision}: {first}, {second}; {more} ({_MARK})")
    moments = f"the optimizer's moments are not in it: {gib(estimate.moments)} GiB"
    return [*said, "; ".join(filter(None, (moments, found.note)))]


def gib(count: int) -> str:
    """Write bytes in GiB."""
    return f"{count / 2**30:.2g}" if count < 2**28 else f"{count / 2**30:.2f}"
