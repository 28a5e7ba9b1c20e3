#!/usr/bin/env python3
"""Nexmark in epochs beside the same queries as a batch.

Enters: the queries of sql/nexmark, and events that fuse generates into Parquet files, once. Leaves: a table of seconds,
events a second, peak memory and state. Always holds: both read the same files and write a Parquet file or folder; an
epoch reads one file of each table, which has the events of one stretch of time; a state begins empty.
"""

import argparse
import json
import math
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLES = ("person", "auction", "bid")


def generate(fuse: pathlib.Path, events: int, epochs: int, folder: pathlib.Path) -> None:
    """Writes a file of each table for each epoch."""
    if (folder / "complete").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for table in TABLES:
        whole = folder / f"{table}.parquet"
        sql = (
            f"CREATE STREAM {table} STORED AS NEXMARK OPTIONS ('rows' '{events}', 'max_rows_per_epoch' '{events}');"
            f"COPY (SELECT * FROM {table}) TO '{whole}' STORED AS PARQUET OPTIONS ('roll_rows' '{events}');"
        )
        with tempfile.TemporaryDirectory() as state:
            subprocess.run([fuse, "query", "-q", "--once", "--state", f"{state}/s", "-c", sql], check=True)
    # The events of the generator are evenly spaced.
    bounds = subprocess.run(
        [fuse, "query", "--format", "csv", "-c",
         f"SELECT min(date_time)::BIGINT, max(date_time)::BIGINT, arrow_typeof(min(date_time)) FROM '{folder}/bid.parquet'"],
        check=True, capture_output=True, text=True,
    ).stdout.splitlines()[1].split(",", 2)
    first, last = int(bounds[0]), int(bounds[1])
    for table in TABLES:
        for epoch in range(epochs):
            begin = first + (last + 1 - first) * epoch // epochs
            end = first + (last + 1 - first) * (epoch + 1) // epochs
            lower = "true" if epoch == 0 else f"date_time::BIGINT >= {begin}"
            upper = "true" if epoch == epochs - 1 else f"date_time::BIGINT < {end}"
            sql = (
                f"COPY (SELECT * FROM '{folder}/{table}.parquet' WHERE {lower} AND {upper} ORDER BY date_time) "
                f"TO '{folder}/{table}/{epoch:04}.parquet';"
            )
            subprocess.run([fuse, "query", "-q", "-c", sql], check=True)
        (folder / f"{table}.parquet").unlink()
    (folder / "complete").touch()


def statements(query: int, data: pathlib.Path, out: str, stream: bool) -> str:
    """The file of a query, over files and into Parquet."""
    text = re.sub(r"--.*", "", (ROOT / f"sql/nexmark/q{query}.sql").read_text())

    def table(match: re.Match) -> str:
        name, columns = match[1], match[2] or ""
        if stream:
            options = "OPTIONS ('max_files_per_epoch' '1', 'max_rows_per_epoch' '100000000', 'max_bytes_per_epoch' '8GB')"
            return f"CREATE STREAM {name} {columns} STORED AS PARQUET LOCATION '{data}/{name}/' {options}"
        return f"CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{data}/{name}/'"

    text = re.sub(r"CREATE STREAM (\w+)\s*(\(WATERMARK.*\))?\s*STORED AS NEXMARK\s*OPTIONS \([^)]*\)", table, text)
    *before, last = [part.strip() for part in text.split(";") if part.strip()]
    copy = re.fullmatch(r"COPY \((.*)\) TO '[^']*'(.*)", last, re.S)
    final = bool(re.search(r"EMIT FINAL\s*$", last))
    if copy:
        last = f"COPY ({copy[1]}) TO '{out}'{copy[2]}"
    else:
        mode = "OPTIONS ('mode' 'changelog')" if stream and not final else ""
        last = f"COPY ({last if stream else re.sub(r'EMIT FINAL', '', last)}) TO '{out}' STORED AS PARQUET {mode}"
    return ";\n".join([*before, last]) + ";\n"


def measured(command: list, threads: int) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and MiB of a process."""
    watch = (
        "import os,resource,subprocess,sys,time;"
        "b=time.perf_counter();p=subprocess.run(sys.argv[1:],stdout=subprocess.DEVNULL);"
        "w=time.perf_counter()-b;r=resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(r.ru_utime+r.ru_stime,w,r.ru_maxrss/1024);sys.exit(p.returncode)"
    )
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0))[:threads])
    ran = subprocess.run(["taskset", "-c", cores, sys.executable, "-c", watch, *map(str, command)],
                         check=True, capture_output=True, text=True)
    cpu, wall, memory = map(float, ran.stdout.split())
    return cpu, wall, memory


def state_of(fuse: pathlib.Path, folder: pathlib.Path) -> float:
    """MB of state in memory after the last epoch, as the operators count it."""
    told = subprocess.run([fuse, "inspect", folder, "--format", "json"], check=True, capture_output=True, text=True)
    return sum(one["state_bytes"] for one in json.loads(told.stdout)["operators"]) / 1e6


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--fuse", default=os.environ.get("FUSE_BIN", ROOT / "target/release/fuse"), type=pathlib.Path)
    options.add_argument("--events", default=10_000_000, type=int)
    options.add_argument("--epochs", default=20, type=int)
    options.add_argument("--threads", default=2, type=int)
    options.add_argument("--runs", default=3, type=int)
    options.add_argument("--queries", default=",".join(str(q) for q in range(23)))
    options.add_argument("--data", type=pathlib.Path)
    asked = options.parse_args()
    fuse = asked.fuse.resolve()
    data = asked.data or ROOT / f"target/nexmark-{asked.events}-{asked.epochs}"
    generate(fuse, asked.events, asked.epochs, data)
    print(f"{asked.events} events, {asked.epochs} epochs, {asked.threads} threads, medians of {asked.runs} runs in turn")
    print(f"{'':<6}{'batch s':>10}{'epochs s':>10}{'ratio':>8}{'CPU ratio':>11}{'events/s':>12}{'batch MiB':>11}"
          f"{'epochs MiB':>12}{'state MB':>10}")
    ratios = []
    with tempfile.TemporaryDirectory(dir=data.parent) as place:
        for query in map(int, asked.queries.split(",")):
            runs = {False: [], True: []}
            for run in range(asked.runs):
                for stream in (False, True):
                    folder = pathlib.Path(place) / f"q{query}-{run}-{stream}"
                    folder.mkdir()
                    file = folder / "q.sql"
                    file.write_text(statements(query, data.resolve(), str(folder / "out") + "/", stream))
                    more = ["--once", "--state", folder / "state"] if stream else []
                    try:
                        command = [fuse, "query", "-q", "--threads", asked.threads, *more, file]
                        runs[stream].append(measured(command, asked.threads))
                    except subprocess.CalledProcessError as failed:
                        print(f"q{query} failed: {failed.stderr}", file=sys.stderr)
                    state = state_of(fuse, folder / "state") if stream and (folder / "state").exists() else 0.0
                    shutil.rmtree(folder)
            if not runs[True] or not runs[False]:
                print(f"q{query:<5}{'-':>10}")
                continue
            batch, epochs = ([statistics.median(run[at] for run in runs[stream]) for at in range(3)]
                             for stream in (False, True))
            ratios.append(epochs[1] / batch[1])
            print(f"q{query:<5}{batch[1]:>10.2f}{epochs[1]:>10.2f}{ratios[-1]:>8.2f}{epochs[0] / batch[0]:>11.2f}"
                  f"{asked.events / epochs[1]:>12,.0f}{batch[2]:>11.0f}{epochs[2]:>12.0f}{state:>10.1f}", flush=True)
    print(f"geometric mean of the ratios: {math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}")


if __name__ == "__main__":
    main()
