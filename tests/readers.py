"""Other engines read what fuse wrote.

Enters: a folder that tests/round_trip.rs has filled: Parquet files, a partitioned folder, printed results, and
beside them the values that fuse says they hold, as NDJSON. Leaves: exit code 0 and a count, or 1 and every
difference. Always holds: a value is compared as what it is (a timestamp as nanoseconds, a float bit by bit),
and DuckDB, Polars and pyarrow have to agree with fuse on each.

Run by the virtual environment of ./tests/run: python readers.py FOLDER
"""

import csv
import datetime
import json
import struct
import sys
from decimal import Decimal
from pathlib import Path

import duckdb
import polars
import pyarrow
import pyarrow.dataset
import pyarrow.parquet
from pyarrow import types

WAYS = ("Copy", "Output")
# What an engine does not read, or reads as a plain number since Parquet has no such type.
SKIPPED = {"DuckDB": ("decimal256", "interval", "duration"), "Polars": (), "pyarrow": ("interval",)}
# What the type of a column has to be, by the start of its name.
KINDS = {
    "timestamp": types.is_timestamp,
    "date64": lambda kind: types.is_timestamp(kind) or types.is_date(kind),
    "date32": types.is_date,
    "time32": types.is_time,
    "time64": types.is_time,
    "decimal": types.is_decimal,
    "float": types.is_floating,
    "int": types.is_integer,
    "uint": types.is_integer,
    "boolean": types.is_boolean,
}
NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
DAY = 86_400 * 10**9

compared = 0
differences = []


def same(what, got, want):
    global compared
    compared += 1
    if got != want:
        differences.append(f"{what}: {got!r}, not {want!r}")


def attempt(what, read):
    """What an engine reads, or a difference."""
    try:
        return read()
    except BaseException as error:  # Polars panics with a BaseException.
        differences.append(f"{what}: {type(error).__name__}: {str(error)[:300]}")
        return None


def expected(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_float=Decimal) for line in lines]


# Values in a form that can be compared.


def plain(value):
    """A nested value of Arrow as JSON has it: maps are objects, bytes are hexadecimal."""
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        value = dict(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def float_bits(kind, value):
    return struct.pack("<f" if kind in (pyarrow.float16(), pyarrow.float32()) else "<d", float(value))


def read_values(column):
    """The values of an Arrow column; times are whole nanoseconds, since the start of their day or of 1970."""
    kind = column.type
    if types.is_dictionary(kind):
        return read_values(column.combine_chunks().dictionary_decode())
    if types.is_date(kind):
        unit, column = (DAY, column.cast(pyarrow.date32()).cast(pyarrow.int32()))
    elif types.is_timestamp(kind) or types.is_time(kind) or types.is_duration(kind):
        unit = NANOSECONDS[kind.unit]
        column = column.cast(pyarrow.int32() if types.is_time32(kind) else pyarrow.int64())
    elif types.is_floating(kind):
        return [None if value is None else float_bits(kind, value) for value in column.to_pylist()]
    else:
        return [plain(value) for value in column.to_pylist()]
    return [None if value is None else value * unit for value in column.to_pylist()]


def nanoseconds(text):
    """A date, a time, a timestamp or a duration of seconds, as fuse writes them."""
    if text.startswith("PT"):
        return int(Decimal(text[2:-1]) * 10**9)
    time = text
    days = 0
    if text[4:5] == "-":
        days = datetime.date.fromisoformat(text[:10]).toordinal() - datetime.date(1970, 1, 1).toordinal()
        time = text[11:] or "00:00:00"
    offset = 0
    if time.endswith("Z"):
        time = time[:-1]
    elif time[-6:-5] in ("+", "-"):
        offset = (1 if time[-6] == "+" else -1) * (int(time[-5:-3]) * 3600 + int(time[-2:]) * 60)
        time = time[:-6]
    hours, minutes, seconds = time.split(":")
    whole = int(hours) * 3600 + int(minutes) * 60 - offset
    return days * DAY + whole * 10**9 + int(Decimal(seconds) * 10**9)


def wanted(kind, value):
    """A value that fuse printed as JSON, in the form of `read_values`."""
    if value is None:
        return None
    if types.is_floating(kind):
        return float_bits(kind, value)
    if types.is_decimal(kind):
        return Decimal(value)
    if types.is_date(kind) or types.is_timestamp(kind) or types.is_time(kind) or types.is_duration(kind):
        return nanoseconds(value)
    return value


# Files of all types.


def readers(path):
    return {
        "DuckDB": lambda: duckdb.read_parquet(str(path)).order("i").to_arrow_table(),
        "Polars": lambda: polars.read_parquet(path).to_arrow(),
        "pyarrow": lambda: pyarrow.parquet.read_table(path),
    }


def compare_types(folder, name, engines):
    want = expected(folder / f"{name}.expected.ndjson")
    for way in WAYS:
        path = folder / f"{name}.{way}.parquet"
        for engine in engines:
            table = attempt(f"{engine} reads {path.name}", readers(path)[engine])
            if table is None:
                continue
            same(f"{engine}, {path.name}: columns", table.column_names, list(want[0]))
            for column in table.column_names:
                if column.startswith(SKIPPED[engine]):
                    continue
                what = f"{engine}, {path.name}: {column}"
                kind = table.schema.field(column).type
                fits = next((fits for start, fits in KINDS.items() if column.startswith(start)), None)
                if fits and not fits(kind):
                    differences.append(f"{what} is {kind}, a number or text without its meaning")
                    continue
                values = attempt(what, lambda: read_values(table[column]))
                same(what, values, [wanted(kind, row[column]) for row in want])


# A file of several row groups.


def compare_rows(folder):
    want = expected(folder / "rows.expected.ndjson")[0]
    low, high = 300_000, 300_099
    for way in WAYS:
        path = folder / f"rows.{way}.parquet"
        sql = f"SELECT count(*), sum(i)::BIGINT, max(s) FROM '{path}' WHERE i BETWEEN {low} AND {high}"
        got = attempt(f"DuckDB reads {path.name}", lambda: duckdb.sql(sql).fetchall()[0])
        same(f"DuckDB, {path.name}", got, tuple(want.values()))
        frame = polars.scan_parquet(path).filter(polars.col("i").is_between(low, high))
        sums = frame.select(polars.len().alias("n"), polars.col("i").sum(), polars.col("s").max())
        same(f"Polars, {path.name}", sums.collect().row(0), tuple(want.values()))
        table = pyarrow.parquet.read_table(path, filters=[("i", ">=", low), ("i", "<=", high)])
        sums = (table.num_rows, sum(table["i"].to_pylist()), max(table["s"].to_pylist()))
        same(f"pyarrow, {path.name}", sums, tuple(want.values()))
        compare_layout(path)


def compare_layout(path):
    """zstd, statistics, page indexes, row groups of a size that engines can share."""
    footer = pyarrow.parquet.ParquetFile(path).metadata
    same(f"{path.name}: its writer", footer.created_by.split(" ")[0], "fuse")
    for at in range(footer.num_row_groups):
        group = footer.row_group(at)
        same(f"{path.name}: rows of group {at}", 0 < group.num_rows <= 256 * 1024, True)
        for number in range(group.num_columns):
            column = group.column(number)
            found = (column.compression, column.statistics.has_min_max, column.statistics.has_null_count)
            found += (column.has_column_index, column.has_offset_index)
            same(f"{path.name}: column {column.path_in_schema}", found, ("ZSTD", True, True, True, True))


# A partitioned folder.


def compare_partitions(folder):
    want = {row["i"]: (row["k"], row["n"]) for row in expected(folder / "parts.expected.ndjson")}
    parts = folder / "parts"
    sql = f"SELECT i, k, n FROM read_parquet('{parts}/**/*.parquet', hive_partitioning = true)"
    columns = ["i", "k", "n"]
    read = {
        "DuckDB": lambda: duckdb.sql(sql).fetchall(),
        "Polars": lambda: polars.scan_parquet(parts, hive_partitioning=True).select(columns).collect().rows(),
        "pyarrow": lambda: [
            tuple(row[name] for name in columns)
            for row in pyarrow.dataset.dataset(parts, partitioning="hive").to_table(columns=columns).to_pylist()
        ],
    }
    for engine, rows in read.items():
        got = attempt(f"{engine} reads parts/", rows)
        if got is None:
            continue
        got = {i: (k, None if n is None else int(n)) for i, k, n in got}
        for i, pair in want.items():
            same(f"{engine}, parts/: the row {i}", got.get(i, "no row"), pair)


# Printed results.


def compare_printed(folder):
    rows = json.loads((folder / "printed.json").read_text(encoding="utf-8"), parse_float=Decimal)
    same("printed.ndjson", expected(folder / "printed.ndjson"), rows)
    names = list(rows[0])
    for ending, delimiter in (("csv", ","), ("tsv", "\t")):
        path = folder / f"printed.{ending}"
        with path.open(encoding="utf-8", newline="") as file:
            header, *cells = csv.reader(file, delimiter=delimiter)
        same(f"{path.name}: header", header, names)
        same(f"{path.name}: rows", len(cells), len(rows))
        for number, (row, line) in enumerate(zip(rows, cells)):
            same(f"{path.name}: fields of row {number}", len(line), len(names))
            for name, cell in zip(names, line):
                same(f"{path.name}: {name}", cell_value(cell, row[name]), row[name])
        sql = f"SELECT * FROM read_csv('{path}', all_varchar = true, delim = '{delimiter}', header = true)"
        table = attempt(f"DuckDB reads {path.name}", lambda: duckdb.sql(sql).fetchall())
        same(f"DuckDB, {path.name}", table and [len(row) for row in table], [len(names)] * len(rows))
    for ending in ("json", "ndjson"):
        sql = f"SELECT count(*) FROM read_json('{folder}/printed.{ending}')"
        count = attempt(f"DuckDB reads printed.{ending}", lambda: duckdb.sql(sql).fetchall()[0][0])
        same(f"DuckDB, printed.{ending}", count, len(rows))


def cell_value(cell, like):
    """A cell of CSV as the JSON value that it should equal."""
    if like is None:
        return None if cell == "" else cell
    if isinstance(like, str):
        return cell
    try:
        return json.loads(cell, parse_float=Decimal)
    except ValueError:
        return cell


def main():
    folder = Path(sys.argv[1])
    compare_types(folder, "types", ("DuckDB", "Polars", "pyarrow"))
    compare_types(folder, "odd", ("DuckDB", "pyarrow"))
    compare_rows(folder)
    compare_partitions(folder)
    compare_printed(folder)
    print(f"{compared} comparisons, {len(differences)} differences")
    for difference in differences:
        print(f"  {difference}")
    return 1 if differences else 0


sys.exit(main())
