"""Fingerprint of the images of a study, to detect that they have changed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ropevit.data.labeled import LabeledImages
from ropevit.text import join_names, printable

#: Names of the two splits in messages.
SPLITS = {"train": "training", "test": "test"}


def fingerprint(train: LabeledImages, test: LabeledImages) -> dict[str, Any]:
    """Return classes, number of images, and checksums of labels and decoded pixels."""
    parts = {"train": train, "test": test}
    return {
        "classes": list(train.classes),
        **{
            name: {"images": len(part), "labels": checksum(part.labels), "pixels": checksum(part.images)}
            for name, part in parts.items()
        },
    }


def checksum(values: Tensor) -> str:
    """Return the SHA-256 of a tensor's shape and bytes."""
    found = hashlib.sha256(repr(tuple(values.shape)).encode())
    found.update(values.cpu().contiguous().numpy().data)
    return found.hexdigest()


def digest(content: Mapping[str, Any]) -> str:
    """Return a short checksum of JSON content, independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def describe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe how images differ from an earlier fingerprint; entries that it lacks are not compared."""
    differences = []
    if before.get("classes", now["classes"]) != now["classes"]:
        were, are = (join_names(map(printable, found["classes"])) for found in (before, now))
        differences.append(f"the classes were {were}, now {are}")
    for split, name in SPLITS.items():
        old, new = before.get(split, {}), now[split]
        if old.get("images", new["images"]) != new["images"]:
            differences.append(f"{old['images']} {name} images, now {new['images']}")
            continue
        other = [key for key in ("labels", "pixels") if old.get(key, new[key]) != new[key]]
        if other:
            differences.append(f"other {' and '.join(other)} of the {name} images")
    return differences
