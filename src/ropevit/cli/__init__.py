"""The command line: each verb parses, calls and prints."""

import sys
from collections.abc import Sequence

from tyro.extras import SubcommandApp

from ropevit.cli.bench import bench
from ropevit.cli.console import guard_logs
from ropevit.cli.convert import convert
from ropevit.cli.data import data
from ropevit.cli.errors import show_error
from ropevit.cli.eval import eval  # noqa: A004 (it is the verb)
from ropevit.cli.export import export
from ropevit.cli.figures import figures
from ropevit.cli.models import models
from ropevit.cli.predict import predict
from ropevit.cli.reproduce import reproduce
from ropevit.cli.runs import runs
from ropevit.cli.study import study
from ropevit.cli.train import start_training, train

VERBS = (study, data, train, eval, reproduce, runs, models, predict, convert, export, bench, figures)

DESCRIPTION = """Rotary position embedding for images.

Start with:
  ropevit study                       which position embedding? on embedded images, in about five minutes
  ropevit study --data MY_IMAGES      the same question, asked of your own images
  ropevit train fashion               train a classifier, detector or segmenter; see `ropevit train --list`
  ropevit eval --help                 measure one at many sizes, a classifier beside the paper's curve
  ropevit figures all --checkpoint F  what the rotation of a model does, drawn
  ropevit models                      every model by name
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb; what a user can get wrong ends as one line and exit code 2."""
    guard_logs()
    arguments = sys.argv[1:] if arguments is None else arguments
    app = SubcommandApp()
    for verb in VERBS:
        app.command(verb)
    try:
        if arguments[:1] == ["train"]:
            start_training(arguments[1:])  # whose options depend on the recipe that is named
        else:
            app.cli(prog="ropevit", description=DESCRIPTION, args=arguments)
    except (ValueError, OSError) as error:
        show_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
