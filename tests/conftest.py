"""What all tests share. A VM that was lost is not a failed test: support/lost.py."""

from __future__ import annotations

from support.lost import pytest_report_teststatus, pytest_runtest_makereport, pytest_terminal_summary

__all__ = ["pytest_report_teststatus", "pytest_runtest_makereport", "pytest_terminal_summary"]
