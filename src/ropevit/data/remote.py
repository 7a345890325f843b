"""Files from the web, fetched once, whole, into the user's cache."""

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

#: Seconds without a byte after which a server is given up.
TIMEOUT = 60


def is_remote(path: str) -> bool:
    """Tell addresses from paths.

    Raises:
        ValueError: If the address is of a kind that cannot be fetched.
    """
    scheme, found, _ = path.partition("://")
    if found and scheme not in ("http", "https"):
        raise ValueError(f"got {path}; expected an http or https address, or a path (mount or copy other stores)")
    return bool(found)


def fetch(url: str) -> Path:
    """Find a file of the web in the cache, fetching it if it is not there.

    A file is in the cache whole or not at all; processes that ask for the same one wait for the first.

    Raises:
        ValueError: If it cannot be fetched.
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
    """Write what an address holds to a file, in one step at the end.

    Raises:
        ValueError: If the server does not answer, or sends less or more than it said.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with urlopen(url, timeout=TIMEOUT) as answer, part.open("wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
            expected = answer.headers.get("Content-Length")
    except (OSError, HTTPException) as error:
        raise ValueError(f"cannot fetch {url} ({error}); check the address and run again, what is done stays") from None
    size = part.stat().st_size
    if expected is not None and size != int(expected):
        raise ValueError(f"got {size} of {expected} bytes of {url}; run again, the files that are done stay")
    part.replace(path)
    log.info("fetched %s, %d bytes", url, size)
