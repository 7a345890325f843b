"""Writes the conclusions of a study as sentences, from scores above the majority class."""

from collections.abc import Mapping, Sequence
from typing import Any

from ropevit.study.results import (
    PanelResult,
    format_score,
    join_labels,
    nearest_size,
    overall_summary,
    panel_summary,
    paper_order_summary,
)
from ropevit.study.settings import EMBEDDED

#: Number of test images below which a warning is added: one image is then more than half a point.
_MIN_IMAGES = 200

NO_CONCLUSION = (
    "No conclusion can be drawn: no model scores clearly more than guessing, so the order of the embeddings is "
    "meaningless. Train longer: more --steps, or without --quick; with few test images, more of them."
)


def conclusions(results: Sequence[PanelResult], data: Mapping[str, Any]) -> list[str]:
    """Return the conclusions of a study as sentences, from its results alone.

    Models that did not learn, and sizes at which all score no more than the majority class, are named and excluded
    from comparisons.

    Args:
        results: Panels of the study.
        data: Entry `data` of `results.json`.
    """
    if not results:
        return ["No seed is finished for every embedding yet, so nothing can be compared."]
    counted = [found for result in results if (found := result.without_unlearned()) is not None]
    compared = [result for result in counted if len(result.curves) > 1]
    short = [overall_summary(compared)] if compared else []
    if not counted:
        short = [NO_CONCLUSION]
    short += [text for result in results if (text := _few_images_warning(result, data))]
    short += [text for result in results if (text := _excluded_summary(result))]
    return short + [
        text
        for result in counted
        for text in (panel_summary(result), paper_order_summary(result), _baseline_summary(result))
        if text
    ]


def _few_images_warning(result: PanelResult, data: Mapping[str, Any]) -> str:
    """Return a warning if a panel whose test images are classified one by one has few of them."""
    images, size = data["test_images"], nearest_size(result)
    if result.panel != "zoom" or images >= _MIN_IMAGES:
        return ""
    note = f"zoom: with {images} test images one image is {100 / images:.1f} points"
    if (majority := result.majority) is not None:
        note += f", and a model that learned nothing has {majority.scores[size]:.1f} % ({majority.name})"
    more = "" if data.get("name") in EMBEDDED else ": use more images"
    return f"{note}; differences of a few points are not meaningful{more}."


def _excluded_summary(result: PanelResult) -> str:
    """Return a sentence about models that did not learn, and sizes at which no other is above the majority class."""
    majority, size = result.majority, nearest_size(result)
    if majority is None:
        return ""
    learned = result.without_unlearned()
    kept = learned.curves if learned else ()
    failed = [curve for curve in result.curves if curve not in kept]
    parts = []
    if failed:
        parts.append(f"{join_labels(failed, size)} did not learn: not counted ({size} px shown; more --steps may help)")
    sizes = [size for size in result.sizes if not learned.above_majority(size)] if learned else []
    if sizes:
        listed = ", ".join(str(size) for size in sizes)
        parts.append(f"at {listed} px no score is above the majority-class baseline: not counted")
    if not parts:
        return ""
    level = f"The majority class, {majority.name}, gives {majority.scores[size]:.1f} at {size} px."
    return f"{result.panel}: {'; '.join(parts)}. {level}"


def _baseline_summary(result: PanelResult) -> str:
    """Compare the best embedding at the largest size with the better baseline, resizing or tiling."""
    if not result.baselines or not result.above_majority(result.baselines[0].sizes[-1]):
        return ""
    size = result.baselines[0].sizes[-1]
    baseline = max((curve for curve in result.baselines if size in curve.sizes), key=lambda curve: curve.mean[-1])
    best = result.ranked(size)[0]
    more = "more" if baseline.mean[-1] > best.mean[best.sizes.index(size)] else "not more"
    return (
        f"{result.panel}: the baseline at {size} px, {baseline.label}, scores {format_score(baseline, size)}, {more} "
        f"than the best on the whole image, {best.label} ({format_score(best, size)})."
    )
