"""Run a function as a command: `python -m benchmarks.study` and its like."""

import sys
from collections.abc import Callable
from typing import NoReturn

import typer

from hpe_lib import cli


def run(function: Callable) -> NoReturn:
    """Call a function, which returns nothing, with the command line's arguments, and exit.

    What goes wrong is one line on stderr, as for `hpe`: 2 for bad input, 1 for what failed.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(function)
    try:
        code = app(standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        code = cli.failed(error)
    sys.exit(code)
