#!/usr/bin/env python3
"""`ottla bench` on a cluster of real processes: everything that was sent is acknowledged and read,
a stall is felt by the records that were due meanwhile, and no topic is left behind.

    tests/bench.py [--ottla target/release/ottla]"""

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from harness import Cluster, fail

TIME_LIMIT = 120


def bench(cluster, *arguments, code=0):
    command = cluster.command("bench", *arguments, "-o", "json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT)
    if done.returncode != code:
        fail(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def expect(what, actual, expected):
    if actual != expected:
        fail(f"{what}: {actual} instead of {expected}")


def topics(cluster):
    return json.loads(cluster.run("topic", "list", "-o", "json"))


def throughput(cluster):
    produced = bench(cluster, "produce", "--records", "20000", "--producers", "2", "--keep")
    expect("sent", produced["sent"], 20_000)
    expect("acknowledged", produced["acknowledged"]["records"], 20_000)
    expect("bytes", produced["acknowledged"]["bytes"], 20_000 * 1024)
    for consumers in ("1", "4"):
        read = bench(cluster, "consume", produced["topic"], "--consumers", consumers)
        expect(f"read by {consumers}", read["consumed"]["records"], 20_000)
    cluster.run("topic", "delete", produced["topic"])
    read = bench(cluster, "consume", "--records", "5000", "--record-size", "100")
    expect("read of its own", read["consumed"]["records"], 5_000)
    # A compacted topic takes no record without a key.
    keyed = bench(cluster, "produce", "--records", "2000", "--keys", "50",
                  "--config", "cleanup.policy=compact")
    expect("acknowledged with keys", keyed["acknowledged"]["records"], 2_000)


def latency(cluster):
    result = bench(cluster, "latency", "--rate", "1000", "--duration", "3s", "--warmup", "1s")
    expect("sent", result["sent"], 3_000)
    expect("acknowledged after the warm-up", result["acknowledged"]["records"], 2_000)
    expect("consumed after the warm-up", result["consumed"]["records"], 2_000)


def stall(cluster):
    """All brokers stand still for a second: a thousand records were due, and each of them waited
    for what was left of it."""
    command = cluster.command("bench", "latency", "--rate", "1000", "--duration", "4s",
                              "--warmup", "1s", "-o", "json")
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # The first interval line comes when the warm-up is over.
    running.stderr.readline()
    brokers = [node["pid"] for node in cluster.with_role("broker")]
    for pid in brokers:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1)
    for pid in brokers:
        os.kill(pid, signal.SIGCONT)
    out, errors = running.communicate(timeout=TIME_LIMIT)
    if running.returncode != 0:
        fail(f"latency with a stall ended with {running.returncode}: {errors.strip()[-500:]}")
    result = json.loads(out)
    # Of 3,000 records a third was due meanwhile, so that one in ten waited for 0.7 s or longer. A
    # load that only counts what it could send would have a handful of them.
    p90 = result["acknowledged"]["latency"]["p90_ms"]
    if p90 < 500:
        fail(f"a stall of a second left p90 at {p90} ms")
    expect("sent in spite of the stall", result["sent"], 4_000)


def stopped(cluster):
    """A run that is told to stop reports what it had measured, and clears up."""
    command = cluster.command("bench", "produce", "--duration", "1h", "-o", "json")
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    running.stderr.readline()
    running.send_signal(signal.SIGINT)
    out, errors = running.communicate(timeout=TIME_LIMIT)
    if running.returncode != 0:
        fail(f"a stopped run ended with {running.returncode}: {errors.strip()[-500:]}")
    result = json.loads(out)
    expect("acknowledged when stopped", result["acknowledged"]["records"], result["sent"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ottla", default="target/release/ottla")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ottla-bench-") as folder:
        cluster = Cluster(str(Path(options.ottla).resolve()), Path(folder))
        try:
            for story in (throughput, latency, stall, stopped):
                story(cluster)
                expect(f"topics after {story.__name__}", topics(cluster), [])
                print(f"{story.__name__}: ok", flush=True)
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
