"""`ropevit push`."""

import shutil
from pathlib import Path
from typing import Annotated

import tyro

from ropevit.cli.console import Console, print_line
from ropevit.files import write_atomically
from ropevit.tasks.runs.run_dir import WeightsChoice
from ropevit.tasks.runs.sharing import pack
from ropevit.weights.sharing import check_vacant
from ropevit.weights.upload import Files, check_upload, upload


def push(
    source: Annotated[Path, tyro.conf.Positional],
    repo: Annotated[str, tyro.conf.Positional],
    /,
    *,
    weights: WeightsChoice | None = None,
    license: Annotated[str | None, tyro.conf.arg(metavar="ID")] = None,  # noqa: A002
    evals: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR [DIR ...]")] = (),
    private: bool = False,
    overwrite: bool = False,
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
) -> None:
    """Push a trained model to the Hugging Face hub, with a card of its config, training and evaluation.

    For example:
      ropevit push runs/mine me/my-vit --out my-vit
      ropevit push runs/mine me/my-vit --license apache-2.0 --private
      ropevit push runs/detector me/my-detector --evals runs/eval/detector

    Args:
        source: Directory of a training or of a run of a study, or a file of weights of ropevit.
        repo: Owner and name on the hub, OWNER/NAME; created if there is none.
        weights: Which weights in the directory of a training run: best (default), last, or ema (their moving average).
        license: License of the weights, by the hub's identifier, such as apache-2.0; the card states none without it.
        evals: Output directories of `ropevit eval`. Default: those of these weights in the run's directory, and
            runs/eval/NAME.
        private: Make a new repository private; an existing one must be already.
        overwrite: Push to a repository, or write to a directory, with other files, replacing those of the same names.
        out: Write the files into this directory instead, to look at what would be pushed.
    """
    console = Console()
    if out is None:
        check_upload(repo)
    elif source.is_dir() and out.resolve() == source.resolve():
        raise ValueError(f"got --out {out}, the directory that is pushed; give another, so that it stays as it is")
    package = pack(source, repo, weights=weights, license=license, evals=evals)
    for line in package.notes:
        print_line(console, line)
    if out is None:
        place = upload(package.files, repo, private=private, overwrite=overwrite)
    else:
        place = _write(package.files, out, overwrite)
    print_line(console, f"{'pushed' if out is None else 'wrote'} {', '.join(package.files)} to {place}")


def _write(files: Files, folder: Path, overwrite: bool) -> Path:
    """Write files into a folder."""
    check_vacant(folder, list(files), overwrite)
    for name, content in files.items():
        if isinstance(content, bytes):
            write_atomically(folder / name, lambda file, content=content: file.write(content))
        else:
            with content.open("rb") as held:
                write_atomically(folder / name, lambda file, held=held: shutil.copyfileobj(held, file))
    return folder
