#!/usr/bin/env python3
"""Apache Kafka's own tool reads our segments without complaint: every codec, keys, headers, gaps of
compaction, and the indexes beside them.

    tests/kafka_dump.py [--ottla target/release/ottla] [--kafka FOLDER]

Fetches Kafka's published jars through Maven into the folder, and says so where that cannot be."""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench" / "compare"))

import peers  # noqa: E402
from harness import Cluster, fail  # noqa: E402

RECORDS = 4_000
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


def fill(cluster, topic, codec):
    cluster.run("topic", "create", topic, "--partitions", "1", "--replication-factor", "1",
                "--config", "segment.bytes=131072")
    lines = "".join(f"k{n % 50}\t{n}-{'v' * (n % 200)}\n" for n in range(RECORDS))
    command = cluster.command("produce", topic, "-f", "%k\\t%v\\n", "--compression", codec)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        fail(f"ottla produce ended with {done.returncode}: {done.stderr.strip()}")


def compacted(cluster, topic):
    """A compacted topic, once most of its records are gone."""
    cluster.run("topic", "create", topic, "--partitions", "1", "--replication-factor", "1",
                "--config", "segment.bytes=65536", "--config", "cleanup.policy=compact",
                "--config", "min.cleanable.dirty.ratio=0.01")
    deadline = time.monotonic() + 90
    first = 0
    while time.monotonic() < deadline:
        lines = "".join(f"k{n % 50}\t{n}-{'v' * 100}\n" for n in range(first, first + 2_000))
        first += 2_000
        command = cluster.command("produce", topic, "-f", "%k\\t%v\\n")
        done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            fail(f"ottla produce ended with {done.returncode}: {done.stderr.strip()}")
        read = subprocess.run(cluster.command("consume", topic, "--from-beginning", "--timeout",
                                              "500ms", "-f", "%o\\n"),
                              capture_output=True, text=True, timeout=60)
        offsets = read.stdout.split()
        if len(offsets) < first / 2:
            return
        time.sleep(0.5)
    fail("nothing was compacted")


def dump(java, classpath, files):
    command = [java, "-cp", classpath, "org.apache.kafka.tools.DumpLogSegments", "--deep-iteration",
               "--index-sanity-check", "--files", ",".join(str(file) for file in files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        fail(f"kafka-dump-log ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-1500:]}")
    return done.stdout, done.stderr


def check(java, classpath, directory):
    """Dumps every file of a partition; how many records Kafka counted."""
    files = sorted(p for p in directory.iterdir()
                   if p.suffix in (".log", ".index", ".timeindex"))
    said, complaints = dump(java, classpath, files)
    for word in ["isvalid: false", "Mismatches", "mismatch", "Found invalid", "out of order",
                 "Could not", "corrupt", "Exception"]:
        if word in said or word in complaints:
            fail(f"kafka-dump-log says {word!r} of {directory}: {said[-800:]}{complaints[-800:]}")
    batches = said.count("isvalid: true")
    if batches == 0:
        fail(f"kafka-dump-log found no batch in {directory}: {said[-500:]}")
    return batches, sum(int(count) for count in re.findall(r"\bcount: (\d+)", said))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ottla", default="target/release/ottla")
    parser.add_argument("--kafka", default="target/kafka", help="where Kafka's jars are kept")
    arguments = parser.parse_args()
    java = shutil.which("java")
    try:
        folder = Path(arguments.kafka).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        classpath = str(peers.kafka(folder))
    except (OSError, subprocess.SubprocessError, SystemExit) as error:
        print(f"SKIPPED: Apache Kafka's jars cannot be fetched here: {error}")
        return
    if java is None:
        print("SKIPPED: there is no Java here")
        return
    directory = Path(tempfile.mkdtemp(prefix="ottla-kafka-dump-"))
    cluster = Cluster(str(Path(arguments.ottla).resolve()), directory)
    try:
        for codec in CODECS:
            fill(cluster, codec, codec)
        compacted(cluster, "compacted")
        # A clean stop writes every index.
        cluster.stop()
        checked = 0
        for node in cluster.with_role("broker"):
            for partition in Path(node["data_dir"]).glob("broker/log/partitions/*"):
                batches, records = check(java, classpath, partition)
                print(f"{partition.name}: {batches} batches, {records} records")
                checked += 1
        if checked != len(CODECS) + 1:
            fail(f"{checked} partitions were found, not {len(CODECS) + 1}")
    except BaseException:
        print(f"the cluster's directory is kept: {directory}")
        cluster.stop()
        raise
    shutil.rmtree(directory)
    print("Apache Kafka reads every segment")


if __name__ == "__main__":
    main()
