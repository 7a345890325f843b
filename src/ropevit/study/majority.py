"""Majority-class baseline: the score of a model that learned nothing, and the threshold above which a score counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropevit.study.config import StudyConfig
from ropevit.study.panels import PANEL_CLASSES
from ropevit.study.workers import Images

#: A score counts if it is above the baseline by more than this many standard errors of the test images ...
MIN_STANDARD_ERRORS = 2
#: ... and by at least this fraction of the distance from the majority-class baseline to 100 %.
MIN_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class MajorityBaseline:
    """The majority-class baseline of one panel."""

    name: str
    """Name of the trivial prediction, such as `everything background`."""
    scores: Mapping[int, float]
    """Percent, by test size in pixels."""
    errors: Mapping[int, float]
    """Standard errors of the scores."""

    def threshold(self, size: int) -> float:
        """Return the score in percent from which a score counts at a size; -inf where it is unknown."""
        if size not in self.scores:
            return float("-inf")
        score = self.scores[size]
        return score + max(MIN_STANDARD_ERRORS * self.errors[size], MIN_SHARE * (100 - score))


def compute_majority_baselines(config: StudyConfig, images: Images) -> dict[str, dict[str, Any]]:
    """Compute the majority-class baseline of each panel and test size, in the form of `results.json`."""
    levels = {}
    for name in config.panels:
        panel = PANEL_CLASSES[name](config.settings(name), *images)
        found = {str(size): panel.majority_score(size) for size in panel.settings.test_sizes}
        levels[name] = {
            "name": panel.majority_name,
            "scores": {size: round(guess.score, 4) for size, guess in found.items()},
            "errors": {size: round(guess.error, 4) for size, guess in found.items()},
        }
    return levels


def read_majority_baseline(content: Mapping[str, Any] | None) -> MajorityBaseline | None:
    """Read the majority-class baseline of a panel from `results.json`; older results have none."""
    if content is None:
        return None
    scores, errors = ({int(size): value for size, value in content[key].items()} for key in ("scores", "errors"))
    return MajorityBaseline(name=content["name"], scores=scores, errors=errors)
