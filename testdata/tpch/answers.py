#!/usr/bin/env python3
"""Computes the expected answers of the 22 TPC-H queries with DuckDB.

Enters: a folder with the eight tables as `.tbl` files, with or without the `|` that ends each line.
Leaves: `q01.csv` to `q22.csv` with a header line, beside this script or in `--out DIR`.
Always holds: whole numbers and decimals are written in full, dates as ISO, floating-point numbers
with as many digits as it takes to read the same number back. An answer whose ORDER BY leaves two of
its rows, or the last row under a LIMIT and the next one, in no order is refused: such an answer
could not be compared row by row.
"""

import argparse
import csv
import datetime
import decimal
import pathlib
import re
import sys

import duckdb

HERE = pathlib.Path(__file__).resolve().parent
QUERIES = HERE.parent.parent / "sql" / "tpch"

# The columns of each table, as the specification lays them out. Money and quantities are exact.
KEY, INT, MONEY, DATE, TEXT = "BIGINT", "INTEGER", "DECIMAL(15,2)", "DATE", "VARCHAR"
TABLES = {
    "region": {"r_regionkey": KEY, "r_name": TEXT, "r_comment": TEXT},
    "nation": {"n_nationkey": KEY, "n_name": TEXT, "n_regionkey": KEY, "n_comment": TEXT},
    "supplier": {
        "s_suppkey": KEY, "s_name": TEXT, "s_address": TEXT, "s_nationkey": KEY,
        "s_phone": TEXT, "s_acctbal": MONEY, "s_comment": TEXT,
    },
    "customer": {
        "c_custkey": KEY, "c_name": TEXT, "c_address": TEXT, "c_nationkey": KEY,
        "c_phone": TEXT, "c_acctbal": MONEY, "c_mktsegment": TEXT, "c_comment": TEXT,
    },
    "part": {
        "p_partkey": KEY, "p_name": TEXT, "p_mfgr": TEXT, "p_brand": TEXT, "p_type": TEXT,
        "p_size": INT, "p_container": TEXT, "p_retailprice": MONEY, "p_comment": TEXT,
    },
    "partsupp": {
        "ps_partkey": KEY, "ps_suppkey": KEY, "ps_availqty": INT, "ps_supplycost": MONEY,
        "ps_comment": TEXT,
    },
    "orders": {
        "o_orderkey": KEY, "o_custkey": KEY, "o_orderstatus": TEXT, "o_totalprice": MONEY,
        "o_orderdate": DATE, "o_orderpriority": TEXT, "o_clerk": TEXT, "o_shippriority": INT,
        "o_comment": TEXT,
    },
    "lineitem": {
        "l_orderkey": KEY, "l_partkey": KEY, "l_suppkey": KEY, "l_linenumber": INT,
        "l_quantity": MONEY, "l_extendedprice": MONEY, "l_discount": MONEY, "l_tax": MONEY,
        "l_returnflag": TEXT, "l_linestatus": TEXT, "l_shipdate": DATE, "l_commitdate": DATE,
        "l_receiptdate": DATE, "l_shipinstruct": TEXT, "l_shipmode": TEXT, "l_comment": TEXT,
    },
}

LIMIT = re.compile(r"\blimit\s+(\d+)\s*;?\s*$")
ORDER_BY = re.compile(r"\border\s+by\s+([^()]*?)\s*(?:\blimit\s+\d+\s*)?;?\s*$", re.DOTALL)


def load(con: duckdb.DuckDBPyConnection, table: str, file: pathlib.Path) -> None:
    """Loads one `.tbl` file as a table, column for column."""
    columns = dict(TABLES[table])
    with file.open(encoding="utf-8") as lines:
        ends_in_bar = next(lines).rstrip("\n").count("|") == len(columns)
    if ends_in_bar:
        columns["after_the_last_bar"] = TEXT
    kept = ", ".join(TABLES[table])
    con.execute(
        f"create table {table} as select {kept} from read_csv(?, columns = {columns!r},"
        " delim = '|', header = false, quote = '', escape = '', auto_detect = false)",
        [str(file)],
    )


def order_keys(sql: str, names: list[str]) -> list[int]:
    """The places, in a row of the answer, of the columns that the query orders by."""
    found = ORDER_BY.search(sql)
    if found is None:
        return []
    return [names.index(key.split()[0]) for key in found.group(1).split(",")]


def answer(con: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[str], list[tuple]]:
    """Runs a query and returns its column names and rows, after a look for ties in its order."""
    limit = LIMIT.search(sql)
    one_more = LIMIT.sub(f"limit {int(limit.group(1)) + 1}", sql) if limit else sql
    result = con.execute(one_more)
    names = [column[0] for column in result.description]
    rows = result.fetchall()
    keys = order_keys(sql, names)
    ordered_by = [tuple(row[key] for key in keys) for row in rows]
    if len(rows) > 1 and len(set(ordered_by)) < len(rows):
        raise SystemExit(f"the order of this query leaves ties:\n{sql}")
    return names, rows[: int(limit.group(1))] if limit else rows


def text(value: object) -> str:
    """One value as the answers spell it."""
    if value is None:
        return ""
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, datetime.date):
        return value.isoformat()
    return repr(value) if isinstance(value, float) else str(value)


def main() -> int:
    """Loads the tables, runs the queries and writes the answers."""
    parser = argparse.ArgumentParser(description="Compute the TPC-H answers with DuckDB.")
    parser.add_argument("tables", type=pathlib.Path, help="folder with the eight .tbl files")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "answers")
    args = parser.parse_args()

    con = duckdb.connect()
    for table in TABLES:
        load(con, table, args.tables / f"{table}.tbl")
    args.out.mkdir(parents=True, exist_ok=True)
    for query in sorted(QUERIES.glob("q*.sql")):
        names, rows = answer(con, query.read_text(encoding="utf-8"))
        out = args.out / f"{query.stem}.csv"
        with out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            writer.writerows([text(value) for value in row] for row in rows)
        print(f"{query.stem}: {len(rows)} rows")
    print(f"DuckDB {duckdb.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
