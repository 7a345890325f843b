"""Time of attention with further channels of queries, keys and values, as ratios to heads of 64 channels without.

    python benchmarks/gaussian_channels.py --tokens 197 1025 --rounds 30

The Gaussian decay carries its bias in 4 further channels (8 in half precision). Forward and backward pass of attention
alone, on one thread, each with the copies that join the channels; every count takes its turn in each round, and times
are those of the thread on the processor, so that other work on the machine disturbs them less. Median and quartiles.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor
from torch.nn import functional as F

CHANNELS = 64
EXTRA = (0, 3, 4, 8, 16)


def attend(qkv: list[Tensor], extra: int) -> Tensor:
    """Compute attention with further channels, as `ropevit.rope.biases.GaussianDecay` does."""
    if not extra:
        return F.scaled_dot_product_attention(*qkv)
    more = qkv[0].new_ones(1, *qkv[0].shape[1:-1], extra).expand(len(qkv[0]), -1, -1, -1)
    q, k = (torch.cat([each, more], dim=-1) for each in qkv[:2])
    return F.scaled_dot_product_attention(q, k, F.pad(qkv[2], (0, extra)), scale=CHANNELS**-0.5)[..., :CHANNELS]


def measure(tokens: int, rounds: int) -> dict[int, list[float]]:
    """Return the ratios of each round by the number of further channels; one more round warms up."""
    qkv = [torch.randn(2, 6, tokens, CHANNELS, requires_grad=True) for _ in range(3)]
    found: dict[int, list[float]] = {extra: [] for extra in EXTRA}
    for index in range(rounds + 1):
        times = {}
        for extra in EXTRA:
            start = time.thread_time()
            attend(qkv, extra).sum().backward()
            times[extra] = time.thread_time() - start
        for extra, seconds in times.items():
            found[extra] += [seconds / times[0]] * (index > 0)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[197, 1025])
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"2 images, 6 heads of {CHANNELS} channels, torch {torch.__version__}, float32, one thread")
    print("| further channels | " + " | ".join(f"{tokens} tokens" for tokens in args.tokens) + " |")
    print("|---" * (len(args.tokens) + 1) + "|")
    columns = [measure(tokens, args.rounds) for tokens in args.tokens]
    for extra in EXTRA:
        cells = ["{1:.2f} ({0:.2f} to {2:.2f})".format(*statistics.quantiles(each[extra], n=4)) for each in columns]
        print(f"| {extra} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
