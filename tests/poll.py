"""Reads what a pipeline writes, over and over, while it is written.

Enters: a folder with `rows/` and `agg.parquet` of tests/kill.rs, the name of an engine, and the rows of each input
file. Leaves: how often it read, and exit code 1 with the first answers that were no answers of whole epochs. Always
holds: it ends when the file `stop` is there.

Run by the virtual environment of ./tests/run: python poll.py FOLDER ENGINE ROWS
"""

import os
import sys
import time

import duckdb
import polars
import pyarrow.dataset
import pyarrow.parquet

folder, engine, rows_per_file = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.chdir(folder)
connection = duckdb.connect()
connection.execute("SET threads = 1")


def duckdb_counts(files, column):
    return connection.execute(f"SELECT f, {column} FROM '{files}' GROUP BY f").fetchall()


def polars_counts(files, column):
    value = polars.len() if column == "count(*)" else polars.col("n").sum()
    return polars.scan_parquet(files).group_by("f").agg(value.alias("n")).collect().rows()


def pyarrow_counts(files, column):
    if column == "count(*)":
        table = pyarrow.dataset.dataset("rows").to_table(columns=["f"]).group_by("f").aggregate([([], "count_all")])
    else:
        table = pyarrow.parquet.read_table(files)
    counts = table.column(1 if column != "count(*)" else table.column_names.index("count_all")).to_pylist()
    return list(zip(table.column("f").to_pylist(), counts))


counts = {"duckdb": duckdb_counts, "polars": polars_counts, "pyarrow": pyarrow_counts}[engine]
polls, most, wrong = 0, {"rows/*.parquet": 0, "agg.parquet": 0}, []
took = 0.0
while not os.path.exists("stop"):
    # The pipeline has most of the machine, however much there is to read by now.
    time.sleep(max(0.02, 3 * took))
    begun = time.monotonic()
    for files, column in (("rows/*.parquet", "count(*)"), ("agg.parquet", "sum(n)")):
        if not os.path.exists("agg.parquet") or not os.listdir("rows"):
            continue
        try:
            found = counts(files, column)
        except BaseException as error:  # Polars panics, which is no Exception.
            wrong.append(f"{files}: {error}")
            continue
        polls += 1
        parts = [(f, n) for f, n in found if n != rows_per_file]
        if parts:
            wrong.append(f"{files}: files in part or twice: {parts[:3]}")
        if len(found) < most[files]:
            wrong.append(f"{files}: {len(found)} files are shown, and {most[files]} were")
        most[files] = max(most[files], len(found))
    took = time.monotonic() - begun
print(f"{engine}: {polls} polls, {len(wrong)} wrong, {most}", flush=True)
if wrong or not polls:
    print("\n".join(text[:300] for text in wrong[:5]))
    os._exit(1)
os._exit(0)
