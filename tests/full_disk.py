#!/usr/bin/env python3
"""A disk that is really full: a small file system in memory under the brokers. Producers are refused
with a clear error while consumers, deletion and the controllers go on; nothing acknowledged is lost;
nodes start on the full disk; and it resumes by itself when there is room.

    tests/full_disk.py [--ottla target/release/ottla]

Needs to mount a tmpfs, and says so where it may not."""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

from harness import Cluster, fail

TOPIC = "filling"
SIZE_MIB = 1300
VALUE = "v" * 8_000


def produce(cluster, topic, first, count, timeout):
    """How many of the records were acknowledged, and what was said."""
    lines = "".join(f"{n}-{VALUE}\n" for n in range(first, first + count))
    command = cluster.command("produce", topic, "--timeout", timeout)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr


def consume(cluster, topic, timeout="3s"):
    command = cluster.command("consume", topic, "--from-beginning", "--timeout", timeout,
                              "-f", "%v\\n")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    numbers = []
    for line in done.stdout.splitlines():
        number, _, rest = line.partition("-")
        if rest != VALUE:
            fail(f"a record that nobody wrote: {line[:60]}")
        numbers.append(int(number))
    return numbers


def settled(cluster, within=60):
    """Waits until nothing is wrong with the cluster but that its disks are full, if they still
    are: that little is free is what health must go on to say."""
    deadline = time.monotonic() + within
    while True:
        command = cluster.command("cluster", "health", "-o", "json")
        done = subprocess.run(command, capture_output=True, text=True)
        found = {finding["kind"] for finding in json.loads(done.stdout)["findings"]}
        if found <= {"full_brokers"}:
            return
        if time.monotonic() > deadline:
            fail(f"the cluster did not settle: {done.stdout}")
        time.sleep(0.05)


def fill(cluster, acknowledged=0):
    """Batches until the cluster refuses; how many are surely there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        code, said = produce(cluster, TOPIC, acknowledged, 500, "3s")
        if code == 0:
            acknowledged += 500
        # What was appended at the edge, but found no room on the followers, times out instead.
        elif "disk is full" in said and "disk_reserve_bytes" in said:
            return acknowledged
    fail(f"the disk does not get full, or nobody says so and what to do: {said[-400:]}")


def check(cluster, acknowledged):
    missing = set(range(acknowledged)) - set(consume(cluster, TOPIC))
    if missing:
        fail(f"{len(missing)} acknowledged records are missing, the first is {min(missing)}")


def restart_all(cluster):
    for node in cluster.nodes:
        cluster.kill(node["id"])
    for node in cluster.nodes:
        cluster.restart(node)
    settled(cluster)


def story(cluster, directory):
    cluster.run("topic", "create", TOPIC, "--partitions", "3", "--config", "segment.bytes=1048576")
    cluster.run("topic", "create", "other", "--partitions", "3")
    acknowledged = fill(cluster)
    check(cluster, acknowledged)
    health = subprocess.run(cluster.command("cluster", "health"), capture_output=True, text=True)
    if health.returncode != 3 or "out of room" not in health.stdout:
        fail(f"health of a cluster with full disks: {health.returncode} {health.stdout}")
    # The controllers live on the same disk, and decide.
    cluster.run("topic", "create", "meanwhile")
    print(f"full after {acknowledged} records: refused, read, and topics are created", flush=True)
    # Something else takes what was kept in reserve.
    ballast = directory / "ballast"
    # Unbuffered: what a buffer still holds would fail to be written when the file is closed.
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
    check(cluster, acknowledged)
    print("read without a byte of room", flush=True)
    # Started without a byte of room, not even for their own log lines, nodes wait for it.
    for node in cluster.nodes:
        cluster.kill(node["id"])
    started = [cluster.restart(node) for node in cluster.nodes]
    time.sleep(2)
    ended = [process.args for process in started if process.poll() is not None]
    if ended:
        fail(f"without a byte of room, nodes ended: {ended}")
    ballast.unlink()
    settled(cluster)
    check(cluster, acknowledged)
    print("waited for room after the start", flush=True)
    # The start recycled journal files, so there is a little room again.
    acknowledged = fill(cluster, acknowledged)
    restart_all(cluster)
    check(cluster, acknowledged)
    print(f"started on the full disk with {acknowledged} records", flush=True)
    # Deleting makes room, and everything goes on by itself.
    cluster.run("topic", "delete", TOPIC)
    deadline = time.monotonic() + 60
    while True:
        code, said = produce(cluster, "other", 0, 100, "5s")
        if code == 0:
            break
        if time.monotonic() > deadline:
            fail(f"there is room again, but: {said[-300:]}")
    if set(consume(cluster, "other")) != set(range(100)):
        fail("what was written after there was room is not read back")
    cluster.healthy()
    print("resumed after a topic was deleted", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ottla", default="target/release/ottla")
    arguments = parser.parse_args()
    ottla = str(Path(arguments.ottla).resolve())
    directory = Path(tempfile.mkdtemp(prefix="ottla-full-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs",
                              str(directory)], capture_output=True, text=True)
    if mounted.returncode != 0:
        directory.rmdir()
        print(f"SKIPPED: a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
        return
    try:
        cluster = Cluster(ottla, directory)
        try:
            story(cluster, directory)
        finally:
            cluster.stop()
    finally:
        subprocess.run(["umount", str(directory)], check=False)
        directory.rmdir()


if __name__ == "__main__":
    main()
