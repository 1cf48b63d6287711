#!/usr/bin/env python3
"""Compaction, retention and trimming under load while brokers are killed: the last value of every
key survives, no offset ever changes its record, and nothing that was deleted comes back.

    tests/cleanup.py [--ottla target/release/ottla] [--rounds 5]"""

import argparse
import json
import re
import subprocess
import threading
import time
from pathlib import Path

from harness import fail, running_cluster

KEYS = 200
PARTITIONS = 3
# Small segments and short intervals, so that every round compacts, retains and trims.
COMPACTED = ["cleanup.policy=compact", "segment.bytes=16384", "min.cleanable.dirty.ratio=0.1"]
RETAINED = ["cleanup.policy=compact,delete", "segment.bytes=16384", "retention.bytes=262144",
            "min.cleanable.dirty.ratio=0.1"]
TRIMMED = ["segment.bytes=16384"]
INTERVALS = {"retention_check_interval_ms": 300, "compaction_check_interval_ms": 300}


class Writer:
    """Versions of keys, each larger than the one before, until told to stop."""

    all = []

    def __init__(self, cluster, topic):
        self.topic = topic
        command = cluster.command("produce", topic, "-f", "%k\\t%v\\n", "--linger", "2ms")
        self.producer = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE,
                                         text=True)
        self.sent = 0
        self.last = {}
        self.stopping = threading.Event()
        Writer.all.append(self)
        self.thread = threading.Thread(target=self.write)
        self.thread.start()

    def write(self):
        while not self.stopping.is_set():
            for _ in range(100):
                key = f"k{self.sent * self.sent % KEYS if self.sent % 2 else self.sent % KEYS}"
                self.producer.stdin.write(f"{key}\t{self.sent:0>60}\n")
                self.last[key] = self.sent
                self.sent += 1
            self.producer.stdin.flush()
            time.sleep(0.05)

    def stop(self):
        self.stopping.set()
        self.thread.join()
        self.producer.stdin.close()
        if self.producer.wait(timeout=180) != 0:
            fail(f"producing to {self.topic} ended with {self.producer.returncode}: "
                 f"{self.producer.stderr.read()}")


class Audit:
    """What was ever read of a topic; every further reading must agree with it."""

    def __init__(self, topic, writer):
        self.topic = topic
        self.writer = writer
        self.records = {}
        self.newest = {}
        self.starts = {}

    def read(self, cluster):
        command = cluster.command("consume", self.topic, "--from-beginning", "--until-end",
                                  "--timeout", "20s", "-o", "json")
        for _ in range(20):
            done = subprocess.run(command, capture_output=True, text=True, timeout=180)
            # Retention may overtake a reader that begins at the oldest record.
            if "is out of range" not in done.stderr:
                break
        if done.returncode != 0:
            fail(f"reading {self.topic} ended with {done.returncode}: {done.stderr.strip()}")
        found = {}
        for line in done.stdout.splitlines():
            record = json.loads(line)
            found[record["partition"], record["offset"]] = (record["key"], record["value"])
        return found

    def check(self, cluster, keeps_keys):
        found = self.read(cluster)
        for place, record in found.items():
            known = self.records.setdefault(place, record)
            if known != record:
                fail(f"{self.topic}: {place} was {known} and is {record} now")
        for (partition, offset), (key, _) in found.items():
            if offset < self.starts.get(partition, 0):
                fail(f"{self.topic}-{partition}: offset {offset} came back; the log had started at "
                     f"{self.starts[partition]}")
        newest = {}
        for (partition, offset), (key, value) in sorted(found.items()):
            newest[key] = (offset, int(value))
        if keeps_keys:
            for key, (offset, version) in self.newest.items():
                if key not in newest or newest[key] < (offset, version):
                    fail(f"{self.topic}: {key} had version {version} at {offset} and now has "
                         f"{newest.get(key)}")
        self.newest.update(newest)
        return found

    def started_at(self, partition, offset):
        self.starts[partition] = max(offset, self.starts.get(partition, 0))


def reconfigure(cluster):
    """Has the brokers look for work much more often than they would."""
    for node in cluster.with_role("broker"):
        path = Path(node["config"])
        text = path.read_text()
        for name, value in INTERVALS.items():
            text = re.sub(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
        path.write_text(text)
        cluster.kill(node["id"])
        cluster.restart(node)
    cluster.healthy()


def wait_for_load(writers, records):
    goals = [writer.sent + records for writer in writers]
    deadline = time.monotonic() + 60
    while any(writer.sent < goal for writer, goal in zip(writers, goals)):
        if time.monotonic() > deadline:
            fail(f"the writers stand at {[writer.sent for writer in writers]} records")
        time.sleep(0.01)


def starts(cluster, topic):
    """Where each partition's leader says that its log starts."""
    found = {}
    for node in cluster.with_role("broker"):
        described = json.loads(cluster.run("broker", "describe", str(node["id"]), "-o", "json"))
        for replica in described["replicas"]:
            if replica["topic"] == topic and replica["leader"]:
                found[replica["partition"]] = replica["log_start_offset"]
    return found


def trim(cluster, audit):
    """Drops half of what there is, while a broker may be down."""
    for partition in range(PARTITIONS):
        offsets = [offset for (p, offset) in audit.records if p == partition]
        if not offsets:
            continue
        start = audit.starts.get(partition, 0)
        before = start + (max(offsets) - start) // 2
        command = cluster.command("topic", "trim", audit.topic, "--partition", str(partition),
                                  "--before-offset", str(before), "--timeout", "20s", "-o", "json")
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            audit.started_at(partition, json.loads(done.stdout)[0]["low_watermark"])


def kill_some(cluster, number):
    """One broker, another, and now and then all of them at once."""
    brokers = cluster.with_role("broker")
    victims = brokers if number % 3 == 2 else [brokers[number % len(brokers)]]
    for node in victims:
        cluster.kill(node["id"])
    return victims


def run(cluster, rounds):
    reconfigure(cluster)
    for topic, settings in [("compacted", COMPACTED), ("retained", RETAINED), ("trimmed", TRIMMED)]:
        configs = [part for setting in settings for part in ("--config", setting)]
        cluster.run("topic", "create", topic, "--partitions", str(PARTITIONS),
                    "--replication-factor", "3", *configs)
    writers = {topic: Writer(cluster, topic) for topic in ["compacted", "retained", "trimmed"]}
    audits = {topic: Audit(topic, writer) for topic, writer in writers.items()}
    for number in range(rounds):
        wait_for_load(writers.values(), 2_000)
        for partition, start in starts(cluster, "retained").items():
            audits["retained"].started_at(partition, start)
        trimming = threading.Thread(target=trim, args=(cluster, audits["trimmed"]))
        trimming.start()
        time.sleep(0.05 * (number % 7))
        victims = kill_some(cluster, number)
        time.sleep(0.2 * (number % 3))
        for node in victims:
            cluster.restart(node)
        trimming.join()
        cluster.healthy()
        kept = audits["compacted"].check(cluster, keeps_keys=True)
        audits["retained"].check(cluster, keeps_keys=False)
        audits["trimmed"].check(cluster, keeps_keys=False)
        print(f"round {number + 1}: {len(victims)} brokers killed, {writers['compacted'].sent} "
              f"records sent, {len(kept)} kept by compaction", flush=True)
    for writer in writers.values():
        writer.stop()
    cluster.healthy()
    finish(cluster, writers, audits)


def finish(cluster, writers, audits):
    """All was acknowledged: of each key the last version that was sent must be there."""
    audit, writer = audits["compacted"], writers["compacted"]
    deadline = time.monotonic() + 120
    while True:
        kept = audit.check(cluster, keeps_keys=True)
        for key, version in writer.last.items():
            if audit.newest.get(key, (0, -1))[1] != version:
                fail(f"{key}: the last version sent is {version}, the last one kept is "
                     f"{audit.newest.get(key)}")
        # What may stay besides: the segments that are written to, and what is not worth a pass.
        if len(kept) < KEYS * 2 + PARTITIONS * 400 or len(kept) * 4 < writer.sent:
            break
        if time.monotonic() > deadline:
            fail(f"compaction keeps {len(kept)} of {writer.sent} records of {KEYS} keys")
        time.sleep(1)
    retained = audits["retained"].check(cluster, keeps_keys=False)
    if len(retained) >= writers["retained"].sent:
        fail("retention deleted nothing")
    if not audits["trimmed"].starts:
        fail("no trim succeeded")
    audits["trimmed"].check(cluster, keeps_keys=False)
    print(f"of {writer.sent} records compaction kept {len(kept)}, of {writers['retained'].sent} "
          f"retention {len(retained)}; trimmed up to {audits['trimmed'].starts}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ottla", default="target/release/ottla")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with running_cluster(arguments.ottla, "ottla-cleanup-") as cluster:
        try:
            run(cluster, arguments.rounds)
        finally:
            for writer in Writer.all:
                writer.stopping.set()


if __name__ == "__main__":
    main()
