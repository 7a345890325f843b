"""Cost of int8 quantization: accuracy, agreement, file size and time of one small model on the embedded images.

    python benchmarks/int8_accuracy.py           # prints Markdown; benchmarks/results/int8_accuracy.md has it

Trains the ViT of `ropevit study` (zoom panel) on Fashion-MNIST, exports it as ONNX in float32 and int8, and runs
all three on the same test images at the training size and at a larger one. Times are medians over batches of 64.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

import ropevit
from ropevit.data.crops import MEAN, STD, normalize, resample
from ropevit.data.fashion import load_fashion
from ropevit.integrations.export import export_onnx
from ropevit.machine import available_cores, processor
from ropevit.models import Model
from ropevit.study.events import Run
from ropevit.study.panels import ZoomPanel
from ropevit.study.settings import preset
from ropevit.study.train import RunJob, train

BATCH = 64


def train_model(folder: Path, steps: int, position: str) -> tuple[Model, list[str] | None]:
    settings = replace(preset("fashion", "zoom"), test_sizes=(28,), steps=steps)
    panel = ZoomPanel(settings, load_fashion("train"), load_fashion("test"))
    job = RunJob(
        run=Run(panel="zoom", embedding=position, seed=0),
        panel=panel,
        folder=folder,
        device=torch.device("cpu"),
        dtype=torch.float32,
        report=lambda _: None,
        should_stop=lambda: False,
    )
    train(job)
    model, info = ropevit.load_model(folder / "model.safetensors")
    return model.eval(), info.classes


def onnx_runner(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@torch.no_grad()
def measure(run: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, float]:
    guesses, seconds = [], []
    for batch in images.split(BATCH):
        begin = time.perf_counter()
        guesses.append(run(batch).argmax(1))
        seconds.append(time.perf_counter() - begin)
    return torch.cat(guesses), 1000 * statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--position", default="rope_mixed")
    parser.add_argument("--sizes", type=int, nargs="+", default=[28, 56])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, classes = train_model(folder, options.steps, options.position)
        files = {kind: folder / f"{kind}.onnx" for kind in ("float32", "int8")}
        for kind, path in files.items():
            export_onnx(model, path, int8=kind == "int8", classes=classes, mean=[MEAN], std=[STD])
        ways = {
            "eager": (model, folder / "model.safetensors"),
            "ONNX float32": (onnx_runner(files["float32"], options.threads), files["float32"]),
            "ONNX int8": (onnx_runner(files["int8"], options.threads), files["int8"]),
        }
        report(options, model, ways)


def report(options: argparse.Namespace, model: Model, ways: dict[str, tuple]) -> None:
    config, test = model.config, load_fashion("test")
    print("# What 8 bits cost\n")
    print(f"`python benchmarks/int8_accuracy.py --steps {options.steps}`: a ViT with {config.position}, width ", end="")
    print(f"{config.width}, depth {config.depth}, trained for {options.steps} steps on Fashion-MNIST (10,000 images)")
    print(f"at 28 px, seed 0; top-1 on {len(test):,} test images. CPU, {options.threads} thread(s) of ", end="")
    print(f"{available_cores()} cores ({processor()}); torch {torch.__version__}, onnx {onnx.__version__}, ", end="")
    print(f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}. Other work ran on the machine: ", end="")
    print("read the times as rough.\n")
    print("| size | way | file | top-1 % | same class as eager % | ms a batch of 64 |\n|---|---|---|---|---|---|")
    for size in options.sizes:
        images = normalize(resample(test.images, size))
        eager = measure(model, images)[0]
        for way, (run, path) in ways.items():
            guesses, milliseconds = measure(run, images)
            right = 100 * (guesses == test.labels).float().mean().item()
            same = 100 * (guesses == eager).float().mean().item()
            row = f"{path.stat().st_size / 1e3:.0f} kB", f"{right:.2f}", f"{same:.2f}", f"{milliseconds:.0f}"
            print(f"| {size} px | {way} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
