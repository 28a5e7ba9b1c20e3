"""Rows a second that a topic gives, beside the same rows in a file.

python3 benches/kafka/run.py PROGRAM [ROWS]; the virtual environment of ./tests/run has what it needs (FUSE_TEST_VENV).
Small objects of JSON in one partition; both runs count them and sum a column. The broker, in one process, runs on the
same machine. Prints seconds of wall clock and of the program's CPU.
"""

import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time

program = pathlib.Path(sys.argv[1]).resolve()
rows = int(sys.argv[2]) if len(sys.argv) > 2 else 2_000_000
venv = pathlib.Path(os.environ.get("FUSE_TEST_VENV", pathlib.Path.home() / ".cache/fuse/venv"))
if pathlib.Path(sys.prefix).resolve() != venv.resolve():
    os.execv(venv / "bin/python", [str(venv / "bin/python"), *sys.argv])

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic


def line(row):
    return b'{"id":%d,"customer":%d,"amount":%d.25}' % (row, row % 1000, row % 777)


def run(place, location):
    sql = (
        "CREATE STREAM t (id BIGINT, customer BIGINT, amount DOUBLE) STORED AS JSON LOCATION '%s';"
        "COPY (SELECT count(*) AS n, sum(amount) AS s FROM t) TO 'out.csv';" % location
    )
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([program, "query", "-c", sql, "--once", "--quiet", "--fresh"], cwd=place, check=True)
    took, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    counted = int((place / "out.csv").read_text().splitlines()[1].split(",")[0])
    assert counted == rows, counted
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took, cpu


with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    broker = subprocess.Popen(
        [venv / "bin/noida-db", "start", "--only", "kafka", "--kafka-port", str(port), "--data-dir", place / "broker"],
        cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        config = {"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0}
        admin = AdminClient(config)
        for made in admin.create_topics([NewTopic("t", 1)]).values():
            made.result(30)
        producer = Producer({**config, "linger.ms": 50, "batch.num.messages": 10000,
                             "queue.buffering.max.messages": 1_000_000})
        with open(place / "t.json", "wb") as file:
            for row in range(rows):
                text = line(row)
                file.write(text + b"\n")
                while True:
                    try:
                        producer.produce("t", text)
                        break
                    except BufferError:
                        producer.poll(0.1)
            producer.flush()
        print("rows", rows)
        for name, location in [("topic", f"kafka://127.0.0.1:{port}/t"), ("file", "t.json")] * 3:
            took, cpu = run(place, location)
            print(f"{name:6} {took:6.2f} s  {cpu:6.2f} s of CPU  {rows / took / 1000:8.0f} k rows/s", flush=True)
    finally:
        broker.send_signal(signal.SIGINT)
        broker.wait(20)
