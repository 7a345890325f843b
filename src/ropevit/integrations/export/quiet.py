"""Suppresses known, harmless warnings and log messages of the exporters, and nothing else."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

#: (message, category) of harmless warnings.
_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning),  # torch.onnx copying its own program
)

#: Loggers whose messages below the level ERROR are suppressed.
_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress them inside the context."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    root = logging.getLogger()
    with warnings.catch_warnings():
        for message, category in _WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        try:
            for name in levels:
                logging.getLogger(name).setLevel(logging.ERROR)
            root.addFilter(_is_relevant)
            yield
        finally:
            root.removeFilter(_is_relevant)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _is_relevant(record: logging.LogRecord) -> bool:
    """Return False for the advice that onnxruntime's quantizer always logs."""
    return not record.getMessage().startswith("Please consider to run pre-processing before quantization")
