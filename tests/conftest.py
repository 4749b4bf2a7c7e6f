"""What all tests share. A VM that was lost is not a failed test: support/lost.py."""

from __future__ import annotations

import hypothesis

from support.lost import pytest_report_teststatus, pytest_runtest_makereport, pytest_terminal_summary

__all__ = ["pytest_report_teststatus", "pytest_runtest_makereport", "pytest_terminal_summary"]

# A machine that is busy with other things is no failure.
hypothesis.settings.register_profile("subos", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("subos")
