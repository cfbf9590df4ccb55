"""Progress bar with images per second."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f'{speed:.2f} img/s' if speed else '- img/s')


class ImageProgress:
    """A bar on the standard error, if that is a terminal.

    Args:
        total: Number of images.
        task: Text before the bar.
        quiet: Whether to show no bar.
        console: Console to draw on instead.
    """

    def __init__(self, total: int, task: str, quiet: bool = False, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        columns = (TextColumn(task), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, disable=quiet or not total or not console.is_terminal)
        self._task = self._progress.add_task('', total=total)

    def advance(self) -> None:
        """Count one image; may be called from any thread."""
        self._progress.advance(self._task)

    def __enter__(self) -> ImageProgress:
        if not self._progress.disable:
            self._progress.start()
        return self

    def __exit__(self, *_) -> None:
        if not self._progress.disable:  # Rich before 15 would print an empty line
            self._progress.stop()
