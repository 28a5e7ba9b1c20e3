"""What a Delta table costs, beside Parquet.

python3 benches/lake/run.py PROGRAM [ROWS]: rows a second of an INSERT at rest and of a stream of files, into a Delta table
and into a Parquet folder; then milliseconds an epoch of a table that holds the current answer by key, with 100,000
keys of which each epoch changes 1,000, beside a Parquet file that is replaced. Prints seconds of wall clock.
"""

import pathlib
import subprocess
import sys
import tempfile
import time

program = pathlib.Path(sys.argv[1]).resolve()
rows = int(sys.argv[2]) if len(sys.argv) > 2 else 5_000_000
KEYS, CHANGES, EPOCHS = 100_000, 1_000, 20


def run(place, *args):
    begun = time.monotonic()
    done = subprocess.run([program, "query", "--quiet", *args], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - begun


def table(name, stored, key=""):
    return f"CREATE EXTERNAL TABLE {name} (id BIGINT, k BIGINT, s VARCHAR{key}) STORED AS {stored} LOCATION 'out/{name}/';"


def rate(what, took):
    print(f"{what:42} {took:6.2f} s {rows / took / 1e6:6.2f} M rows/s")


with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    source = f"SELECT value AS id, value % 1000 AS k, 'row ' || value AS s FROM generate_series(1, {rows})"
    for stored in ("PARQUET", "DELTA"):
        sql = table(f"rest_{stored}", stored) + f" INSERT INTO rest_{stored} {source}"
        rate(f"INSERT at rest into {stored}", run(place, "-c", sql))
    part = rows // 10
    for file in range(10):
        some = f"SELECT * FROM ({source}) WHERE id > {file * part} AND id <= {(file + 1) * part}"
        run(place, "-c", f"COPY ({some}) TO 'in/{file}.parquet'")
    stream = ("CREATE STREAM t (id BIGINT, k BIGINT, s VARCHAR) STORED AS PARQUET LOCATION 'in/' "
              "OPTIONS ('max_files_per_epoch' '1');")
    for stored in ("PARQUET", "DELTA"):
        sql = stream + table(f"stream_{stored}", stored) + f" INSERT INTO stream_{stored} SELECT * FROM t"
        rate(f"stream of 10 epochs into {stored}", run(place, "--once", "--state", f"state_{stored}", "-c", sql))

    def keyed(stored, epochs):
        name = f"keyed_{stored}_{epochs}"
        rows = f"SELECT k AS id, count(*) AS k, max(s) AS s FROM t GROUP BY k"
        stream = ("CREATE STREAM t (id BIGINT, k BIGINT, s VARCHAR) STORED AS PARQUET LOCATION 'keys/' "
                  "OPTIONS ('max_files_per_epoch' '1');")
        if stored == "PARQUET":
            return run(place, "--once", "--state", f"state_{name}", "-c", f"{stream} COPY ({rows}) TO '{name}.parquet'")
        sql = stream + table(name, "DELTA", ", PRIMARY KEY (id)") + f" INSERT INTO {name} {rows}"
        return run(place, "--once", "--state", f"state_{name}", "-c", sql)

    first = f"SELECT value AS id, value AS k, 'row ' || value AS s FROM generate_series(1, {KEYS})"
    run(place, "-c", f"COPY ({first}) TO 'keys/000.parquet'")
    base = {stored: keyed(stored, 0) for stored in ("PARQUET", "DELTA")}
    for epoch in range(1, EPOCHS + 1):
        some = f"SELECT value AS id, value * 97 % {KEYS} + 1 AS k, 'new ' || value AS s FROM " \
               f"generate_series({epoch * CHANGES}, {(epoch + 1) * CHANGES - 1})"
        run(place, "-c", f"COPY ({some}) TO 'keys/{epoch:03}.parquet'")
    for stored in ("PARQUET", "DELTA"):
        took = keyed(stored, EPOCHS) - base[stored]
        print(f"{CHANGES:,} of {KEYS:,} keys an epoch, {stored:7} {took / EPOCHS * 1000:12.0f} ms an epoch")
