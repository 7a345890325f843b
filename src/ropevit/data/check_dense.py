"""Check an annotated data set (COCO, ADE20K) before training: images, annotations and labels."""

import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ropevit.data.ade import IGNORED, AdeSource, list_ade, shared_labels, unpaired_files
from ropevit.data.annotation_faults import Fault
from ropevit.data.annotation_formats import SPLITS, annotation_format, format_labels
from ropevit.data.coco import (
    CocoFile,
    annotation_faults,
    coco_paths,
    mask_faults,
    missing_files,
    read_coco,
    size_mismatch,
)
from ropevit.data.decoding import matching_orientation, reason, upright_size
from ropevit.data.findings import DataReport, Finding, ordered
from ropevit.data.image_facts import ImageFacts, inspect_image, mixed_depths
from ropevit.data.listing import ImageListing, list_images, undecodable

#: Fraction of pixels with an ignored label 0 from which a check asks whether 0 is a class.
_MUCH = 0.25


class ImageChecked(NamedTuple):
    """Result of checking an image and its annotation."""

    file: str
    faults: list[Fault]
    scale: str = ""
    """Name of the scale of a deep image."""
    labels: Counter[str] | None = None
    """Number of all pixels, of ignored ones, and of ignored ones with label 0."""


#: Checks one image and its annotation.
ImageCheck = Callable[[], ImageChecked]


@dataclass(frozen=True, kw_only=True)
class DenseSplit:
    """A split with the checks of its images."""

    faults: list[Fault]
    """Faults of annotation files, and missing files."""
    checks: list[ImageCheck] = field(default_factory=list)
    """One for each image, run by threads."""
    classes: tuple[str, ...] = ()
    others: Counter[str] = field(default_factory=Counter)
    """Number of unchecked files, by suffix."""


def check_dense(data: str, progress: Callable[[int, int], None] | None = None) -> DataReport:
    """Check every image and annotation of both splits, and report faults and notes.

    Args:
        data: Folder in a format of `ropevit.data.annotation_formats.ANNOTATION_FORMATS`.
        progress: Called with the number of checked and of all images.

    Raises:
        ValueError: If it is in none of them.
    """
    found = annotation_format(data)
    if found is None:
        raise ValueError(f"found no annotated images in {data}; expected the format of {format_labels()}")
    prepare = found.get("prepare")
    parts = {split: prepare(Path(data).expanduser(), split) for split in SPLITS}
    findings = [_to_finding(split, fault) for split, part in parts.items() for fault in part.faults]
    labels: dict[str, Counter[str]] = {split: Counter() for split in parts}
    total, done, scales = sum(len(part.checks) for part in parts.values()), 0, []
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # from Pillow; faults are reported as findings
        for split, part in parts.items():
            for seen in pool.map(lambda check: check(), part.checks):
                findings += [_to_finding(split, fault) for fault in seen.faults]
                labels[split] += seen.labels or Counter()
                scales += [(split, "", seen.file, seen.scale)] if seen.scale else []
                done += 1
                if progress:
                    progress(done, total)
    findings += mixed_depths(scales)
    findings += [_to_finding(split, fault) for split in labels for fault in _much_ignored(labels[split])]
    return DataReport(
        images={split: len(part.checks) for split, part in parts.items() if part.checks},
        classes=max(len(part.classes) for part in parts.values()),
        findings=ordered(findings),
        others=sum((part.others for part in parts.values()), Counter[str]()),
        notes=tuple(f"{split}: {line}" for split in labels for line in _ignored_share(labels[split])),
    )


def _to_finding(split: str, fault: Fault) -> Finding:
    """Convert a fault to a finding."""
    return Finding(fault.kind, split, "", fault.file, fault.detail)


def prepare_coco(root: Path, split: str) -> DenseSplit:
    """Check the annotations of a COCO split, and list the checks of its images."""
    path, folder = coco_paths(root, split)
    if not path.exists():
        return DenseSplit(faults=[Fault("annotations", str(path), "not found")])
    try:
        file = read_coco(path)
    except ValueError as error:
        return DenseSplit(faults=[Fault("annotations", str(path), str(error).removeprefix(f"{path}: "))])
    faults = [*missing_files(file, folder)]
    for entry in file.annotations:
        faults += [*annotation_faults(entry, file), *mask_faults(entry, file)]
    boxed = {entry["image_id"] for entry in file.annotations}
    bare = [image_id for image_id in file.images if image_id not in boxed]
    faults += [Fault("without boxes", str(path), f"image {image_id} has no boxes") for image_id in bare]
    there = [image_id for image_id, image in file.images.items() if (folder / image["file_name"]).is_file()]
    images = list_images(folder) if folder.is_dir() else ImageListing([], Counter())
    unlisted = set(images.names) - {str(Path(image["file_name"])) for image in file.images.values()}
    return DenseSplit(
        faults=faults,
        checks=[partial(_check_coco_image, file, folder, image_id) for image_id in there],
        classes=tuple(file.categories.values()),
        others=images.others + Counter(f"{Path(name).suffix.lower()} that no annotation lists" for name in unlisted),
    )


def _check_coco_image(file: CocoFile, folder: Path, image_id: int) -> ImageChecked:
    """Check one image of COCO."""
    image = file.images[image_id]
    path, annotated = folder / image["file_name"], (image["width"], image["height"])
    faults, facts = _check_image_file(path)
    if facts.size and matching_orientation(facts.size, facts.orientation, annotated) is None:
        faults.append(Fault("wrong size", str(path), size_mismatch(image_id, facts.size, annotated)))
    elif facts.size:
        faults += _orientation_faults(path, facts, annotated)
    return ImageChecked(str(path), faults, facts.scale)


def prepare_ade(root: Path, split: str) -> DenseSplit:
    """Find unpaired images and labels of an ADE20K split, and list the checks of its pairs."""
    try:
        source = list_ade(root, split)
    except ValueError as error:
        return DenseSplit(faults=[Fault("annotations", str(root), str(error))])
    others = list_images(root / "images" / source.folder).others
    faults = [*unpaired_files(source), *shared_labels(source)]
    if lacking := undecodable(others):
        faults.append(Fault("no decoder", str(root / "images" / source.folder), lacking))
    checks = [partial(_check_ade_image, source, index) for index in range(len(source))]
    return DenseSplit(faults=faults, checks=checks, classes=source.classes, others=others)


def _check_ade_image(source: AdeSource, index: int) -> ImageChecked:
    """Check one image of ADE20K and its labels."""
    path = Path(source.describe(index))
    faults, facts = _check_image_file(path)
    if not facts.size or not source.label_file(index).is_file():
        return ImageChecked(str(path), faults, facts.scale)
    labels = source.read_labels(index, facts.size, facts.orientation)
    if isinstance(labels, Fault):
        return ImageChecked(str(path), [*faults, labels], facts.scale)
    faults += _orientation_faults(path, facts, labels.shape[::-1])
    counts = Counter(all=labels.size, ignored=int((labels == IGNORED).sum()))
    if source.first_label == 1 and counts["ignored"]:
        counts["zero"] = counts["ignored"] - source.count_label(index, IGNORED)
    return ImageChecked(str(path), faults, facts.scale, counts)


def _check_image_file(path: Path) -> tuple[list[Fault], ImageFacts]:
    """Check an image file without its annotation."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return [Fault("unreadable", str(path), reason(error))], ImageFacts([])
    facts = inspect_image(content, path.suffix)
    return [Fault(kind, str(path), detail) for kind, detail in facts.found], facts


def _orientation_faults(path: Path, facts: ImageFacts, annotated: tuple[int, int]) -> list[Fault]:
    """Report an image with an EXIF rotation, and which orientation its annotation is for."""
    if facts.orientation == 1 or facts.size is None:
        return []
    upright = upright_size(facts.size, facts.orientation)
    found = f"has the EXIF orientation {facts.orientation}"
    if upright == facts.size:
        return [Fault("unclear orientation", str(path), f"{found}; its size is the same upright and as stored")]
    how = "rotated upright" if annotated == upright else "as stored"
    return [Fault("orientation", str(path), f"{found}; read {how}, as annotated")]


def _ignored_share(labels: Counter[str]) -> list[str]:
    """Describe the fraction of ignored pixels, if any."""
    if not labels["ignored"]:
        return []
    share = 100 * labels["ignored"] / labels["all"]
    zero = 100 * labels["zero"] / labels["all"]
    ask = "; is it a class, such as background? Then begin classes.txt with a line `0: NAME`" if zero else ""
    return [f"{share:.1f} % of the pixels are ignored ({zero:.1f} % have label 0{ask})"]


def _much_ignored(labels: Counter[str]) -> list[Fault]:
    """Report a fraction of ignored label 0 so large that it may be a class."""
    share = labels["zero"] / labels["all"] if labels["all"] else 0
    return [Fault("ignored pixels", "", f"{share:.1%} of the pixels have label 0")] if share >= _MUCH else []
