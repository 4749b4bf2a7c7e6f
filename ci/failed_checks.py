"""A pytest plugin: the report ends with the checks that failed before the tests began (see ci/test)."""

from __future__ import annotations

import os
from typing import Protocol


class Reporter(Protocol):
    def section(self, title: str, **markup: bool) -> None: ...


def pytest_terminal_summary(terminalreporter: Reporter) -> None:
    if failed := os.environ.get("SUBOS_FAILED_CHECKS"):
        terminalreporter.section(f"FAILED before the tests: {failed}", red=True, bold=True)
