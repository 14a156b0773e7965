"""Makes the views of a file of statements in an engine, and writes their rows as Parquet.

    views.py duckdb|spark|datafusion STATEMENTS OUT
"""

import sys
from pathlib import Path

VIEWS = ["windows_long", "score_factors", "windows_periods", "scores_periods", "feature_periods", "stages", "alerts", "report"]


def statements(path):
    return [text for text in Path(path).read_text().split(";\n") if text.strip()]


def duckdb(path, out):
    import duckdb

    connection = duckdb.connect()
    for statement in statements(path):
        connection.execute(statement)
    for view in VIEWS:
        connection.execute(f"copy (select * from {view}) to '{out}/{view}.parquet'")


def spark(path, out):
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.sql.session.timeZone", "UTC").config("spark.log.level", "ERROR")
    session = builder.config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS").getOrCreate()
    for statement in statements(path):
        session.sql(statement)
    for view in VIEWS:
        session.table(view).coalesce(1).write.parquet(f"{out}/{view}")
    session.stop()


def datafusion(path, out):
    from datafusion import SessionContext

    session = SessionContext()
    for statement in statements(path):
        session.sql(statement).collect()
    for view in VIEWS:
        session.table(view).write_parquet(f"{out}/{view}")


if __name__ == "__main__":
    {"duckdb": duckdb, "spark": spark, "datafusion": datafusion}[sys.argv[1]](*sys.argv[2:])
    print("{}")
