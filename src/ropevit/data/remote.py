"""Downloads into the user's cache: each file is downloaded once, atomically."""

import hashlib
import logging
import shutil
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

from filelock import FileLock

from ropevit.cache import cache_folder

log = logging.getLogger(__name__)

#: Seconds without data after which a download fails.
TIMEOUT = 60


def is_remote(path: str) -> bool:
    """Return whether a string is an address rather than a path.

    Raises:
        ValueError: If its scheme is neither http nor https.
    """
    scheme, found, _ = path.partition("://")
    if found and scheme not in ("http", "https"):
        raise ValueError(f"got {path}; expected an http or https address, or a path (mount or copy other stores)")
    return bool(found)


def fetch(url: str) -> Path:
    """Return the cached copy of a remote file, downloading it if needed.

    A file is in the cache complete or not at all; concurrent processes wait for the first download.

    Raises:
        ValueError: If it cannot be downloaded.
    """
    folder = cache_folder() / "fetched"
    folder.mkdir(parents=True, exist_ok=True)
    name = Path(urlsplit(url).path).name
    path = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    if not path.exists():
        with FileLock(f"{path}.lock"):
            if not path.exists():
                download(url, path)
    return path


def download(url: str, path: Path) -> None:
    """Download an address to a file, which appears only when it is complete.

    Raises:
        ValueError: If the server does not answer, or the size differs from Content-Length.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with urlopen(url, timeout=TIMEOUT) as response, part.open("wb") as file:
            shutil.copyfileobj(response, file, 1 << 20)
            expected = response.headers.get("Content-Length")
    except (OSError, HTTPException) as error:
        raise ValueError(
            f"cannot download {url} ({error}); check the address and run again, complete files are kept"
        ) from None
    size = part.stat().st_size
    if expected is not None and size != int(expected):
        raise ValueError(f"got {size} of {expected} bytes of {url}; run again, complete files are kept")
    part.replace(path)
    log.info("downloaded %s, %d bytes", url, size)
