"""Throughput of a training on a device, from a few steps on random images."""

import time

import torch

from ropevit.models.architectures import build_model
from ropevit.tasks.classify.config import TrainConfig
from ropevit.tasks.classify.reproduce import Speed
from ropevit.tasks.classify.train import make_criterion
from ropevit.tasks.training.optim import make_optimizer
from ropevit.tasks.training.steps import update_weights

#: Batch size by device, unless the recipe's is smaller.
BATCH = {"cuda": 64, "cpu": 2}
STEPS = 3


def time_training(config: TrainConfig, device: torch.device, named: str) -> Speed:
    """Time forward pass, backward pass and optimizer of a recipe in its precision, after one warmup step.

    Data loading, EMA and communication are not included, so a real training is at most as fast.

    Args:
        config: The training.
        device: Where.
        named: What the device is called.

    Returns:
        Images per second of this device alone.
    """
    batch, size = min(BATCH.get(device.type, 2), config.batch_size), config.model.size
    torch.manual_seed(0)
    model = build_model(config.model.build(num_classes=1000)).to(device).train()
    optimizer, criterion = make_optimizer(model, config.optim), make_criterion(config)
    images = torch.randn(batch, 3, size, size, device=device)
    targets = torch.full((batch, 1000), 1e-3, device=device)
    mixed = config.run.precision == "bfloat16"

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            loss = criterion(model(images), targets)
        loss.backward()
        update_weights(optimizer, model.parameters(), config.optim.lr, config.optim.clip_grad)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    step()
    begin = time.perf_counter()
    for _ in range(STEPS):
        step()
    seconds = time.perf_counter() - begin
    source = f"{STEPS} steps of {batch} images on {named}, without reading images"
    return Speed(images_per_second=STEPS * batch / seconds, source=source)
