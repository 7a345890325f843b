"""Where the samples of a tar shard lie, so that any one can be read by itself; found once, and kept in the cache."""

import hashlib
import json
import logging
import os
import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from ropevit.cache import cache_folder
from ropevit.data.listing import Names, listed

log = logging.getLogger(__name__)

IMAGES = ("jpg", "jpeg", "png", "webp")
#: Larger labels are taken for mistakes.
MOST_CLASSES = 100_000
#: Changes with what is kept.
VERSION = 1
BLOCK = 512


@dataclass(frozen=True)
class TarIndex:
    """The samples of a shard, in its order."""

    keys: Names
    """Path of each in the tar, up to the first dot of its name, and the image's suffix."""
    offsets: Int[np.ndarray, "n"]
    """Where images begin, in bytes."""
    sizes: Int[np.ndarray, "n"]
    """Lengths of images in bytes."""
    labels: Int[np.ndarray, "n"]
    """Class of each."""


def tar_index(path: Path) -> TarIndex:
    """Find the samples of a shard, in the cache if the file has not changed since.

    A sample is KEY.jpg (.jpeg, .png, .webp) with KEY.cls, which holds the number of its class, or KEY.json with a
    "label"; other members are left alone. This is the layout of WebDataset.

    Raises:
        ValueError: If the tar is damaged or compressed, or an image has no label, or a label no image.
    """
    status = path.stat()
    facts = f"{VERSION}/{path.resolve()}/{status.st_size}/{status.st_mtime_ns}"
    kept = cache_folder() / "shards" / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.npz"
    try:
        with kept.open("rb") as file, np.load(file) as found:
            return TarIndex(Names(found["ends"], found["text"]), *(found[k] for k in ("offsets", "sizes", "labels")))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("reading %s anew: its index cannot be used (%s)", path, error)
    index = scan(path)
    keep(index, kept)
    return index


def keep(index: TarIndex, path: Path) -> None:
    """Write an index in one step; where the cache cannot be written, it is made anew next time."""
    part = path.with_name(f"{path.stem}-{os.getpid()}.npz")
    arrays = {name: getattr(index, name) for name in ("offsets", "sizes", "labels")}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(part, ends=index.keys.ends, text=index.keys.text, **arrays)
        part.replace(path)
    except OSError as error:
        log.warning("the index of a shard is not kept: %s", error)


def scan(path: Path) -> TarIndex:
    """Read the heads of all members, and the labels.

    Raises:
        ValueError: As `tar_index`.
    """
    images: dict[str, tuple[int, int, str]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile():
                    take(path, tar, member, images, labels)
            check_end(path, tar)
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path} is damaged or no plain tar ({error}); fetch or make it again") from None
    if lonely := sorted(images.keys() ^ labels.keys()):
        lacks, kinds = (
            ("label", ".cls, .json") if lonely[0] in images else ("image", ", ".join(f".{s}" for s in IMAGES))
        )
        raise ValueError(f"{path}: found no {lacks} ({kinds}) for {listed(lonely, 3)}; every sample needs both")
    if not images:
        raise ValueError(f"{path} holds no images; expected members KEY.jpg and KEY.cls")
    offsets, sizes, suffixes = zip(*images.values(), strict=True)
    keys = Names.of(f"{key}.{suffix}" for key, suffix in zip(images, suffixes, strict=True))
    return TarIndex(keys, np.array(offsets), np.array(sizes), np.array([labels[key] for key in images]))


def take(
    path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, images: dict[str, Any], labels: dict[str, int]
) -> None:
    """Note a member that is an image or a label.

    Raises:
        ValueError: If there were two for one sample, or the label is none.
    """
    parts = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]*)", member.name)
    if not parts:
        return
    key, suffix = parts[1], parts[2]
    kind = suffix.lower()
    if kind in IMAGES:
        if key in images:
            raise ValueError(f"{path}: found two images of {key}; expected one for each name before the first dot")
        images[key] = member.offset_data, member.size, suffix
    elif kind in ("cls", "json"):
        file = tar.extractfile(member)
        label = parse_label(kind, file.read() if file else b"", f"{path}: {member.name}")
        if label is not None and (kind == "cls" or key not in labels):
            labels[key] = label


def parse_label(kind: str, content: bytes, where: str) -> int | None:
    """Read the number of a class; None where a .json speaks of something else.

    Raises:
        ValueError: If it is no number from 0, or far too large a one.
    """
    try:
        value = int(content) if kind == "cls" else json.loads(content)
    except ValueError:
        value = content[:20]
    if kind == "json" and not isinstance(value, bytes):
        if not isinstance(value, dict) or "label" not in value:
            return None
        value = value["label"]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MOST_CLASSES:
        raise ValueError(f"{where} has the label {value!r}; expected a whole number from 0, below {MOST_CLASSES}")
    return value


def check_end(path: Path, tar: tarfile.TarFile) -> None:
    """Refuse a tar in which the members end at something that is neither a head nor the end: tarfile stops silently.

    Raises:
        ValueError: If so.
    """
    with path.open("rb") as file:
        file.seek(tar.offset)
        block = file.read(BLOCK)
    if block.strip(b"\0"):
        raise ValueError(f"{path} is damaged at byte {tar.offset}; fetch or make it again")
