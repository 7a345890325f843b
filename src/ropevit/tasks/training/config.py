"""Options of the optimizer, the schedule and the run; every field is an option of `ropevit train`."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from ropevit.device import check_device_name
from ropevit.models.positions import describe_positions

Precision = Literal["float32", "tf32", "bfloat16", "float16"]

#: A field that names a position embedding.
PositionName = Annotated[str, tyro.conf.arg(help=f"Position embedding: {describe_positions()}.")]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and learning rate schedule.

    Raises:
        ValueError: If a field is out of range.
    """

    optimizer: Literal["lamb", "adamw"] = "adamw"
    """LAMB (with its own clipping of the global gradient norm at 1) or AdamW."""
    lr: float = 1e-3
    """Learning rate at the end of the warm-up; not scaled with the batch size."""
    weight_decay: float = 0.05
    """Weight decay of matrices; biases, norms, embeddings and learned frequencies are never decayed."""
    opt_eps: float = 1e-8
    """Epsilon of the optimizer, added to the square root of the second moment."""
    epochs: int | None = 300
    """Length of the training in epochs; None if `steps` is given."""
    steps: int | None = None
    """Length of the training in steps; None if `epochs` is given."""
    schedule: Literal["cosine", "step", "poly"] = "cosine"
    """Learning rate schedule: half a cosine, a division by 10 at each milestone, or polynomial decay."""
    power: float = 1.0
    """Exponent of polynomial decay; 1 is linear."""
    milestones: tuple[float, ...] = ()
    """Fractions of the training at which schedule step divides the learning rate by 10."""
    warmup_epochs: float = 5.0
    """Epochs of linear warm-up; limited to half of a training that is no longer than the warm-up."""
    warmup_steps: int | None = None
    """Length of the warm-up in steps, instead of epochs."""
    warmup_lr: float = 1e-6
    """Learning rate at the start of the warm-up."""
    min_lr: float = 1e-5
    """Final learning rate of schedules cosine and poly."""
    warmup_prefix: bool = False
    """Start the schedule after the warm-up, as Swin does; otherwise the warm-up replaces its first steps."""
    clip_grad: float | None = None
    """Maximum global gradient norm; None disables clipping."""
    layer_decay: float = 1.0
    """Layer-wise learning rate decay, per layer from the head downwards; 1 disables it."""
    backbone_lr_scale: float = 1.0
    """Factor on the learning rate of the backbone of a detector or segmenter."""
    ema_decay: float | None = None
    """Decay of the exponential moving average (EMA) of the weights; None disables it."""

    def __post_init__(self):
        for name in ("lr", "opt_eps", "epochs", "steps", "power", "backbone_lr_scale", "clip_grad"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"got {name}={getattr(self, name)}; expected above 0")
        for name in ("weight_decay", "warmup_epochs", "warmup_steps", "warmup_lr", "min_lr"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"got {name}={getattr(self, name)}; expected 0 or more")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"got layer_decay={self.layer_decay}; expected above 0, up to 1")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"got ema_decay={self.ema_decay}; expected between 0 and 1, or None")
        self.check_schedule()

    def check_schedule(self) -> None:
        """Raise ValueError for inconsistent combinations of length, schedule, power and milestones."""
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"got epochs={self.epochs} and steps={self.steps}; give one of them, and None for the other"
            )
        if self.schedule != "poly" and self.power != OptimConfig.power:
            raise ValueError(
                f"got power={self.power} with schedule={self.schedule!r}; only poly takes a power: leave it at "
                f"{OptimConfig.power}"
            )
        object.__setattr__(self, "milestones", tuple(self.milestones))
        rising = [0.0, *self.milestones, 1.0]
        if (self.schedule == "step") != bool(self.milestones) or rising != sorted({*rising}):
            raise ValueError(
                f"got milestones={self.milestones} with schedule={self.schedule!r}; expected fractions of the "
                "training, rising between 0 and 1, with step, and none with cosine or poly"
            )

    def length(self, steps_per_epoch: int) -> int:
        """Return the length of the training in steps."""
        return (self.epochs or 0) * steps_per_epoch if self.steps is None else self.steps

    def length_in_epochs(self, steps_per_epoch: float) -> float:
        """Return the length of the training in epochs; a fraction if it was given in steps."""
        return (self.steps or 0) / steps_per_epoch if self.epochs is None else self.epochs

    def warmup(self, steps_per_epoch: int) -> int:
        """Return the length of the warm-up in steps: at most half of a training that is no longer than the warm-up."""
        requested, length = self.requested_warmup(steps_per_epoch), self.length(steps_per_epoch)
        return requested if requested < length else length // 2

    def requested_warmup(self, steps_per_epoch: int) -> int:
        """Return the requested length of the warm-up in steps."""
        return round(self.warmup_epochs * steps_per_epoch) if self.warmup_steps is None else self.warmup_steps


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Output, device, precision and logging of a training; most may change when it is resumed.

    Raises:
        ValueError: If a field is out of range.
    """

    out: Path | None = None
    """Output directory: checkpoints, weights, logs. Default: runs/RECIPE, then runs/RECIPE-2, ...; with --resume the
    last of them."""
    resume: bool = False
    """Resume the training in the output directory; if there is none yet, start it. More epochs or steps than before
    extend it."""
    seed: int = 0
    """Seed of the initial weights, the order of the images and all augmentation."""
    device: str = "auto"
    """auto (an accelerator if available, else the CPU), cpu, cuda, cuda:N, mps or xpu."""
    precision: Precision = "float32"
    """float32, tf32 (float32 with TF32 matrix products), or mixed precision: bfloat16, float16 (with a loss scaler)."""
    grad_accum_steps: int = 1
    """Gradient accumulation: micro-batches into which each process divides its part of a batch, to save memory."""
    compile: bool = False
    """Compile the model with torch.compile."""
    grad_checkpointing: bool = False
    """Gradient checkpointing: recompute each block in the backward pass; less memory, more time."""
    fsdp: bool = False
    """Shard weights, gradients and optimizer state over the processes (FSDP2), for models that do not fit on one
    device."""
    workers: int = 4
    """DataLoader workers of each training process, at most one per core; 0 reads images in the training process."""
    max_steps: int | None = None
    """Stop after this many steps, as a trial; the schedule stays the same, and --resume without --max-steps
    continues."""
    save_interval: int | None = None
    """Steps between checkpoints; None saves one at the end of each epoch."""
    keep_checkpoints: int = 2
    """Number of checkpoints to keep; older ones are deleted."""
    val_interval: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    patience: int | None = None
    """Early stopping: end the training when the score has not improved for this many epochs; None never does."""
    log_interval: int = 50
    """Steps between log lines; the GPU is synchronized only then."""
    tensorboard: bool = False
    """Also write TensorBoard event files into the output directory."""
    wandb: str | None = None
    """Weights & Biases project to log to; requires the package wandb."""

    def __post_init__(self):
        check_device_name(self.device)
        for name in (
            "grad_accum_steps",
            "max_steps",
            "save_interval",
            "keep_checkpoints",
            "val_interval",
            "patience",
            "log_interval",
        ):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"got {name}={getattr(self, name)}; expected at least 1")
        if self.workers < 0 or self.seed < 0:
            raise ValueError(f"got workers={self.workers}, seed={self.seed}; expected 0 or more")

    @property
    def folder(self) -> Path:
        """Output directory of a training that has started, where `out` is set."""
        assert self.out is not None
        return self.out


#: Former names of fields in config.json -> names of today, by group; the empty group is the config itself.
FORMER_FIELDS: dict[str, dict[str, str]] = {
    "": {"eval_crop": "crop_pct", "top": "max_detections"},
    "run": {
        "accumulate": "grad_accum_steps",
        "shard": "fsdp",
        "save_every": "save_interval",
        "keep": "keep_checkpoints",
        "eval_every": "val_interval",
        "log_every": "log_interval",
    },
    "optim": {"eps": "opt_eps", "backbone_lr": "backbone_lr_scale"},
    "augment": {
        "kind": "auto_augment",
        "repeats": "aug_repeats",
        "crop": "crop_size",
        "ratios": "ratio_range",
        "short_sides": "short_edge_lengths",
        "most_of_one_class": "cat_max_ratio",
        "pad": "pad_value",
        "colours": "photometric_distortion",
    },
    "scale": {
        "short_sides": "short_edge_lengths",
        "longest": "max_size",
        "before_crop": "pre_crop_edge_lengths",
        "test_side": "test_size",
    },
}


def with_current_names(settings: dict[str, Any]) -> dict[str, Any]:
    """Rename the fields of an older config.json, so that its training can be resumed; newer ones are unchanged.

    An older one is recognized by its `run`. Tasks of other packages share `run` and `optim` with ours; all else may be
    fields of their own.
    """
    run = settings.get("run")
    if not isinstance(run, dict) or not FORMER_FIELDS["run"].keys() & run.keys():
        return settings
    task, slash, _ = str(settings.get("recipe", "")).partition("/")
    ours = not slash or task in ("detect", "segment")  # recipes of classifiers do not name their task
    known = FORMER_FIELDS if ours else {group: FORMER_FIELDS[group] for group in ("run", "optim")}
    top = known.get("", {})
    renamed = {top.get(name, name): value for name, value in settings.items()}
    for group, names in known.items():
        if isinstance(fields := renamed.get(group), dict):
            renamed[group] = {names.get(name, name): value for name, value in fields.items()}
    return renamed


#: Fields of RunConfig that change the results, so that a training cannot be resumed with other values.
FIXED = ("seed", "precision")


ConfigT = TypeVar("ConfigT", bound="BaseTrainConfig")


class BaseTrainConfig:
    """Base class of the training configs of all tasks, without fields of its own."""

    run: RunConfig

    def to_dict(self) -> dict[str, Any]:
        """Return the config as JSON-serializable values; fields with a `to_dict` of their own use it."""
        plain = asdict(self)  # pyright: ignore[reportArgumentType, reportCallIssue]
        plain |= {name: value.to_dict() for name, value in vars(self).items() if hasattr(value, "to_dict")}
        plain["run"]["out"] = None if self.run.out is None else str(self.run.out)
        return plain

    def with_run(self: ConfigT, **changes: Any) -> ConfigT:
        """Return a copy with other values of fields of `run`."""
        return replace(self, run=replace(self.run, **changes))  # pyright: ignore[reportArgumentType, reportCallIssue]
