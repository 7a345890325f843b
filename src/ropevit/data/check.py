"""Check a classification data set before training: decode every file, and find duplicates and wrong labels."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ropevit.data.decoding import reason
from ropevit.data.findings import DataReport, Finding, ordered
from ropevit.data.folder import check_folder
from ropevit.data.image_facts import ImageFacts, inspect_image, mixed_depths
from ropevit.data.listing import TEST_FOLDERS, count_loose_files, list_images, refuse_results, subfolders, undecodable
from ropevit.data.shards import DOWNLOADS_AT_ONCE, ShardSource, all_shards, names_shards, open_shard
from ropevit.data.sources import FileSource, FolderSource
from ropevit.data.tar_index import TarIndex

#: Files submitted to the threads at a time.
_WINDOW = 2048


def check(data: str, progress: Callable[[int, int], None] | None = None) -> DataReport:
    """Decode every image of every split, and find files that are in two classes or splits.

    Args:
        data: Folder or pattern of shards, as in `open_source`; or a folder of classes alone.
        progress: Called with the number of checked and of all images.

    Raises:
        ValueError: If no images were found.
    """
    seen = CheckedFiles()
    parts = {split: source for split, source in splits(data, seen) if source}
    if not parts and not seen.findings:
        raise ValueError(f"found no images in {data}; expected train/CLASS/*.jpg, CLASS/*.jpg or *train*.tar in it")
    findings = seen.findings + _compare_classes(parts)
    total, done, first_copies, scales = sum(map(len, parts.values())), 0, {}, []
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # from Pillow; faults are reported as findings
        for split, source in parts.items():
            for index, (facts, digest) in enumerate(_inspect_all(source, pool)):
                label, file = source.classes[int(source.labels[index])], source.describe(index)
                findings += [Finding(kind, split, label, file, detail) for kind, detail in facts.found]
                twin = first_copies.setdefault(digest, (split, index)) if digest else (split, index)
                findings += _compare_duplicates(parts, twin, (split, index))
                scales += [(split, label, file, facts.scale)] if facts.scale else []
                done += 1
                if progress:
                    progress(done, total)
    return DataReport(
        images={split: len(source) for split, source in parts.items()},
        classes=len({name for source in parts.values() for name in source.classes}),
        findings=ordered(findings + mixed_depths(scales)),
        others=seen.others,
    )


@dataclass
class CheckedFiles:
    """Findings and other files, collected while the data are opened."""

    findings: list[Finding] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    """Number of unchecked files, by suffix."""


def splits(data: str, seen: CheckedFiles) -> Iterator[tuple[str, FileSource | None]]:
    """Open all splits, recording faults in `seen`.

    Raises:
        ValueError: If a path or pattern is wrong, or holds results.
    """
    path, found = Path(data).expanduser(), False
    if not names_shards(data):
        check_folder(path)
        refuse_results(path)
        seen.others += count_loose_files(path)
        for split in ("train", *TEST_FOLDERS):
            if subfolders(path / split):
                seen.others += count_loose_files(path / split)
                yield split, _lenient_folder(path / split, split, seen)
                found = True
    for word, shards in {} if found else all_shards(data).items():
        yield word, _lenient_shards(shards, word, seen)
        found = True
    if not found and subfolders(path):
        yield "all", _lenient_folder(path, "all", seen)


def _lenient_folder(root: Path, split: str, seen: CheckedFiles) -> FolderSource | None:
    """Open a folder of classes, recording empty ones as findings."""
    searches = {folder.name: list_images(folder) for folder in subfolders(root)}
    others = sum((each.others for each in searches.values()), Counter[str]())
    seen.others += others
    if lacking := undecodable(others):
        seen.findings.append(Finding("no decoder", split, "", str(root), lacking))
    files = {name: each.names for name, each in searches.items()}
    empty = [name for name, names in files.items() if not names]
    seen.findings += [Finding("class without images", split, name, "", f"{root / name}") for name in empty]
    full = {name: names for name, names in files.items() if names}
    return FolderSource(root, split, full) if full else None


def _lenient_shards(shards: list[str], split: str, seen: CheckedFiles) -> ShardSource | None:
    """Open shards, recording unusable ones and class indices without images as findings."""

    def attempt(shard: str) -> tuple[Path, TarIndex] | Finding:
        try:
            return open_shard(shard)
        except (ValueError, OSError) as error:
            return Finding("shard", split, "", shard, reason(error))

    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        outcomes = list(pool.map(attempt, shards))
    seen.findings += [outcome for outcome in outcomes if isinstance(outcome, Finding)]
    usable = [outcome for outcome in outcomes if not isinstance(outcome, Finding)]
    for path, index in usable:
        seen.findings += [
            Finding("no sample", split, "", f"{path}:{name}", "no label has its key") for name in index.left_out
        ]
    if not usable:
        return None
    source = ShardSource([path for path, _ in usable], [index for _, index in usable], split)
    present = set(np.unique(source.labels).tolist())
    missing = [name for label, name in enumerate(source.classes) if label not in present]
    if split.startswith("train"):
        detail = "no image has this label"
        seen.findings += [Finding("class without images", split, name, "", detail) for name in missing]
    return source


def _compare_classes(parts: dict[str, FileSource]) -> list[Finding]:
    """Find classes that are in the training split or in another one, but not in both."""
    present = {
        split: {source.classes[label] for label in np.unique(source.labels).tolist()} for split, source in parts.items()
    }
    first, *others = present or ("",)
    return [
        Finding("class in one split", first if name in present[first] else other, name, "", f"of {first} and {other}")
        for other in others
        for name in sorted(present[first] ^ present[other])
    ]


def _compare_duplicates(parts: dict[str, FileSource], twin: tuple[str, int], item: tuple[str, int]) -> list[Finding]:
    """Return a finding if a file is a copy of an earlier one."""
    (split, index), (other, at) = item, twin
    if item == twin:
        return []
    name, twin_name = (parts[s].classes[int(parts[s].labels[i])] for s, i in (item, twin))
    kind = "wrongly labeled" if name != twin_name else "in two splits" if split != other else "duplicate"
    detail = f"the same as {parts[other].describe(at)}, {other}, class {twin_name}"
    return [Finding(kind, split, name, parts[split].describe(index), detail)]


def _inspect_all(source: FileSource, pool: ThreadPoolExecutor) -> Iterator[tuple[ImageFacts, bytes]]:
    """Inspect all files in order, and hash each; at most a window of them is in flight."""

    def inspect(index: int) -> tuple[ImageFacts, bytes]:
        try:
            content, _ = source.raw(index)
        except OSError as error:
            return ImageFacts([("unreadable", reason(error))]), b""
        digest = hashlib.sha256(content).digest() if content else b""
        return inspect_image(content, Path(source.describe(index)).suffix), digest

    for start in range(0, len(source), _WINDOW):
        yield from pool.map(inspect, range(start, min(start + _WINDOW, len(source))))
