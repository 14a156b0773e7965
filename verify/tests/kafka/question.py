"""Answers a query of deploy/duckdb on rows that a statement makes.

    question.py QUERY STATEMENT
"""

import json
import sys
from pathlib import Path

import duckdb

if __name__ == "__main__":
    query, statement = sys.argv[1:]
    connection = duckdb.connect()
    connection.execute(statement)
    queries = Path(__file__).parents[3] / "deploy" / "duckdb"
    answer = connection.execute((queries / query).read_text())
    names = [column[0] for column in answer.description]
    print(json.dumps([dict(zip(names, row)) for row in answer.fetchall()], default=str))
