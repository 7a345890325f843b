"""A digest of everything in a file of ours, as safetensors has no checksum: a flipped bit is no weight like others."""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

#: Its entry in the header. Files without it, from before it was written, are read all the same.
KEY = "ropevit_digest"


def content_digest(state: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """Digest header and tensors: names, dtypes, shapes and values.

    Args:
        state: Tensors by name, on the CPU.
        header: Texts by name; an entry that holds a digest is left out.

    Returns:
        "sha256:" and 64 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(sorted((key, text) for key, text in header.items() if key != KEY)).encode())
    for name, tensor in sorted(state.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
