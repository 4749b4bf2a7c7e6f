"""A pytest plugin: a VM that was lost is reported as lost, apart from the tests that failed.

A lost VM (`GuestLost`: QEMU ended, the guest panicked or hung) says little about what the test is for. The run still
ends with a status other than 0; but where QEMU itself has failed by a fault of its own that is known (pyproject.toml
names it: `--only-rerun`), the test is run once more, and what counts is how that ends.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from subos_devices.errors import GuestLost


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[Any]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, GuestLost):
        error = call.excinfo.value
        report.lost = f"{error.message}; {error.hint}" if error.hint else error.message
    return report


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    if getattr(report, "lost", None) is None or report.outcome == "rerun":  # type: ignore[comparison-overlap]
        return None
    return "lost", "L", ("LOST", {"red": True})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    again = [report for report in terminalreporter.getreports("rerun") if hasattr(report, "lost")]
    reports = [*again, *terminalreporter.getreports("lost")]
    if reports:
        terminalreporter.section("VMs that were lost", red=True, bold=True)
    for report in reports:
        when = f"{report.when}, and run again" if report in again else report.when
        terminalreporter.line(f"LOST {report.nodeid} ({when}): {report.lost}", red=True)
        for line in report.capstdout.splitlines():
            terminalreporter.line(f"    {line}")
