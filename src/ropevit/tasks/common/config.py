"""How a training is optimised and run; every field is an option of `ropevit train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ropevit.device import check_device_name
from ropevit.models.positions import describe_positions

Precision = Literal["float32", "tf32", "bfloat16", "float16"]

#: An option that names a position embedding.
PositionName = Annotated[str, tyro.conf.arg(help=describe_positions())]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and its schedule.

    Raises:
        ValueError: If a field is out of range.
    """

    optimizer: Literal["lamb", "adamw"] = "adamw"
    """LAMB (with its own clipping of the global gradient norm at 1) or AdamW."""
    lr: float = 1e-3
    """Learning rate at the end of the warm-up, for the whole batch: it is not scaled by anything."""
    weight_decay: float = 0.05
    """Decay of the matrices; biases, norms, embeddings and frequencies are never decayed."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    epochs: int | None = 300
    """Times that the training images are gone through; None with steps."""
    steps: int | None = None
    """Length of the training in steps; None with epochs."""
    schedule: Literal["cosine", "step", "poly"] = "cosine"
    """How the learning rate falls: along half a cosine, to a tenth at each of the milestones, or as a power of the
    share of the training that is left."""
    power: float = 1.0
    """That power, with schedule poly; 1 is a straight line."""
    milestones: tuple[float, ...] = ()
    """Shares of the training after which the rate falls to a tenth, with schedule step."""
    warmup_epochs: float = 5.0
    """Epochs in which the learning rate rises linearly; half of a training that is no longer than that."""
    warmup_steps: int | None = None
    """The same in steps, instead of epochs."""
    warmup_lr: float = 1e-6
    """Learning rate of the first step."""
    min_lr: float = 1e-5
    """Learning rate at the end of a cosine or a power."""
    warmup_prefix: bool = False
    """Begin the schedule after the warm-up (as Swin does), instead of letting the warm-up cover its beginning."""
    clip_grad: float | None = None
    """Largest norm of the gradient of all weights together; None does not clip."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each layer to the one below it; 1 treats all alike."""
    backbone_lr: float = 1.0
    """Factor on the learning rate of a detector's or a segmenter's backbone; 1 treats all alike."""
    ema_decay: float | None = None
    """Decay of a moving average of the weights, kept beside them; None keeps none."""

    def __post_init__(self):
        for name in ("lr", "eps", "epochs", "steps", "power", "backbone_lr", "clip_grad"):
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
        """Refuse a length, a warm-up and milestones that do not fit together."""
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
                f"got milestones={self.milestones} with schedule={self.schedule!r}; expected shares of the training, "
                "rising between 0 and 1, with step, and none with cosine or poly"
            )

    def length(self, steps_per_epoch: int) -> int:
        """Give the steps of the whole training."""
        return (self.epochs or 0) * steps_per_epoch if self.steps is None else self.steps

    def passes(self, steps_per_epoch: float) -> float:
        """Give the times that the training images are gone through."""
        return (self.steps or 0) / steps_per_epoch if self.epochs is None else self.epochs

    def warmup(self, steps_per_epoch: int) -> int:
        """Give the steps of the warm-up: those asked for, or half of a training that is no longer than these."""
        asked, length = self.asked_warmup(steps_per_epoch), self.length(steps_per_epoch)
        return asked if asked < length else length // 2

    def asked_warmup(self, steps_per_epoch: int) -> int:
        """Give the steps of the warm-up that is asked for."""
        return round(self.warmup_epochs * steps_per_epoch) if self.warmup_steps is None else self.warmup_steps


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where and how a training is computed; it may be resumed with other values of most of these.

    Raises:
        ValueError: If a field is out of range.
    """

    out: Path = Path("runs/train")
    """Directory for everything that is written."""
    resume: bool = False
    """Go on with the training in the directory, or start it if there is none yet."""
    seed: int = 0
    """What the first weights, the order of the images and all that is drawn in training depend on."""
    device: str = "auto"
    """auto (the accelerator that there is, else the CPU), cpu, cuda, cuda:N, mps or xpu."""
    precision: Precision = "float32"
    """float32, tf32 (float32 with TF32 matrix products), or mixed precision: bfloat16, float16 (with a loss scaler)."""
    accumulate: int = 1
    """Parts in which each process goes through its share of a batch, to fit in memory."""
    compile: bool = False
    """Compile the model with torch.compile."""
    grad_checkpointing: bool = False
    """Keep only the input of each block and compute it again in the backward pass: less memory, more time."""
    shard: bool = False
    """Share weights and optimizer among the processes (FSDP2), for models that do not fit on one device."""
    workers: int = 4
    """Processes that read images, for each training process, no more than there are cores; 0 reads in the training
    process itself."""
    max_steps: int | None = None
    """Stop after so many steps of the schedule, as a trial; --resume without it goes on."""
    save_every: int | None = None
    """Steps between two checkpoints; None saves at the end of each epoch."""
    keep: int = 2
    """Newest checkpoints that are kept."""
    eval_every: int = 1
    """Epochs between two evaluations; the last epoch is always followed by one."""
    log_every: int = 50
    """Steps between two lines of the log; a GPU is waited for only then."""
    tensorboard: bool = False
    """Write TensorBoard's files into the directory, too."""
    wandb: str | None = None
    """Project of Weights & Biases to log to; needs the package wandb."""

    def __post_init__(self):
        check_device_name(self.device)
        for name in ("accumulate", "max_steps", "save_every", "keep", "eval_every", "log_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"got {name}={value}; expected at least 1")
        if self.workers < 0 or self.seed < 0:
            raise ValueError(f"got workers={self.workers}, seed={self.seed}; expected 0 or more")


#: Fields of RunConfig that change what comes out, so that a training cannot be resumed with others.
FIXED = ("seed", "precision")
