"""Compare position embeddings on one data set, below and above the training resolution."""

from typing import TYPE_CHECKING

from ropevit.lazy import lazy_attributes

if TYPE_CHECKING:
    from ropevit.study.config import StudyConfig
    from ropevit.study.outputs import write_outputs
    from ropevit.study.results import read_results
    from ropevit.study.runner import run_study

__all__ = ["StudyConfig", "read_results", "run_study", "write_outputs"]

#: Public name -> its module, loaded on first access.
MODULES = {
    "StudyConfig": "config",
    "read_results": "results",
    "run_study": "runner",
    "write_outputs": "outputs",
}

__getattr__, __dir__ = lazy_attributes(__name__, MODULES)
