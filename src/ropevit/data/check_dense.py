"""Look for what would spoil a training on COCO or ADE20K, or folders in their layouts."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

from PIL import Image

from ropevit.data.ade import FOLDERS, list_ade, lonely, read_labels
from ropevit.data.check import ADVICE, Finding, Report, look_at
from ropevit.data.coco import CocoFile, judge, missing_files, places, read_coco, sizes
from ropevit.data.faults import Fault
from ropevit.data.images import UNREADABLE, reason

#: Looks at one picture and its annotation, and says what is wrong.
Look = Callable[[], list[Fault]]

SPLITS = ("train", "val")


def dense_layout(data: str) -> str | None:
    """Tell whether a folder is in the layout of COCO or ADE20K, by the folders and files that only those have."""
    root = Path(data).expanduser()
    if any(places(root, split)[0].exists() for split in SPLITS):
        return "coco"
    return "ade" if any((root / "annotations" / folder).is_dir() for folder in FOLDERS.values()) else None


def check_dense(data: str, progress: Callable[[int, int], None] | None = None) -> Report:
    """Read every picture and annotation of both splits, and list everything that is wrong or worth knowing.

    Args:
        data: A folder for which `dense_layout` gives a name.
        progress: Called with the number of pictures that are done and that of all.
    """
    prepare = prepare_coco if dense_layout(data) == "coco" else prepare_ade
    findings: list[Finding] = []
    looks: dict[str, list[Look]] = {}
    for split in SPLITS:
        faults, found = prepare(Path(data).expanduser(), split)
        findings += [Finding(fault.kind, split, "", fault.file, fault.detail) for fault in faults]
        if found:
            looks[split] = found
    total, done = sum(map(len, looks.values())), 0
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # Pillow's; what matters is found anyway
        for split, found in looks.items():
            for faults in pool.map(lambda look: look(), found):
                findings += [Finding(fault.kind, split, "", fault.file, fault.detail) for fault in faults]
                done += 1
                if progress:
                    progress(done, total)
    order = list(ADVICE)
    images = {split: len(found) for split, found in looks.items()}
    return Report(images, sorted(findings, key=lambda finding: order.index(finding.kind)))


def prepare_coco(root: Path, split: str) -> tuple[list[Fault], list[Look]]:
    """Judge the annotations of a split, and say how to look at each of its pictures."""
    path, folder = places(root, split)
    if not path.exists():
        return [Fault("annotations", str(path), "is not there")], []
    try:
        file = read_coco(path)
    except ValueError as error:
        return [Fault("annotations", str(path), str(error).removeprefix(f"{path}: "))], []
    faults = [*missing_files(file, folder), *(fault for entry in file.annotations for fault in judge(entry, file))]
    boxed = {entry["image_id"] for entry in file.annotations}
    bare = [image_id for image_id in file.images if image_id not in boxed]
    faults += [Fault("without boxes", str(path), f"image {image_id} has no boxes") for image_id in bare]
    there = [image_id for image_id, image in file.images.items() if (folder / image["file_name"]).is_file()]
    return faults, [lambda image_id=image_id: look_coco(file, folder, image_id) for image_id in there]


def look_coco(file: CocoFile, folder: Path, image_id: int) -> list[Fault]:
    """Look at one picture of COCO."""
    image = file.images[image_id]
    path = folder / image["file_name"]
    faults, found = look_picture(path)
    if found and found != (image["width"], image["height"]):
        faults.append(Fault("wrong size", str(path), sizes(image_id, found, (image["width"], image["height"]))))
    return faults


def prepare_ade(root: Path, split: str) -> tuple[list[Fault], list[Look]]:
    """Find pictures and labels of a split that lack each other, and say how to look at each pair."""
    try:
        source = list_ade(root, split)
    except ValueError as error:
        return [Fault("annotations", str(root), str(error))], []
    looks = [
        lambda index=index: look_ade(Path(source.describe(index)), source.label_file(index), len(source.classes))
        for index in range(len(source))
    ]
    return list(lonely(source)), looks


def look_ade(path: Path, labels: Path, classes: int) -> list[Fault]:
    """Look at one picture of ADE20K and its labels."""
    faults, size = look_picture(path)
    if size and labels.is_file():
        found = read_labels(labels, size, classes)
        faults += [found] if isinstance(found, Fault) else []
    return faults


def look_picture(path: Path) -> tuple[list[Fault], tuple[int, int] | None]:
    """Find what is wrong with a picture by itself; also give its width and height, where it has any."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return [Fault("unreadable", str(path), reason(error))], None
    faults = [Fault(kind, str(path), detail) for kind, detail in look_at(content, path.suffix)]
    try:
        with Image.open(BytesIO(content)) as image:
            return faults, image.size
    except UNREADABLE:
        return faults, None  # listed above
