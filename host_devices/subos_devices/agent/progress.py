"""How far a copy is: on standard error, where that is a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from subos_desktop.trees import Piece


class Progress:
    """`with Progress(show=True) as progress:` counts what it `saw`, and shows that until the block is left."""

    def __init__(self, *, show: bool) -> None:
        self.files = 0
        self.bytes = 0
        self._bar: Bar | None = _bar() if show and sys.stderr.isatty() else None

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Takes the display away."""
        if self._bar is not None:
            self._bar.stop()

    def saw(self, piece: Piece) -> None:
        """One more piece of a tree went by."""
        if isinstance(piece, bytes):
            self.bytes += len(piece)
        elif not {"leave", "hole", "skipped"} & piece.keys():
            self.files += 1
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.bytes, description=f"{self.files} files")


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task("0 files", total=None)
    return bar
