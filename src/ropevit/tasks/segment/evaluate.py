"""Measuring a segmenter at many sizes."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ropevit.data.ade import AdeSource, open_ade
from ropevit.data.loading import describe_skipped
from ropevit.extras import require
from ropevit.models.dense import DenseViTConfig
from ropevit.models.rotary import set_scaling
from ropevit.rope.scaling import parse_override
from ropevit.tasks.common.eval_config import EvalConfig, SegmenterOptions
from ropevit.tasks.common.eval_results import fingerprint
from ropevit.tasks.common.evaluation import (
    EvalContext,
    EvalPlan,
    EvalTimer,
    Report,
    SizeEvaluation,
    distributed,
    evaluate_sizes,
    listed,
)
from ropevit.tasks.dense.model_file import ModelInfo
from ropevit.tasks.segment.base import SegmentationModel
from ropevit.tasks.segment.confusion_matrix import InferenceSettings, confusion_matrix
from ropevit.tasks.segment.inference import InferenceConfig
from ropevit.tasks.segment.mean_iou import segmentation_scores
from ropevit.tasks.segment.model import SegmentModel, load_segmenter
from ropevit.weights.errors import WeightsError

#: Default sizes over the training's: 256, 384, 512, 768 and 1024 pixels of a segmenter tested at 512.
PARTS = (0.5, 0.75, 1.0, 1.5, 2.0)

#: What a file must say besides the weights.
FACTS = ("mean", "std", "test_short", "test_long", "inference")


@dataclass(frozen=True, kw_only=True)
class SegmenterResult:
    """A segmenter at one size, with scores in percent."""

    size: int
    """Limit on the shorter side in pixels."""
    long: int
    """Limit on the longer side."""
    mIoU: float  # noqa: N815 (so it is called everywhere)
    """Mean over the classes of pixels both true and predicted of a class over those of either."""
    aAcc: float  # noqa: N815
    """Share of the pixels that are right."""
    mAcc: float  # noqa: N815
    """Mean over the classes of the share of their pixels that are right."""
    images: int
    """Images measured."""
    skipped: int
    """Images left out, as they could not be read."""
    images_per_second: float
    """Of all processes together, reading included."""
    peak_memory_gib: float
    """The most that any process used: of its GPU, or, on a CPU, of the whole process since it started."""

    @property
    def scores(self) -> dict[str, float]:
        """What is shown of the scores, by name."""
        return {"mIoU": self.mIoU, "aAcc": self.aAcc, "mAcc": self.mAcc}

    @property
    def view(self) -> dict[str, int]:
        """How pictures were brought to the size."""
        return {"long": self.long}


@dataclass(frozen=True, kw_only=True)
class EvalInputs:
    """All that is needed to measure at a size."""

    site: EvalContext
    model: SegmentationModel
    info: ModelInfo[SegmentModel]
    source: AdeSource
    inference: InferenceConfig
    ratios: tuple[float, ...]


def evaluate(config: EvalConfig, path: Path, name: str, report: Report = lambda _: None) -> list[SegmenterResult]:
    """Measure mIoU, aAcc and mAcc at every size, and write them down as they come.

    The size is the limit on the shorter side; that on the longer one grows in proportion to the training's. Images are
    taken one by one, and scored at their original size. Started by `torchrun`, the processes share the images.

    Args:
        config: What, on what and how.
        path: File of the segmenter.
        name: A short name of it, for a directory.
        report: Called with what happens, in the first process alone.

    Returns:
        What was measured, now or before, by size.

    Raises:
        ValueError: If the options, the weights, the data or the directory do not allow it.
    """
    config.check("segmenter")
    require("transformers", "dense")
    with distributed(config, report) as site:
        model, info = load_segmenter(path)
        if missing := [name for name in FACTS if info.metadata.get(name) is None]:
            raise WeightsError(f"{path} does not say its {', '.join(missing)}; give a file that a training wrote")
        inference = choose_inference(InferenceConfig(**info.metadata["inference"]), config.segmenter)
        if (scaling := asked(config)) is not None:
            apply_scaling_override(model, info, scaling, inference.window)
        source = open_ade(config.data, "val")
        check_classes(info.classes, source, path)
        bench = EvalInputs(
            site=site,
            model=model.eval(),
            info=info,
            source=source,
            inference=inference,
            ratios=config.segmenter.ratios or (1.0,),
        )
        return evaluate_sizes(make_plan(bench, path, name), site)


def asked(config: EvalConfig) -> str | None:
    """Read the rules that are asked for; a segmenter has none of its own."""
    return None if config.scaling is None else parse_override(config.scaling)


def apply_scaling_override(
    model: SegmentationModel, info: ModelInfo[SegmentModel], scaling: str, window: int | None
) -> None:
    """Give a segmenter rules for larger grids, which count from the grid of the crops that it was trained on.

    Args:
        model: The segmenter.
        info: What its file says.
        scaling: Names of rules.
        window: Side in pixels of the windows in which it looks at an image; None for whole images.

    Raises:
        ValueError: If its blocks attend in windows, which are as in training; if no window that it looks at is larger
            than a crop; if there is no such rule, or no rotation.
    """
    backbone = info.config.backbone_config()
    if not isinstance(backbone, DenseViTConfig) or len(backbone.seeing_all) < backbone.body.depth:
        raise ValueError(
            f"got scaling={scaling!r} for {info.config.model} with windows, which are as large as in training at any "
            "size; rules are for a ViT whose blocks attend everywhere: leave it out"
        )
    if "crop" not in info.metadata:
        raise WeightsError(
            f"got scaling={scaling!r} for a file that does not say its crop; give one that a training wrote"
        )
    crop = info.metadata["crop"]
    if window is not None and window <= crop:
        raise ValueError(
            f"got scaling={scaling!r} with windows of {window} pixels, no larger than the training's crops of {crop}; "
            "rules are for larger ones: give --whole or a larger --window"
        )
    rows = crop // backbone.body.patch_size
    set_scaling(model, scaling, trained_grid=(rows, rows))


def check_classes(known: Sequence[str], source: AdeSource, path: Path) -> None:
    """Refuse data with other classes than the segmenter's.

    Raises:
        ValueError: With both counts, and the names that differ.
    """
    if tuple(known) == source.classes:
        return
    parts = [("only in the checkpoint", known, source.classes), ("only in the data", source.classes, known)]
    told = [(where, [name for name in these if name not in set(those)]) for where, these, those in parts]
    words = [f"{where}: {listed(odd)}" for where, odd in told if odd] or ["the same in another order"]
    raise ValueError(
        f"{path} knows {len(known)} classes, {source.root} has {len(source.classes)} others ({'; '.join(words)}); give "
        "the data that it was trained for"
    )


def choose_inference(stored: InferenceConfig, options: SegmenterOptions) -> InferenceConfig:
    """Decide how images are segmented: as the file says, where no option says otherwise.

    Raises:
        ValueError: If there is a stride without windows, or one that leaves out pixels.
    """
    window = stored.window if options.window is None else options.window
    stride = stored.stride if options.stride is None else options.stride
    if options.whole:
        window = None
    elif options.stride is not None and window is None:
        raise ValueError(f"got stride={options.stride} for whole images; give --window, too")
    elif options.window is not None and options.stride is None:
        stride = max(1, round(options.window * 2 / 3))  # 341 of 512, as published
    return replace(stored, window=window, stride=stride, flip=stored.flip or options.flip)


def default_sizes(test_short: int) -> list[int]:
    """Choose sizes below, at and above that of the training."""
    return sorted({max(1, round(part * test_short)) for part in PARTS})


def make_plan(bench: EvalInputs, path: Path, name: str) -> EvalPlan:
    """Plan which sizes are measured, and how."""
    facts, source, inference, config = bench.info.metadata, bench.source, bench.inference, bench.site.config
    sizes = sorted(set(config.sizes or default_sizes(facts["test_short"])))
    if sizes[0] < 1:
        raise ValueError(f"got size {sizes[0]}; expected 1 pixel or more")
    files = hashlib.sha256("\n".join([*source.files, *source.classes]).encode()).hexdigest()[:16]
    fixed = {"fingerprint": fingerprint(bench.model.state_dict()), "images": len(source), "annotations": files}
    bench.model.to(bench.site.device)
    how = "whole" if inference.window is None else f"windows of {inference.window} every {inference.stride}"
    views = [f"ratios {', '.join(f'{ratio:g}' for ratio in bench.ratios)}"] if bench.ratios != (1.0,) else []
    views += ["mirrored, too"] if inference.flip else []
    rules = {} if asked(config) is None else {"scaling": asked(config)}
    views += [f"rules {scaling}" for scaling in rules.values()]
    return EvalPlan(
        name=name,
        weights=str(path),
        model=bench.info.config.model,
        position=bench.info.config.position,
        trained_at=facts["test_short"],
        data=source.name,
        how=", ".join(["shorter side", how, *views]),
        metric="mIoU",
        fixed=fixed | asdict(inference) | {"ratios": list(bench.ratios)} | rules,
        names={str(label): each for label, each in enumerate(source.classes, 1)},
        row=SegmenterResult,
        sizes=tuple(sizes),
        measure=lambda size: evaluate_size(size, bench),
    )


def evaluate_size(size: int, bench: EvalInputs) -> SizeEvaluation:
    """Measure at one size."""
    site, source = bench.site, bench.source
    meter, look = EvalTimer(site), inference_settings(size, bench)
    counts, bad = confusion_matrix(bench.model, source, look, site.channel, site.watch(size, len(source)))
    missed = [line for part in site.channel.all_gather(describe_skipped(source, bad)) for line in part]
    figures = meter.stats(len(source) - len(missed), len(source))
    found = segmentation_scores(counts)
    scores = {name: round(score, 4) for name, score in found.percent().items()}
    return SizeEvaluation(
        row=SegmenterResult(size=size, long=look.long, **scores, **figures),
        classes=(100 * found.iou).tolist(),
        skipped=tuple(missed),
    )


def inference_settings(size: int, bench: EvalInputs) -> InferenceSettings:
    """Look at a size as the training's evaluation did at its own."""
    facts, site = bench.info.metadata, bench.site
    mean, std = (torch.tensor(facts[name], device=site.device).view(-1, 1, 1) for name in ("mean", "std"))
    return InferenceSettings(
        short=size,
        long=round(facts["test_long"] * size / facts["test_short"]),
        ratios=bench.ratios,
        inference=bench.inference,
        workers=site.config.workers,
        world=site.world,
        rank=site.rank,
        mean=mean,
        std=std,
        autocast=site.autocast,
    )
