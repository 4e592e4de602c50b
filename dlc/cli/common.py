"""What every verb shares: its options, its way to print, its progress bar."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from dlc.progress import Progress, Silent

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

F = TypeVar("F", bound=Callable[..., Any])
Format = Literal["text", "json"]
WIDE = 400


def common(function: F) -> F:
    """Add ``--format``, ``-v`` and ``--debug`` to a verb; only ``--format`` and ``-v`` reach its function."""

    @click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="What to print.")
    @click.option("-v", "--verbose", count=True, help="Say more; twice for everything.")
    @click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


class ListsRewrites(click.Command):
    """A verb whose help ends with every rewrite, by name; they are imported when the help is asked for."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a name and a line for each."""
        from dlc.lookup import load
        from dlc.passes import PASSES
        from dlc.passes.rewrite import Rewrite

        found = [(name, kind) for name, path in PASSES.items() if issubclass(kind := load(path), Rewrite)]
        with formatter.section("Rewrites"):
            formatter.write_dl([(name, about(kind)) for name, kind in found])


def about(kind: type) -> str:
    """Return the first line of a class's description."""
    return (kind.__doc__ or "").strip().splitlines()[0]


def command_line(verb: str, source: str, recipe: Path | None) -> str:
    """Write the command that takes the same source and recipe."""
    return shlex.join(["dlc", *verb.split(), source, *(("-r", str(recipe)) if recipe else ())])


def print_json(value: Any) -> None:
    """Print a value (msgspec structs and dataclasses included) as indented JSON."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Print a table; plain columns where the output is not a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(*headers, title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)  # pip install 'dlc[cpu]' is no markup
    if console.is_terminal:
        console.print(table)
        return
    console.width = WIDE  # a file or a pipe has no edge to wrap at
    with console.capture() as text:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in text.get().splitlines()))


class Bars:
    """Draws progress on standard error."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task: TaskID | None = None

    def stage(self, name: str, steps: int | None = None) -> None:
        """Replace the current bar by one for this stage."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=steps)

    def advance(self) -> None:
        """Move the bar by one step."""
        if self._task is not None:
            self._bar.advance(self._task)


@contextmanager
def progress() -> Iterator[Progress]:
    """Draw progress if standard error is a terminal, else stay silent."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Silent()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with RichProgress(*columns, console=console, transient=True) as bar:
        yield Bars(bar)
