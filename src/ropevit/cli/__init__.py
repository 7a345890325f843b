"""The command line: each verb parses, calls and prints."""

import platform
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial, wraps
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ropevit
from ropevit.cli.console import Console, guard_logs, print_line
from ropevit.cli.errors import one_line_errors, show_error

__all__ = ["main"]

#: Verb -> what it does. Its function has the same name, in the module of that name, which is loaded if it is called.
VERBS = {
    "study": "which position embedding? the same model with each, on embedded images or your own",
    "data": "check a data set, measure how fast it is read, make a small one",
    "train": "train a classifier, detector or segmenter by a recipe",
    "eval": "measure one below, at and above its training size",
    "reproduce": "commands, expected figures and cost of the paper's ImageNet tables",
    "runs": "compare trainings in a table, and draw their curves",
    "models": "list models: parameters, multiply-adds, published accuracy",
    "predict": "classify images, find objects in them, or label their pixels",
    "convert": "convert weights between layouts",
    "export": "write a model as ONNX or torch.export",
    "bench": "time the rotation against other libraries",
    "figures": "draw what the rotation of a model does",
}

_HELP = f"""Rotary position embedding for images.

usage: ropevit VERB ...        (ropevit VERB --help for more; ropevit --version)

{chr(10).join(f"  {verb:<10} {what}" for verb, what in VERBS.items())}

For example:
  ropevit study --data MY_IMAGES                       which position embedding for my images?
  ropevit train fashion --out runs/fashion             train on embedded images; see ropevit train --list
  ropevit predict photo.jpg --checkpoint runs/fashion  what is in a photo"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb; what a user can get wrong ends as one line and exit code 2."""
    guard_logs()
    try:
        run(list(sys.argv[1:] if arguments is None else arguments))
    except (ValueError, OSError) as error:
        show_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def run(arguments: list[str]) -> None:
    """Run what the arguments say.

    Raises:
        ValueError: If a user got something wrong.
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
        close = get_close_matches(verb, VERBS, 1)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(VERBS)}"
        raise ValueError(f"no verb {verb!r}; {hint}")
    module = import_module(f"ropevit.cli.{verb}")
    if verb == "train":
        module.start_training(arguments[1:])  # whose options depend on the recipe that is named
        return
    if verb == "eval":
        module.take_options_of_tasks()
    parse(getattr(module, verb), arguments)()


def parse(verb: Callable[..., None], arguments: Sequence[str]) -> Callable[[], None]:
    """Read the arguments of a verb, and give what runs it.

    Raises:
        ValueError: If they are wrong.
    """
    from tyro.extras import SubcommandApp

    @wraps(verb)
    def parsed(*values: Any, **options: Any) -> Callable[[], None]:
        return partial(verb, *values, **options)

    app = SubcommandApp()
    app.command(parsed)
    with one_line_errors(f"ropevit {verb.__name__} --help"):
        return app.cli(prog="ropevit", args=arguments)


def versions() -> str:
    """Name the versions that a report of a fault needs."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "not installed"
    return f"ropevit {ropevit.__version__} (Python {platform.python_version()}, torch {torch}, {platform.platform()})"
