"""Two processes that change one SQLite database:  database.py FILE TRANSACTIONS

Each adds one to a counter and a row to a table, in one transaction, and the two must never differ. WAL keeps its index
in shared memory. Standard library only.
"""

from __future__ import annotations

import sqlite3
import sys

from checks import begin, ended


def change(path: str, who: int, transactions: int) -> None:
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    for number in range(transactions):
        db.execute("BEGIN IMMEDIATE")
        value, rows = db.execute("SELECT value, (SELECT count(*) FROM log) FROM counter").fetchone()
        assert value == rows, f"transaction {number} of {who}: counter {value}, {rows} rows"
        db.execute("UPDATE counter SET value = value + 1")
        db.execute("INSERT INTO log VALUES (?, ?, randomblob(?))", (who, number, number * 37 % 3000))
        db.execute("COMMIT")
    db.close()


def main(path: str, transactions: int) -> None:
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA journal_mode=wal").fetchone() == ("wal",)
    db.executescript(
        "CREATE TABLE counter (value); INSERT INTO counter VALUES (0); CREATE TABLE log (who, number, pad)"
    )
    db.close()
    children = [begin(lambda who=who: change(path, who, transactions)) for who in (1, 2)]  # type: ignore[misc]
    assert [ended(child) for child in children] == [0, 0]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
