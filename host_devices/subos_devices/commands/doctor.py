"""`subos-devices doctor`: what this host can do, with a hint for each gap. Exit 1 where something needed is missing."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("doctor", help="what this host can do, and what it lacks", description=__doc__)
    parser.add_argument("--json", action="store_true", help='print JSON: {"ok": bool, "findings": [...]}')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..doctor import examine

    findings = list(examine())
    ok = all(finding.ok for finding in findings if finding.needed)
    if args.json:
        print(json.dumps({"ok": ok, "findings": [asdict(finding) for finding in findings]}, indent=2))
        return 0 if ok else 1
    for finding in findings:
        mark = "ok " if finding.ok else "NO " if finding.needed else "-  "
        print(f"{mark} {finding.name}: {finding.detail}")
        if finding.hint:
            print(f"     hint: {finding.hint}")
    return 0 if ok else 1
