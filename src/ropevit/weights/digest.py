"""Checksum of a safetensors file of this package (the format has none), to detect damaged weights."""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

#: Header entry of the digest. Older files without it are accepted.
KEY = "ropevit_digest"


def content_digest(state: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """Return the digest of header and tensors: names, dtypes, shapes and values.

    Args:
        state: Tensors by name, on the CPU.
        header: Texts by name; the entry of the digest itself is ignored.

    Returns:
        "sha256:" and 64 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(sorted((key, text) for key, text in header.items() if key != KEY)).encode())
    for name, tensor in sorted(state.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
