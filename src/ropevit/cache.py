"""Cache folder of files that can be made again: downloads, compiled kernels, indices."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Choose the folder: ROPEVIT_CACHE, or one in the user's cache; it need not exist."""
    own, shared = os.environ.get("ROPEVIT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else (Path(shared) if shared else Path.home() / ".cache") / "ropevit"
