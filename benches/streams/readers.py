"""What readers make of a Parquet file that a rename exchanges while they read.

Enters: nothing. Leaves: for DuckDB, Polars and pyarrow, how many reads gave one version, a mixture of two, or an error.
Always holds: each version has one value of `v`, and as many rows as its column `k` says.

With the virtual environment of ./tests/run: python benches/streams/readers.py
"""

import collections
import os
import random
import subprocess
import sys
import tempfile
import time

import duckdb
import polars
import pyarrow
import pyarrow.parquet

FILE, SECONDS = "t.parquet", 10


def write(end):
    version = 0
    while time.time() < end:
        version += 1
        rows = random.randint(1, 3000)
        columns = {"v": [version] * rows, "k": [rows] * rows, "s": [str(random.random()) for _ in range(rows)]}
        pyarrow.parquet.write_table(pyarrow.table(columns), "t.tmp")
        os.rename("t.tmp", FILE)
    print(f"{version} versions in {SECONDS} s")


connection = duckdb.connect()
connection.execute("SET threads = 1")


def read_duckdb():
    sums = "count(*), min(v), max(v), min(k), max(k), count(DISTINCT s)"
    return connection.execute(f"SELECT {sums} FROM '{FILE}'").fetchone()


def read_polars():
    v, k = polars.col("v"), polars.col("k")
    sums = [polars.len(), v.min().alias("a"), v.max().alias("b"), k.min().alias("c"), k.max().alias("d")]
    return polars.scan_parquet(FILE).select(*sums, polars.col("s").n_unique()).collect().row(0)


def read_pyarrow():
    table = pyarrow.parquet.read_table(FILE)
    v, k = table["v"].to_pylist(), table["k"].to_pylist()
    return table.num_rows, min(v), max(v), min(k), max(k), len(set(table["s"].to_pylist()))


def read(engine, end):
    counts = collections.Counter()
    while time.time() < end:
        try:
            rows, v_min, v_max, k_min, k_max, texts = globals()[f"read_{engine}"]()
            whole = v_min == v_max and k_min == k_max == rows == texts
            counts["one version" if whole else "a mixture"] += 1
        except BaseException:  # Polars panics, which is no Exception.
            counts["an error"] += 1
    print(f"{engine}: {dict(counts)}", flush=True)
    os._exit(0)


if len(sys.argv) > 1:
    role, end = sys.argv[1], float(sys.argv[2])
    write(end) if role == "write" else read(role, end)
else:
    script = os.path.abspath(__file__)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        end = str(time.time() + SECONDS)
        roles = ["write", "duckdb", "polars", "pyarrow"]
        writer = subprocess.Popen([sys.executable, script, roles[0], end])
        while not os.path.exists(FILE):
            time.sleep(0.01)
        readers = [subprocess.Popen([sys.executable, script, role, end], stderr=subprocess.DEVNULL) for role in roles[1:]]
        for process in [writer, *readers]:
            process.wait()
