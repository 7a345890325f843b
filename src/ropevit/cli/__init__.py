"""The command line: each verb parses, calls and prints."""

import platform
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ropevit
from ropevit.cli.console import Console, guard_logs, print_line
from ropevit.cli.errors import one_line_errors, show_error
from ropevit.plugins import load_plugins
from ropevit.text import suggest

__all__ = ["main"]

#: Verb -> what it does. Module and function have the name of the verb, with _ for -; only the module of the called verb
#: is imported.
VERBS = {
    "study": "compare position embeddings: trains a small model with each, on embedded images or yours",
    "data": "check a data set, measure its reading speed, make a small one",
    "train": "train a classifier, detector or segmenter by a recipe",
    "eval": "evaluate a model below, at and above its training size",
    "probe": "measure frozen features of a pretrained model on your images, at any size",
    "tune-scaling": "choose a RoPE scaling method for larger images, on images of yours",
    "reproduce": "commands, expected accuracy and cost of the paper's ImageNet tables",
    "runs": "compare training runs in a table, and plot their curves",
    "models": "list models: parameters, MACs, published accuracy",
    "predict": "classify images, detect objects, or segment",
    "convert": "convert weights between layouts",
    "export": "write a model as ONNX or torch.export",
    "push": "share a trained model on the Hugging Face hub, with a model card",
    "bench": "benchmark the rotation against other libraries",
    "figures": "plot a model's rotary embedding: frequencies, attention, extrapolation",
}

_HELP = f"""Rotary position embedding for images.

usage: ropevit VERB ...        (ropevit VERB --help for more; ropevit --version)
{chr(10).join(f"  {verb:<12} {what}" for verb, what in VERBS.items())}

For example:
  ropevit study --data MY_IMAGES                       compare position embeddings on my images
  ropevit train fashion --out runs/fashion             train a recipe; see ropevit train --list
  ropevit predict photo.jpg --checkpoint runs/fashion  classify a photo"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error in the input is printed on one line, with exit code 2."""
    guard_logs()
    try:
        run(list(sys.argv[1:] if arguments is None else arguments))
    except (ValueError, OSError) as error:
        show_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def run(arguments: list[str]) -> None:
    """Run the verb that the arguments name.

    Raises:
        ValueError: If the arguments, or what they refer to, are wrong.
        OSError: If a file cannot be read.
    """
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help"):
        print_line(Console(), _HELP)
        return
    if verb == "--version":
        print_line(Console(), versions())
        return
    if verb not in VERBS:
        hint = suggest(verb, VERBS, f"choose one of {', '.join(VERBS)}", most=1)
        raise ValueError(f"no verb {verb!r}; {hint}")
    load_plugins()
    name = verb.replace("-", "_")
    module = import_module(f"ropevit.cli.{name}")
    if verb == "train":
        module.start_training(arguments[1:])  # its options depend on the recipe
        return
    if verb in ("eval", "predict"):
        module.add_task_options()
    parse(getattr(module, name), arguments)()


def parse(verb: Callable[..., None], arguments: Sequence[str]) -> Callable[[], None]:
    """Parse the arguments of a verb, and return a function that runs it.

    Raises:
        ValueError: If an argument is wrong.
    """
    import tyro
    from tyro.extras import SubcommandApp

    @wraps(verb)
    def parsed(*values: object, **options: Any) -> Callable[[], None]:
        return partial(verb, *values, **options)

    app = SubcommandApp()
    app.command(parsed)
    with one_line_errors(f"ropevit {verb.__name__.replace('_', '-')} --help"):
        flags = tyro.conf.FlagCreatePairsOff  # no --no-quick: all are off by default; not so in the recipes of `train`
        return app.cli(prog="ropevit", args=arguments, config=(flags,))


def versions() -> str:
    """Return the versions that a bug report needs."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "not installed"
    return f"ropevit {ropevit.__version__} (Python {platform.python_version()}, torch {torch}, {platform.platform()})"
