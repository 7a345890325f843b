"""Compare implementations of attention within images of different sizes, and a ViT-S on packed or single images.

    python benchmarks/packing.py --device cpu --threads 1      # prints benchmarks/results/packing_*.md

All get the same tokens in the same dtype, and are first checked against attention image by image. Runs are
interleaved; results are medians of each run's ratio to image by image, with minimum and maximum. On a CPU with one
thread, thread time is measured, which other work on the machine affects least.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import ropevit
from ropevit.models import pack

MIXES = {
    "mild": [(12, 16), (14, 14), (16, 12), (10, 18), (14, 10), (12, 12), (16, 16), (9, 14)] * 2,
    "wild": [(4, 6), (32, 24), (14, 14), (8, 8), (20, 12), (6, 24), (10, 10), (16, 28)] * 2,
}
HEADS, CHANNELS = 6, 64


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def heads(x: Tensor) -> tuple[Tensor, ...]:
    """Split packed projections (B, n, 3 A D) into queries, keys and values (B, A, n, D)."""
    return x.unflatten(-1, (3, HEADS, CHANNELS)).permute(2, 0, 3, 1, 4).unbind(0)


def merge(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def one_by_one(sizes: list[int], device: str) -> Callable[[Tensor], Tensor]:
    del device
    return lambda x: torch.cat([merge(F.scaled_dot_product_attention(*heads(own))) for own in x.split(sizes, 1)], 1)


def in_rows(row_tokens: int | None, one_each: bool = False) -> Callable[[list[int], str], Callable[[Tensor], Tensor]]:
    def make(sizes: list[int], device: str) -> Callable[[Tensor], Tensor]:
        packed = pack([torch.zeros(1, 1, size) for size in sizes], 1, 0, row_tokens=row_tokens and sum(sizes))
        image, first = packed.sequence_ids, packed.starts
        if one_each:
            slots = torch.arange(max(sizes)).expand(len(sizes), -1)
            image = torch.where(slots < torch.tensor(sizes)[:, None], torch.arange(len(sizes))[:, None], -1)
            first = torch.arange(len(sizes)) * max(sizes)
        places = torch.cat([start + torch.arange(size) for start, size in zip(first.tolist(), sizes, strict=True)])
        shape, places = image.shape, places.to(device)
        mask = (image[:, :, None] == image[:, None]).unsqueeze(1).to(device)

        def attend(x: Tensor) -> Tensor:  # in the model tokens stay in rows; here the way there and back counts too
            rows = x.new_zeros(image.numel(), x.shape[-1]).index_copy(0, places, x[0]).unflatten(0, shape)
            return merge(F.scaled_dot_product_attention(*heads(rows), attn_mask=mask)).flatten(0, 1)[places][None]

        return attend

    return make


def nested(sizes: list[int], device: str) -> Callable[[Tensor], Tensor]:
    offsets = torch.tensor([0, *sizes], device=device).cumsum(0)

    def attend(x: Tensor) -> Tensor:
        parts = (part[0].transpose(0, 1).contiguous() for part in heads(x))
        make = torch.nested.nested_tensor_from_jagged
        q, k, v = (make(part, offsets, min_seqlen=min(sizes), max_seqlen=max(sizes)).transpose(1, 2) for part in parts)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).values().flatten(1)[None]

    return attend


def flex(sizes: list[int], device: str) -> Callable[[Tensor], Tensor]:
    image = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(device)
    blocks = create_block_mask(lambda _b, _h, i, j: image[i] == image[j], None, None, len(image), len(image), device)
    compiled = torch.compile(flex_attention, dynamic=True)
    return lambda x: merge(compiled(*(part.contiguous() for part in heads(x)), block_mask=blocks))


WAYS = {
    "image by image": one_by_one,
    "rows, first-fit": in_rows(None),
    "rows, one image each": in_rows(None, one_each=True),
    "one long row": in_rows(1),
    "nested tensor": nested,
    "FlexAttention": flex,
}


def rounds(runs: dict[str, Callable[[], object]], count: int, device: str) -> dict[str, list[float]]:
    """Time each run in turn, `count` times, after one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(count + 1):
        for name, run in runs.items():
            start = now(device)
            run()
            if index:
                times[name].append(now(device) - start)
    return times


def show(times: dict[str, list[float]], name: str, base: str) -> str:
    if name not in times:
        return "cannot"
    ratios = [own / floor for own, floor in zip(times[name], times[base], strict=True)]
    middle = statistics.median(times[name]) * 1e3
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}; {middle:.1f} ms)"


def layer_rows(mix: str, count: int, device: str, dtype: torch.dtype) -> list[str]:
    sizes = [1 + h * w for h, w in MIXES[mix]]
    x = torch.randn(1, sum(sizes), 3 * HEADS * CHANNELS, device=device, dtype=dtype, requires_grad=True)
    truth, forward, both = one_by_one(sizes, device)(x), {}, {}
    for name, way in WAYS.items():
        attend = way(sizes, device)
        try:
            with torch.no_grad():
                torch.testing.assert_close(attend(x), truth, rtol=1e-2, atol=1e-2 if dtype.itemsize == 2 else 1e-4)
            forward[name] = torch.no_grad()(lambda attend=attend: attend(x))
            attend(x).sum().backward()
        except (NotImplementedError, RuntimeError) as error:
            print(f"<!-- {name}: {str(error).splitlines()[0]} -->")
            continue
        both[name] = lambda attend=attend: attend(x).sum().backward()
    once, twice = rounds(forward, count, device), rounds(both, count, device)
    base = "image by image"
    return [f"| {mix} | {name} | {show(once, name, base)} | {show(twice, name, base)} |" for name in WAYS]


def model_rows(mix: str, count: int, device: str, dtype: torch.dtype) -> list[str]:
    model = ropevit.create_model("rope_mixed_deit_small_patch16_LS").to(device=device, dtype=dtype)
    images = [torch.randn(3, 16 * h, 16 * w, device=device, dtype=dtype) for h, w in MIXES[mix]]
    packed = model.pack(images)
    runs = {
        "image by image": lambda: torch.cat([model(image[None]) for image in images]),
        "packed": lambda: model.forward_packed(packed),
    }
    once = rounds({name: torch.no_grad()(run) for name, run in runs.items()}, count, device)
    twice = rounds({name: lambda run=run: run().sum().backward() for name, run in runs.items()}, count, device)
    filled = (packed.sequence_ids >= 0).float().mean().item()
    note = f"{packed.sequence_ids.shape[0]} rows of {packed.sequence_ids.shape[1]}, {100 * filled:.0f} % filled"
    return [
        f"| {mix} | {name} | {show(once, name, 'image by image')} | {show(twice, name, 'image by image')} | {note} |"
        for name in runs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, dtype = options.device, getattr(torch, options.dtype)
    machine = (
        torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU, {options.threads} thread"
    )
    print(f"torch {torch.__version__}, {machine}, {options.dtype}, median (smallest to largest) of {options.rounds}\n")
    print(f"Attention alone, {HEADS} heads of {CHANNELS} channels, 16 images; ratio to image by image:\n")
    print("| sizes | way | forward | forward + backward |\n|---|---|---|---|")
    for mix in MIXES:
        print("\n".join(layer_rows(mix, options.rounds, device, dtype)), flush=True)
    print("\nWhole ViT-S with RoPE-Mixed, 16 images:\n")
    print("| sizes | way | forward | forward + backward | rows |\n|---|---|---|---|---|")
    for mix in MIXES:
        print("\n".join(model_rows(mix, max(3, options.rounds // 2), device, dtype)), flush=True)


if __name__ == "__main__":
    main()
