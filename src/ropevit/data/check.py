"""Look for what would spoil a training: every file of a data set is read to its end, and compared with the others."""

import hashlib
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ropevit.data.faults import HANDLED
from ropevit.data.folder import check_folder
from ropevit.data.images import UNREADABLE, open_rgb, reason
from ropevit.data.listing import TEST_FOLDERS, image_names, subfolders
from ropevit.data.shards import AT_ONCE, ShardSource, all_shards, names_shards, ready
from ropevit.data.sources import FileSource, FolderSource
from ropevit.data.tar_index import TarIndex

#: What can be found, and what to do about it; in the order of a report.
ADVICE = {
    "empty": "0 bytes; fetch them again or remove them",
    "unreadable": "no images; convert or remove them",
    "truncated": "cut off or damaged; fetch them again or remove them",
    "wrongly labelled": "the same file in two classes; keep it in the right one",
    "in two splits": "the same file to train and to measure on; keep it in one",
    "class without images": "add images or remove the class",
    "class in one split": "training and measuring need the same classes",
    "shard": "cannot be used; fetch or make it again",
    "annotations": "cannot be used; fetch or write them again",
    "missing file": "fetch it, or remove what refers to it",
    "unknown image": "annotations of pictures that are not listed; list or remove them",
    "unknown category": "annotations of categories that are not listed; list or remove them",
    "unknown label": "labels above the number of classes; look how they were made, or name the classes in classes.txt",
    "damaged box": "not four numbers; correct or remove them",
    "damaged mask": "not for their picture, or cut off; correct or remove them",
    "wrong size": "annotations of another size than the picture; find out which is right",
    "wrong mode": "labels that are not one byte a pixel; save them as grey or palette PNG",
    "empty box": "no width or height; a training leaves them out",
    "box outside": "wholly beside the picture; a training leaves them out",
    "CMYK": "colours of print, which change when converted; convert them to RGB yourself",
    "animated": "only the first picture is used; keep one",
    "tiny": "too small to learn from; look whether they are thumbnails",
    "wrong suffix": "the content is of another kind; rename them",
    "converted": "nothing: they are read as RGB, transparency on white",
    "box over the edge": "nothing: they are cut to the picture",
    "crowd": "nothing: a training leaves them out, an evaluation ignores what lies on them",
    "without boxes": "nothing: a training leaves them out unless asked to keep them",
}
#: What is worth knowing but no problem.
HARMLESS = frozenset({"converted"}) | HANDLED
#: Images with a shorter side of fewer pixels are tiny.
TINY = 32
#: Files that are handed to the threads at a time.
WINDOW = 2048


class Finding(NamedTuple):
    """Something that was found in a file, a class or a shard."""

    kind: str
    """A key of ADVICE."""
    split: str
    """Such as train."""
    label: str
    """The class, where there is one."""
    file: str
    """Path, or shard and name; empty where it concerns a class."""
    detail: str
    """What exactly."""


@dataclass(frozen=True)
class Report:
    """What was looked at and what was found."""

    images: dict[str, int]
    """Number of each split."""
    findings: list[Finding]
    """In the order of ADVICE."""

    @property
    def clean(self) -> bool:
        """Whether there are no problems."""
        return all(finding.kind in HARMLESS for finding in self.findings)


def check(data: str, progress: Callable[[int, int], None] | None = None) -> Report:
    """Read every image of every split to its end, and look for files that are in two classes or splits.

    Args:
        data: A folder or a pattern of shards, as `open_source` takes; or a folder of classes alone.
        progress: Called with the number of images that are done and that of all.

    Raises:
        ValueError: If there are no images where they were looked for.
    """
    findings: list[Finding] = []
    parts = {split: source for split, source in splits(data, findings) if source}
    if not parts and not findings:
        raise ValueError(f"found no images in {data}; expected train/CLASS/*.jpg, CLASS/*.jpg or *train*.tar in it")
    findings += compare_classes(parts)
    total, done, seen = sum(map(len, parts.values())), 0, {}
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # Pillow's; what matters is found anyway
        for split, source in parts.items():
            for index, (found, digest) in enumerate(look_at_all(source, pool)):
                label = source.classes[int(source.labels[index])]
                findings += [Finding(kind, split, label, source.describe(index), detail) for kind, detail in found]
                twin = seen.setdefault(digest, (split, index)) if digest else (split, index)
                findings += compare(parts, twin, (split, index))
                done += 1
                if progress:
                    progress(done, total)
    order = list(ADVICE)
    images = {split: len(source) for split, source in parts.items()}
    return Report(images, sorted(findings, key=lambda finding: order.index(finding.kind)))


def splits(data: str, findings: list[Finding]) -> Iterator[tuple[str, FileSource | None]]:
    """Open all splits that there are, noting what stands in the way.

    Raises:
        ValueError: If a path or pattern is wrong.
    """
    path, found = Path(data).expanduser(), False
    if not names_shards(data):
        check_folder(path)
        for split in ("train", *TEST_FOLDERS):
            if subfolders(path / split):
                yield split, lenient_folder(path / split, split, findings)
                found = True
    for word, shards in {} if found else all_shards(data).items():
        yield word, lenient_shards(shards, word, findings)
        found = True
    if not found and subfolders(path):
        yield "all", lenient_folder(path, "all", findings)


def lenient_folder(root: Path, split: str, findings: list[Finding]) -> FolderSource | None:
    """Open a folder of classes, noting those that are empty."""
    files = {folder.name: image_names(folder) for folder in subfolders(root)}
    empty = [name for name, names in files.items() if not names]
    findings += [Finding("class without images", split, name, "", f"{root / name}") for name in empty]
    full = {name: names for name, names in files.items() if names}
    return FolderSource(root, split, full) if full else None


def lenient_shards(shards: list[str], split: str, findings: list[Finding]) -> ShardSource | None:
    """Open shards, noting those that cannot be, and numbers that no image is labelled with."""

    def attempt(shard: str) -> tuple[Path, TarIndex] | Finding:
        try:
            return ready(shard)
        except (ValueError, OSError) as error:
            return Finding("shard", split, "", shard, reason(error))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(attempt, shards))
    findings += [outcome for outcome in outcomes if isinstance(outcome, Finding)]
    usable = [outcome for outcome in outcomes if not isinstance(outcome, Finding)]
    if not usable:
        return None
    source = ShardSource([path for path, _ in usable], [index for _, index in usable], split)
    present = set(np.unique(source.labels).tolist())
    missing = [name for label, name in enumerate(source.classes) if label not in present]
    if split.startswith("train"):
        findings += [Finding("class without images", split, name, "", "no label has this number") for name in missing]
    return source


def compare_classes(parts: dict[str, FileSource]) -> list[Finding]:
    """Find classes that the training split and another one do not share."""
    present = {
        split: {source.classes[label] for label in np.unique(source.labels).tolist()} for split, source in parts.items()
    }
    first, *others = present or ("",)
    return [
        Finding("class in one split", first if name in present[first] else other, name, "", f"of {first} and {other}")
        for other in others
        for name in sorted(present[first] ^ present[other])
    ]


def compare(parts: dict[str, FileSource], twin: tuple[str, int], item: tuple[str, int]) -> list[Finding]:
    """Find out whether two files of the same content are where they must not be."""
    (split, index), (other, at) = item, twin
    name, twin_name = (parts[s].classes[int(parts[s].labels[i])] for s, i in (item, twin))
    if item == twin or (split, name) == (other, twin_name):
        return []
    kind = "wrongly labelled" if name != twin_name else "in two splits"
    detail = f"the same as {parts[other].describe(at)}, {other}, class {twin_name}"
    return [Finding(kind, split, name, parts[split].describe(index), detail)]


def look_at_all(source: FileSource, pool: ThreadPoolExecutor) -> Iterator[tuple[list[tuple[str, str]], bytes]]:
    """Look at all files, in order; no more than a window of them is under way."""

    def look(index: int) -> tuple[list[tuple[str, str]], bytes]:
        try:
            content, _ = source.raw(index)
        except OSError as error:
            return [("unreadable", reason(error))], b""
        return look_at(content, Path(source.describe(index)).suffix), hashlib.sha256(
            content
        ).digest() if content else b""

    for start in range(0, len(source), WINDOW):
        yield from pool.map(look, range(start, min(start + WINDOW, len(source))))


def look_at(content: bytes, suffix: str) -> list[tuple[str, str]]:
    """Find what is wrong with a file by itself.

    Args:
        content: The file.
        suffix: The end of its name, such as ".jpg".

    Returns:
        Kinds of ADVICE, each with a detail.
    """
    if not content:
        return [("empty", "0 bytes")]
    try:
        with Image.open(BytesIO(content)) as image:
            form, mode, size, frames = image.format or "", image.mode, image.size, getattr(image, "n_frames", 1)
    except UNREADABLE as error:
        return [("unreadable", reason(error))]
    found = []
    if form == "MPO":  # a JPEG with a second picture behind, as telephones write it
        form, frames = "JPEG", 1
    if (expected := Image.registered_extensions().get(suffix.lower())) != form:
        found.append(("wrong suffix", f"{form} in a file named as {expected}"))
    if mode != "RGB":
        found.append(("CMYK", mode) if mode == "CMYK" else ("converted", mode))
    if min(size) < TINY:
        found.append(("tiny", f"{size[0]} x {size[1]} pixels"))
    if frames > 1:
        found.append(("animated", f"{frames} pictures"))
    try:
        open_rgb(BytesIO(content))
    except UNREADABLE as error:
        found.append(("truncated", reason(error)))
    return found
