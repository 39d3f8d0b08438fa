"""What `lab` tells while it works: one line a step, with its duration. Colour on a terminal only."""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

_console = Console(stderr=True, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step, then how long it took or that it failed."""
    began = time.monotonic()
    if _console.is_terminal:
        _console.print(f"[dim]…[/] {title}", end="\r")
    try:
        yield
    except BaseException:
        _console.print(f"[red]failed[/]  {title} after {time.monotonic() - began:.1f} s")
        raise
    _console.print(f"[green]{time.monotonic() - began:6.1f} s[/]  {title}")


def problem(text: str) -> None:
    _console.print(f"[red]lab:[/] {escape(text)}")
