#!/usr/bin/env python3
"""Damaged files in a live cluster of real processes: bits flipped, files cut off, blocks zeroed, in
every kind of file that brokers and controllers keep. No damaged byte is served, the replica refills,
health returns, and `ottla log verify` is clean. With the only copy damaged the partition stays
offline.

    tests/damage.py [--ottla target/release/ottla] [--seed N] [STORY ...]"""

import argparse
import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

from harness import fail, running_cluster

TOPIC = "damage"
RECORDS = 30_000
# Long enough that every partition has several sealed segments.
VALUE = "v" * 300


def produce(cluster, topic, first, count):
    lines = "".join(f"k{n % 50}\t{n}-{VALUE}\n" for n in range(first, first + count))
    command = cluster.command("produce", topic, "-f", "%k\\t%v\\n")
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        fail(f"ottla produce ended with {done.returncode}: {done.stderr.strip()}")


def consume(cluster, topic, count, timeout="60s"):
    command = cluster.command("consume", topic, "--from-beginning", "--max-messages", str(count),
                              "--timeout", timeout, "-f", "%k\\t%v\\n")
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


def check_records(text):
    """The numbers of the records; fails at the first byte that nobody wrote."""
    seen = set()
    for line in text.splitlines():
        key, value = line.split("\t")
        number, _, rest = value.partition("-")
        if rest != VALUE or key != f"k{int(number) % 50}":
            fail(f"a record that nobody wrote: {line[:80]}")
        if int(number) in seen:
            fail(f"record {number} came twice")
        seen.add(int(number))
    return seen


def audit(cluster, count):
    done = consume(cluster, TOPIC, count)
    seen = check_records(done.stdout)
    if len(seen) != count:
        fail(f"{count - len(seen)} of {count} records are missing; {done.stderr.strip()}")


def files_of(node, suffix):
    """A broker's files of one kind that have bytes, in a fixed order."""
    root = Path(node["data_dir"])
    skipped = {"quarantine", "stray", "discarded", "damaged"}
    # Names first: what is not of the kind may go away meanwhile.
    files = [p for p in sorted(root.rglob("*")) if str(p).endswith(suffix)
             and not skipped & set(p.relative_to(root).parts)
             and p.is_file() and p.stat().st_size > 0]
    return files


def flip(path, random_of, within=None):
    size = within or path.stat().st_size
    at = random_of.randrange(size)
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << random_of.randrange(8))]))
    return f"bit flipped at {at} of {size}"


def cut(path, random_of, within=None):
    size = within or path.stat().st_size
    to = random_of.randrange(size)
    os.truncate(path, to)
    return f"cut off at {to} of {size}"


def zero(path, random_of, within=None):
    size = within or path.stat().st_size
    at = random_of.randrange(size)
    length = min(4096, size - at)
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(bytes(length))
    return f"{length} bytes zeroed at {at} of {size}"


def verify(cluster):
    """Every log of every broker as it lies on disk, after a clean stop."""
    for node in cluster.with_role("broker"):
        command = [cluster.ottla, "log", "verify", str(Path(node["data_dir"]))]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            fail(f"ottla log verify of node {node['id']}: {done.stdout}{done.stderr}")


KINDS = [".log", ".index", ".timeindex", "checkpoint", ".wal", "journal/id", "metadata-image"]


def at_rest(cluster, random_of):
    """A broker is killed, one of its files is damaged, and it starts again."""
    total = RECORDS
    # Damage to a sealed segment may go unread for a while. A second copy of the same partition
    # damaged meanwhile could leave no whole one, once a third broker loses its store.
    damaged_partitions = set()
    for node in cluster.with_role("broker"):
        # A clean stop writes a checkpoint and every index.
        cluster.stop_node(node["id"])
        cluster.restart(node)
        cluster.healthy()
    for kind in KINDS:
        for damage in (flip, cut, zero):
            # A node that lost its store has begun anew, and not every file is there again.
            nodes = [n for n in cluster.with_role("broker") if files_of(n, kind)]
            if not nodes:
                fail(f"no broker has a file like {kind}")
            node = random_of.choice(nodes)
            cluster.kill(node["id"])
            path = random_of.choice([p for p in files_of(node, kind)
                                     if p.parent.name not in damaged_partitions])
            if kind == ".log":
                damaged_partitions.add(path.parent.name)
            what = damage(path, random_of)
            print(f"at rest: node {node['id']}, {path.relative_to(node['data_dir'])}: {what}",
                  flush=True)
            cluster.restart(node)
            produce(cluster, TOPIC, total, 500)
            total += 500
            cluster.healthy()
            audit(cluster, total)


def while_running(cluster, random_of):
    """Sealed segments are damaged under running brokers. What nobody reads, or what is read from
    memory, the scrubber finds: the damaged copy is kept aside and the replica refilled."""
    for node in cluster.with_role("broker"):
        cluster.stop_node(node["id"])
        cluster.set_config(node, "scrub_interval_ms", 200)
        cluster.set_config(node, "scrub_bytes_per_second", 100_000_000)
        cluster.restart(node)
        cluster.healthy()
    for damage in (flip, cut, zero):
        node = random_of.choice(cluster.with_role("broker"))
        sealed = [p for p in files_of(node, ".log") if later_segment(p)]
        partitions = sorted({path.parent for path in sealed})
        # One of each: with a damaged file all files of its replica are kept aside.
        for partition in random_of.sample(partitions, min(3, len(partitions))):
            path = random_of.choice([p for p in sealed if p.parent == partition])
            inode = path.stat().st_ino
            what = damage(path, random_of)
            print(f"while running: node {node['id']}, {path.relative_to(node['data_dir'])}: {what}",
                  flush=True)
            wait_until_kept(node, path, inode)
        cluster.healthy()
        audit(cluster, RECORDS)


def wait_until_kept(node, path, inode):
    """Waits until the damaged file stands in the quarantine."""
    quarantine = Path(node["data_dir"]) / "broker" / "log" / "quarantine"
    deadline = time.monotonic() + 30
    while not any(p.stat().st_ino == inode for p in quarantine.rglob(path.name)):
        if time.monotonic() > deadline:
            fail(f"node {node['id']} did not find {path} damaged")
        time.sleep(0.05)


def later_segment(path):
    return any(p.name > path.name for p in path.parent.glob("*.log"))


def the_only_copy(cluster, random_of):
    """With the only copy damaged, the partition says so and stays offline."""
    cluster.run("topic", "create", "alone", "--partitions", "1", "--replication-factor", "1",
                "--config", "segment.bytes=65536")
    produce(cluster, "alone", 0, 2_000)
    leader = cluster.node(cluster.leading_broker("alone"))
    topic_id = json.loads(cluster.run("topic", "describe", "alone", "-o", "json"))[0]["topic_id"]
    # A clean stop writes everything to the segments.
    cluster.stop_node(leader["id"])
    path = [p for p in files_of(leader, ".log") if topic_id in str(p)][-1]
    os.truncate(path, path.stat().st_size // 2)
    cluster.restart(leader)
    deadline = time.monotonic() + 30
    while True:
        command = cluster.command("cluster", "health")
        health = subprocess.run(command, capture_output=True, text=True)
        if health.returncode == 3 and "alone-0" in health.stdout + health.stderr \
                and "damaged" in health.stdout + health.stderr:
            break
        if time.monotonic() > deadline:
            fail(f"health says of the only copy: {health.stdout}{health.stderr}")
        time.sleep(0.1)
    done = consume(cluster, "alone", 2_000, timeout="3s")
    if done.returncode == 0 or done.stdout:
        fail(f"something was served of the only copy: {done.stdout[:200]}")
    quarantine = list(Path(leader["data_dir"]).rglob("quarantine/*"))
    if not any(topic_id in str(p) for p in quarantine):
        fail(f"the damaged files were not kept: {quarantine}")
    # The way out that health names: the partition begins anew, without what was lost.
    cluster.run("topic", "alter", "alone", "--config", "unclean.leader.election.enable=true")
    cluster.healthy()
    produce(cluster, "alone", 0, 100)
    if len(check_records(consume(cluster, "alone", 100).stdout)) != 100:
        fail("the partition that began anew does not serve")
    print("the only copy: offline, and health says so")


# And how much of such a file holds something; a log's file is prepared far ahead.
CONTROLLER_KINDS = [("meta.json", None), ("00000000000000000001.wal", 2_000), ("history/db", None)]


def controllers(cluster, random_of):
    """A controller is killed, one of its files is damaged, and it starts again. What it cannot do
    without, it gets from the others."""
    total = RECORDS
    for kind, within in CONTROLLER_KINDS:
        for damage in (flip, cut, zero):
            nodes = [n for n in cluster.with_role("controller") if controller_files(n, kind)]
            if not nodes:
                fail(f"no controller has a file like {kind}")
            node = random_of.choice(nodes)
            cluster.kill(node["id"])
            path = random_of.choice(controller_files(node, kind))
            what = damage(path, random_of, within)
            print(f"controllers: node {node['id']}, {path.relative_to(node['data_dir'])}: {what}",
                  flush=True)
            cluster.restart(node)
            # The one that was damaged is needed for a majority, once it is back.
            cluster.takes_part(node)
            other = random_of.choice([n for n in cluster.with_role("controller") if n != node])
            cluster.kill(other["id"])
            cluster.run("topic", "create", f"after-{total}", "--partitions", "1")
            produce(cluster, TOPIC, total, 500)
            total += 500
            cluster.restart(other)
            cluster.healthy()
            audit(cluster, total)
            for kept in Path(node["data_dir"]).glob("controller-damaged-*"):
                shutil.rmtree(kept)


def controller_files(node, suffix):
    root = Path(node["data_dir"]) / "controller"
    return [p for p in sorted(root.rglob("*")) if str(p).endswith(suffix)
            and p.is_file() and p.stat().st_size > 0]


STORIES = [at_rest, while_running, the_only_copy, controllers]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ottla", default="target/release/ottla")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("stories", nargs="*", help=", ".join(s.__name__ for s in STORIES))
    arguments = parser.parse_args()
    for story in STORIES:
        if arguments.stories and story.__name__ not in arguments.stories:
            continue
        with running_cluster(arguments.ottla, "ottla-damage-") as cluster:
            cluster.run("topic", "create", TOPIC, "--partitions", "6", "--replication-factor", "3",
                        "--config", "segment.bytes=262144")
            produce(cluster, TOPIC, 0, RECORDS)
            story(cluster, random.Random(arguments.seed))
            cluster.stop()
            verify(cluster)


if __name__ == "__main__":
    main()
