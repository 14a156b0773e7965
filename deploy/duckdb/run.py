"""Runs the queries of this folder on Keepwell's tables and prints what they give.

    deploy/python/python deploy/duckdb/run.py TABLES [--json]

TABLES is the folder of `tables.url`, e.g. keepwell-demo/tables.
"""

import json
import sys
from pathlib import Path

import duckdb


def main():
    tables = sys.argv[1]
    as_json = "--json" in sys.argv[2:]
    connection = duckdb.connect()
    views = Path(__file__).parent.parent / "views" / "duckdb.sql"
    for statement in views.read_text().replace("keepwell-demo/tables", tables).split(";\n"):
        connection.execute(statement)
    answers = {}
    for path in sorted(Path(__file__).parent.glob("*.sql")):
        answer = connection.execute(path.read_text())
        names = [column[0] for column in answer.description]
        rows = answer.fetchall()
        answers[path.stem] = [dict(zip(names, row)) for row in rows]
        if not as_json:
            print(f"-- {path.name}: {len(rows)} rows")
            print(connection.sql(path.read_text()).limit(10))
    if as_json:
        print(json.dumps(answers, default=str))


if __name__ == "__main__":
    main()
