"""Make the embedded data set: a balanced subset of Fashion-MNIST, in one npz file.

    python benchmarks/make_fashion_subset.py DIRECTORY_OF_THE_IDX_FILES

The result is deterministic: the first 1,000 training and 200 test images of each class in the order of
the original files, interleaved so that image i has class i % 10 and every part of the file is balanced.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parents[1] / "src/ropevit/data/fashion/images.npz"
PER_CLASS = {"train": 1_000, "test": 200}
FILES = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    """Read the original format: two zero bytes, type (8 = uint8), number of axes, their sizes, then the values."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"got a file that is not idx with uint8 values: {path}")
    axes = raw[3]
    shape = np.frombuffer(raw, ">i4", axes, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the first `count` items of each class, classes interleaved."""
    rows = [np.flatnonzero(labels == label)[:count] for label in range(10)]
    return np.stack(rows, axis=1).flatten()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="directory of the four .gz files")
    source = parser.parse_args().source
    arrays = {}
    for split, prefix in FILES.items():
        images = read_idx(source / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz")
        index = first_of_each_class(labels, PER_CLASS[split])
        arrays |= {f"{split}_images": images[index], f"{split}_labels": labels[index]}
        arrays[f"{split}_index"] = index.astype(np.uint16)
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(TARGET, **arrays)


if __name__ == "__main__":
    main()
