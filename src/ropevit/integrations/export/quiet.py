"""Exporters that talk too much: their known warnings and notes are silenced while they work, and nothing else."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

#: (message, category) of warnings that tell a user nothing.
_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning),  # torch.onnx copying its own program
)

#: Loggers whose notes below an error tell a user nothing.
_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence them."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    root = logging.getLogger()
    with warnings.catch_warnings():
        for message, category in _WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        try:
            for name in levels:
                logging.getLogger(name).setLevel(logging.ERROR)
            root.addFilter(_is_news)
            yield
        finally:
            root.removeFilter(_is_news)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _is_news(record: logging.LogRecord) -> bool:
    """Drop what onnxruntime's quantiser says to everyone."""
    return not record.getMessage().startswith("Please consider to run pre-processing before quantization")
