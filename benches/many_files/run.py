"""How much a folder of many files costs an epoch.

    python3 benches/many_files/run.py [FUSE] [FILES]

makes a folder of FILES files (100,000) with a line each, takes them with `--once`, and then lets the pipeline run:
10 s in which nothing comes, and 10 s with a new file each second. Prints the wall seconds of the first, and the CPU
milliseconds of the pipeline for each second of the others.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time

SQL = """CREATE STREAM s (a BIGINT, b VARCHAR) STORED AS JSON LOCATION 'in/';
COPY (SELECT count(*) AS n, sum(a) AS a FROM s) TO 'n.csv';
"""
SECONDS = 10


def cpu_ms(pid):
    """CPU milliseconds of a process so far."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1000 // os.sysconf("SC_CLK_TCK")


def main():
    fuse = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "target/release/fuse")
    files = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.mkdir("in")
        for at in range(files):
            with open(f"in/{at:06}.json", "w") as file:
                file.write(f'{{"a":{at},"b":"x"}}\n')
        with open("q.sql", "w") as file:
            file.write(SQL)
        time.sleep(2)
        start = time.time()
        subprocess.run([fuse, "query", "q.sql", "--once", "-q"], check=True)
        print(f"{files} files taken in {time.time() - start:.1f} s")
        with open("n.csv") as file:
            assert file.read().split("\n")[1] == f"{files},{files * (files - 1) // 2}"
        # Files that changed a minute ago are looked at each time, the others in turns.
        time.sleep(65)
        running = subprocess.Popen([fuse, "query", "q.sql", "-q"])
        time.sleep(5)
        for what in ["nothing new", "a new file each second"]:
            before = cpu_ms(running.pid)
            for second in range(SECONDS):
                if what != "nothing new":
                    with open(f"in/new{second}.json", "w") as file:
                        file.write('{"a":0,"b":"y"}\n')
                time.sleep(1)
            print(f"{what}: {(cpu_ms(running.pid) - before) / SECONDS:.0f} ms of CPU a second")
        running.send_signal(signal.SIGINT)
        running.wait()


main()
