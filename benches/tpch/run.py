#!/usr/bin/env python3
"""Measures fuse against DuckDB and DataFusion on the 22 TPC-H queries, whole processes all of them.

Enters: the options below, the queries of `sql/tpch`, and eight Parquet files (`--data DIR`, or
generated at scale factor `--sf`).
Leaves: one table on standard output, with the CPU seconds, the wall-clock seconds and the peak
memory of each engine for each query, the ratios, and the geometric means.
Always holds: every number is the median of `--runs` runs, the engines taken in turn; what each
process takes to start and to run nothing is subtracted, since two of the engines start in Python; a
query that fails in an engine is named on standard error, left out of the means, and makes the exit
code 1.
"""

import argparse
import dataclasses
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv

REPO = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ["duckdb>=2,<3", "datafusion>=55,<56"]
TABLES = ["region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem"]

# Stands for the name of a query in an engine's command.
QUERY = "@QUERY@"

# What a time is at least once the start of Python is subtracted, so that ratios stay defined.
LEAST = 0.001

# Arguments of both: threads, folder of the tables, file of the query; without the last two nothing
# is run, which measures the start alone.
DUCKDB = """
import sys, duckdb
con = duckdb.connect()
con.execute(f"PRAGMA threads = {int(sys.argv[1])}")
if len(sys.argv) > 2:
    for table in TABLES:
        file = f"{sys.argv[2]}/{table}.parquet".replace("'", "''")
        con.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{file}')")
    query = open(sys.argv[3]).read().strip().rstrip(";")
    con.execute(f"COPY (\\n{query}\\n) TO '/dev/stdout' (FORMAT csv, HEADER, USE_TMP_FILE false)")
"""
DATAFUSION = """
import sys
from datafusion import SessionConfig, SessionContext
ctx = SessionContext(SessionConfig().with_target_partitions(int(sys.argv[1])))
if len(sys.argv) > 2:
    for table in TABLES:
        ctx.register_parquet(table, f"{sys.argv[2]}/{table}.parquet")
    ctx.sql(open(sys.argv[3]).read()).collect()
"""


@dataclasses.dataclass
class Usage:
    """What one process took: seconds of CPU time, seconds on the wall clock, bytes of memory."""

    cpu: float
    wall: float
    memory: float


@dataclasses.dataclass
class Engine:
    """An engine and how it is started: `start` runs nothing, `query` a query."""

    name: str
    version: str
    query: list[str]
    start: list[str]
    overhead: Usage = dataclasses.field(default_factory=lambda: Usage(0.0, 0.0, 0.0))


def options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Measure fuse, DuckDB and DataFusion on TPC-H.")
    parser.add_argument("--sf", default="1", help="scale factor of the data to generate (1)")
    parser.add_argument("--data", type=pathlib.Path, help="folder of the Parquet files"
                        " (target/tpch-sfSF, generated when it is not there)")
    fuse = pathlib.Path(os.environ.get("FUSE_BIN", REPO / "target/release/fuse"))
    parser.add_argument("--fuse", type=pathlib.Path, default=fuse,
                        help="fuse binary ($FUSE_BIN, else target/release/fuse)")
    parser.add_argument("--datafusion-cli", help="datafusion-cli binary to measure in place of the"
                        " Python package (the one in PATH, if any)",
                        default=shutil.which("datafusion-cli"))
    parser.add_argument("--venv", type=pathlib.Path, help="virtual environment of the engines",
                        default=pathlib.Path.home() / ".cache/fuse-bench/venv")
    parser.add_argument("--runs", type=int, default=3, help="runs of each query (3)")
    parser.add_argument("--threads", type=int, default=2, help="cores for each engine (2)")
    parser.add_argument("--queries", help="queries to run, such as 1,7 (all)")
    args = parser.parse_args()
    if args.runs < 1 or args.threads < 1:
        parser.error("--runs and --threads are at least 1")
    if not args.fuse.is_file():
        parser.error(f"there is no fuse binary {args.fuse}; build it with: cargo build --release")
    if args.data is None:
        args.data = REPO / f"target/tpch-sf{args.sf}"
    try:
        numbers = [int(number) for number in (args.queries or "").split(",") if number]
    except ValueError:
        parser.error(f"--queries takes numbers, not {args.queries}")
    args.queries = [f"q{number:02}" for number in numbers or range(1, 23)]
    for query in args.queries:
        if not (REPO / f"sql/tpch/{query}.sql").is_file():
            parser.error(f"there is no query {query}")
    return args


def python_of(folder: pathlib.Path) -> str:
    """The Python of the virtual environment, which is made at the first use."""
    python = str(folder / "bin/python")
    installed = folder / "fuse-bench-packages"
    if not installed.is_file() or installed.read_text() != "\n".join(PACKAGES):
        print(f"installing {', '.join(PACKAGES)} in {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run(pip + PACKAGES, check=True)
        installed.write_text("\n".join(PACKAGES))
    return python


def ensure_data(args: argparse.Namespace) -> None:
    """Generates the tables unless they are there, and reads them once into the page cache."""
    files = [args.data / f"{table}.parquet" for table in TABLES]
    if not all(file.is_file() for file in files):
        folder = str(args.data.resolve())
        command = ["cargo", "bench", "--bench", "tpch", "--", "--generate", args.sf, folder]
        environment = os.environ | {"FUSE_BIN": str(args.fuse.resolve())}
        subprocess.run(command, cwd=REPO, env=environment, stdout=sys.stderr, check=True)
    for file in files:
        with file.open("rb") as data:
            while data.read(1 << 20):
                pass


def output_of(command: list[str]) -> str:
    """What a command prints, on one line."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def engines(args: argparse.Namespace, scripts: pathlib.Path) -> list[Engine]:
    """The engines in the order they take turns in."""
    python = python_of(args.venv)
    version = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    script, nothing = str(scripts / f"{QUERY}.sql"), str(scripts / "nothing.sql")

    def in_python(name: str, package: str, code: str) -> Engine:
        start = [python, "-c", f"TABLES = {TABLES!r}\n{code}", str(args.threads)]
        query = start + [str(args.data.resolve()), str(REPO / f"sql/tpch/{QUERY}.sql")]
        return Engine(name, output_of([python, "-c", version, package]), query, start)

    fuse = str(args.fuse.resolve())
    found = [
        Engine("fuse", output_of([fuse, "--version"]), [fuse, "query", script, "--format", "csv"],
               [fuse, "query", nothing, "--format", "csv"]),
        in_python("duckdb", "duckdb", DUCKDB),
    ]
    if args.datafusion_cli:
        cli = args.datafusion_cli
        command = [cli, "--quiet", "--format", "csv", "--file"]
        version = output_of([cli, "--version"])
        found.append(Engine("datafusion", version, command + [script], command + [nothing]))
    else:
        found.append(in_python("datafusion", "datafusion", DATAFUSION))
    return found


def write_scripts(args: argparse.Namespace, scripts: pathlib.Path) -> None:
    """Writes each query with the declarations of its tables before it."""
    folder = str(args.data.resolve()).replace("'", "''")
    tables = "".join(
        f"CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{folder}/{table}.parquet';\n"
        for table in TABLES
    )
    for query in args.queries:
        text = (REPO / f"sql/tpch/{query}.sql").read_text(encoding="utf-8")
        (scripts / f"{query}.sql").write_text(tables + text, encoding="utf-8")
    (scripts / "nothing.sql").write_text("-- Nothing.\n", encoding="utf-8")


def run(command: list[str]) -> Usage:
    """Runs one process to its end, its output thrown away, and says what it took.

    The peak memory that the kernel reports is never less than this script's own at that time, some
    twenty MiB.
    """
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            message = errors.read().decode(errors="replace").strip()
            raise RuntimeError(f"exit code {process.returncode}\n{message}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Usage(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * unit)


def median(runs: list[Usage]) -> Usage:
    """The median of each number by itself."""
    return Usage(*(statistics.median(numbers) for numbers in zip(*map(dataclasses.astuple, runs))))


def measure_start(engine: Engine, runs: int) -> None:
    """Measures what the engine takes to start, after one run to warm it up."""
    run(engine.start)
    engine.overhead = median([run(engine.start) for _ in range(runs)])


def measure(found: list[Engine], query: str, runs: int) -> dict[str, Usage]:
    """Runs one query in every engine in turn; an engine that fails is left out.

    The start of an engine is measured beside each run: what it takes drifts.
    """
    taken: dict[str, list[Usage]] = {engine.name: [] for engine in found}
    starts: dict[str, list[Usage]] = {engine.name: [] for engine in found}
    for _ in range(runs):
        for engine in found:
            if engine.name not in taken:
                continue
            try:
                start = run(engine.start)
                usage = run([part.replace(QUERY, query) for part in engine.query])
            except (OSError, RuntimeError) as error:
                print(f"{engine.name} failed at {query}: {error}", file=sys.stderr)
                del taken[engine.name]
                continue
            starts[engine.name].append(start)
            taken[engine.name].append(usage)
    medians = {name: median(usages) for name, usages in taken.items()}
    for name, usage in medians.items():
        start = median(starts[name])
        usage.cpu = max(usage.cpu - start.cpu, LEAST)
        usage.wall = max(usage.wall - start.wall, LEAST)
    return medians


def line(usages: dict[str, Usage], names: list[str]) -> list[float | None]:
    """One line of the table: CPU, its ratios, wall clock, its ratios, memory in MiB."""
    values: list[float | None] = []
    for field in ("cpu", "wall"):
        times = [getattr(usages[name], field) if name in usages else None for name in names]
        values += times
        values += [times[0] / other if times[0] and other else None for other in times[1:]]
    return values + [usages[name].memory / 2**20 if name in usages else None for name in names]


def show(label: str, values: list[float | None], engine_count: int) -> None:
    """Prints one line of the table; times and ratios with digits, memory without."""
    memory_from = len(values) - engine_count
    cells = [
        "-" if value is None else f"{value:.0f}" if place >= memory_from else f"{value:.3f}"
        for place, value in enumerate(values)
    ]
    print(f"{label:7}" + "".join(f"{cell:>11}" for cell in cells), flush=True)


def header(names: list[str]) -> None:
    """Prints the two lines over the table."""
    block = names + ["fuse/duck", "fuse/df"]
    groups = [("CPU seconds", block), ("wall seconds", block), ("peak MiB", names)]
    print(f"{'':7}" + "".join(f"{title:>11}{'':{11 * (len(part) - 1)}}" for title, part in groups))
    columns = [column for _, part in groups for column in part]
    print(f"{'query':7}" + "".join(f"{column:>11}" for column in columns))


def geometric_mean(values: tuple[float | None, ...]) -> float | None:
    """The geometric mean of the numbers that are there."""
    there = [value for value in values if value]
    return math.exp(sum(map(math.log, there)) / len(there)) if there else None


def main() -> int:
    """Measures and prints."""
    args = options()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if cores:
        os.sched_setaffinity(0, cores[: args.threads])
    ensure_data(args)
    with tempfile.TemporaryDirectory() as folder:
        scripts = pathlib.Path(folder)
        write_scripts(args, scripts)
        found = engines(args, scripts)
        names = [engine.name for engine in found]
        print(f"data {args.data}, {args.threads} cores, median of {args.runs} runs")
        for engine in found:
            measure_start(engine, args.runs)
            print(f"{engine.name}: {engine.version}; subtracted for its start:"
                  f" {engine.overhead.cpu:.3f} s of CPU, {engine.overhead.wall:.3f} s on the wall clock")
        print()
        header(names)
        lines = []
        for query in args.queries:
            lines.append(line(measure(found, query, args.runs), names))
            show(query, lines[-1], len(names))
    whole = [values for values in lines if None not in values]
    if whole:
        show("geomean", [geometric_mean(column) for column in zip(*whole)], len(names))
    return 0 if len(whole) == len(lines) else 1


if __name__ == "__main__":
    sys.exit(main())
