"""Plug-ins: installed packages that register position embeddings, architectures, tasks or figures of their own."""

import logging
from importlib.metadata import EntryPoint, entry_points

from ropevit.text import printable

log = logging.getLogger(__name__)

#: Group of the entry points that a plug-in declares: a module to import, or `module:function` to call.
GROUP = "ropevit.plugins"

_loaded = False


def load_plugins() -> None:
    """Load every installed plug-in once per process.

    The command line, `create_model`, `get_config`, `list_models` and `load_model` call it first. A plug-in that fails
    is reported in one line of the log; the others are loaded all the same.
    """
    global _loaded
    if _loaded:
        return
    _loaded = True  # already now: a plug-in may itself create models
    for entry in entry_points(group=GROUP):
        _load(entry)


def _load(entry: EntryPoint) -> None:
    """Import a plug-in, and call it if it is a function; log an error in one line."""
    try:
        loaded = entry.load()
        if callable(loaded):
            loaded()
    except (Exception, SystemExit) as error:
        reason = printable(str(error).partition("\n")[0])
        log.warning(
            "the plug-in %s (%s) cannot be used, %s: %s; update or uninstall %s",
            printable(entry.name),
            printable(entry.value),
            type(error).__name__,
            reason,
            printable(entry.dist.name if entry.dist else "its package"),
        )
