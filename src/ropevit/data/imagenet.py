"""ImageNet-1k: class names, and mean and standard deviation of its pixels."""

from functools import cache
from importlib import resources

#: Of the three channels (RGB), for pixels from 0 to 1; used by every published model of this package.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@cache
def imagenet_synsets() -> dict[str, str]:
    """Read the WordNet ids and names of the 1000 classes, in the order of the logits."""
    text = resources.files("ropevit.data").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return dict(line.split("\t") for line in text.splitlines())


def imagenet_classes() -> tuple[str, ...]:
    """Return the 1000 class names in the order of the logits: the first word of each synset, with its id if ambiguous.

    Source: WordNet 3.0.
    """
    short = {synset: names.split(",")[0] for synset, names in imagenet_synsets().items()}
    common = list(short.values())
    return tuple(name if common.count(name) == 1 else f"{name} ({synset})" for synset, name in short.items())
