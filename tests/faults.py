#!/usr/bin/env python3
"""Faults that a cluster of real processes must survive without losing an acknowledged record: all
nodes killed at once under load, two of three controllers gone, a broker's and a controller's disk
lost.

Before a cluster is waited for to be healthy, it must have said that it is not.

    tests/faults.py [--ottla target/release/ottla] [STORY ...]"""

import argparse
import json
import shutil
import subprocess
import threading
import time
from pathlib import Path

from harness import fail, find_partitions, is_running, running_cluster

TOPIC = "faults"
KEYS = 50

# How `ottla cluster health` ends when something is wrong, even if nobody answers.
UNHEALTHY = 3


class Writer:
    """Numbered records, produced one after the other until told to stop."""

    def __init__(self, cluster):
        command = cluster.command("produce", TOPIC, "-f", "%k\\t%v\\n", "--linger", "1ms")
        self.producer = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        self.sent = 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.write)
        self.thread.start()

    def write(self):
        while not self.stopping.is_set():
            for _ in range(100):
                self.producer.stdin.write(f"k{self.sent % KEYS}\t{self.sent}\n")
                self.sent += 1
            self.producer.stdin.flush()
            time.sleep(0.02)

    def stop(self):
        self.stopping.set()
        self.thread.join()
        self.producer.stdin.close()
        if self.producer.wait(timeout=180) != 0:
            fail(f"ottla produce ended with {self.producer.returncode}")
        return self.sent


def audit(cluster, sent):
    """Every record must be there once, in order per key."""
    command = cluster.command("consume", TOPIC, "--from-beginning", "--max-messages", str(sent),
                              "--timeout", "30s", "-f", "%k\\t%v\\n")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    last = {}
    seen = set()
    for line in done.stdout.splitlines():
        key, value = line.split("\t")
        number = int(value)
        if number in seen:
            fail(f"record {number} came twice")
        if number <= last.get(key, -1):
            fail(f"record {number} came after {last[key]} of the same key")
        seen.add(number)
        last[key] = number
    if len(seen) != sent:
        missing = next(number for number in range(sent) if number not in seen)
        fail(f"{sent - len(seen)} of {sent} records are missing, the first is {missing}; "
             f"{done.stderr.strip()}")


def noticed(cluster, within=15):
    """Waits until the cluster says that something is wrong. Being healthy again proves nothing
    before that."""
    began = time.monotonic()
    command = cluster.command("cluster", "health", "--timeout", "2s")
    while True:
        looked = subprocess.run(command, capture_output=True, text=True)
        if looked.returncode == UNHEALTHY:
            return time.monotonic() - began
        if looked.returncode != 0:
            fail(f"ottla cluster health ended with {looked.returncode}: {looked.stderr.strip()}")
        if time.monotonic() - began > within:
            fail(f"{within} s after the kill the cluster still counts as healthy")
        time.sleep(0.02)


def wait_for_load(writer, records):
    goal = writer.sent + records
    deadline = time.monotonic() + 60
    while writer.sent < goal:
        if time.monotonic() > deadline:
            fail(f"the writer stands at {writer.sent} records")
        time.sleep(0.01)


def all_nodes_killed(cluster):
    """All six processes at once under load, then started again."""
    writer = Writer(cluster)
    wait_for_load(writer, 3_000)
    for node in cluster.nodes:
        cluster.kill(node["id"])
    noticed(cluster)
    for node in cluster.nodes:
        cluster.restart(node)
    took = cluster.healthy(15)
    wait_for_load(writer, 1_000)
    sent = writer.stop()
    audit(cluster, sent)
    print(f"all nodes killed: healthy after {took:.1f} s, {sent} records audited")


def quorum_lost(cluster):
    """Two of three controllers gone: records flow, admin calls say why they cannot."""
    writer = Writer(cluster)
    gone = [cluster.kill(node["id"]) for node in cluster.with_role("controller")[:2]]
    wait_for_load(writer, 1_000)
    began = time.monotonic()
    command = cluster.command("topic", "create", "impossible", "--timeout", "3s")
    refused = subprocess.run(command, capture_output=True, text=True)
    took = time.monotonic() - began
    if refused.returncode == 0 or "no controller quorum" not in refused.stderr:
        fail(f"topic create without quorum ended with {refused.returncode}: {refused.stderr}")
    if took > 6:
        fail(f"topic create without quorum took {took:.1f} s")
    sent_before = writer.sent
    wait_for_load(writer, 1_000)
    noticed(cluster)
    for node in gone:
        cluster.restart(node)
    recovered = cluster.healthy(30)
    sent = writer.stop()
    audit(cluster, sent)
    print(f"quorum lost: refused after {took:.1f} s while {sent_before} records flowed, healthy "
          f"{recovered:.1f} s after it returned")


def controller_restarted(cluster):
    """A follower of the quorum comes back under the same leader and catches up, so that it and the
    leader are a majority when the third goes."""
    status = json.loads(cluster.run("quorum", "status", "--output", "json"))
    leader = status.get("leader", status.get("leader_id"))
    first, second = [n["id"] for n in cluster.with_role("controller") if n["id"] != leader]
    node = cluster.kill(first)
    cluster.run("topic", "create", "meanwhile")
    missed = noticed(cluster)
    cluster.restart(node)
    took = cluster.healthy(15)
    cluster.kill(second)
    deadline = time.monotonic() + 15
    while True:
        command = cluster.command("topic", "create", "afterwards", "--timeout", "2s")
        created = subprocess.run(command, capture_output=True, text=True)
        if created.returncode == 0 or "already exists" in created.stderr:
            break
        if time.monotonic() > deadline:
            fail(f"a majority of controllers runs, but: {created.stderr}")
    print(f"controller restarted: missed after {missed:.1f} s, healthy after {took:.1f} s, and part "
          "of the majority")


def broker_restarted_without_controllers(cluster):
    """With no controller at all, a broker that restarts serves from its own copy of the metadata:
    it follows again, so that writes to the others' partitions go on, and its records are read."""
    writer = Writer(cluster)
    wait_for_load(writer, 1_000)
    sent = writer.stop()
    # The copy on disk is at most a few seconds behind.
    time.sleep(3)
    gone = [cluster.kill(node["id"]) for node in cluster.with_role("controller")]
    broker = cluster.with_role("broker")[0]
    cluster.restart(cluster.kill(broker["id"]))
    audit(cluster, sent)
    described = json.loads(cluster.run("topic", "describe", TOPIC, "--output", "json"))
    elsewhere = [p for p in find_partitions(described)
                 if p.get("leader", p.get("leader_id")) != broker["id"]]
    command = cluster.command("produce", TOPIC, "--partition", str(elsewhere[0]["partition"]))
    done = subprocess.run(command, input="after\n", capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        fail(f"a write without controllers ended with {done.returncode}: {done.stderr}")
    noticed(cluster)
    for node in gone:
        cluster.restart(node)
    took = cluster.healthy(30)
    print(f"broker restarted without controllers: {sent} records audited, healthy {took:.1f} s after "
          "the controllers returned")


def broker_disk_lost(cluster):
    """A broker comes back with an empty directory: it is refilled, and nothing is lost."""
    writer = Writer(cluster)
    wait_for_load(writer, 2_000)
    node = cluster.kill(cluster.leading_broker(TOPIC))
    shutil.rmtree(node["data_dir"])
    missed = noticed(cluster)
    cluster.restart(node)
    took = cluster.healthy(60)
    sent = writer.stop()
    audit(cluster, sent)
    # What was refilled must serve: the other brokers go, one after the other.
    for other in cluster.with_role("broker"):
        if other["id"] != node["id"]:
            cluster.kill(other["id"])
            noticed(cluster)
            cluster.restart(other)
            cluster.healthy(60)
    audit(cluster, sent)
    print(f"broker disk lost: missed after {missed:.1f} s, refilled after {took:.1f} s, {sent} records audited")


def controller_disk_lost(cluster):
    """A controller comes back with an empty directory: it is refused as the voter that it was, and
    taken in as a new one."""
    writer = Writer(cluster)
    node = cluster.kill(cluster.with_role("controller")[0]["id"])
    shutil.rmtree(node["data_dir"])
    began = time.monotonic()
    cluster.restart(node)
    cluster.takes_part(node)
    took = time.monotonic() - began
    log = (cluster.data_dir / f"restarted-{node['id']}.log").read_text()
    if "refused under its old identity" not in log or "nothing has to be done" not in log:
        fail(f"the refused controller said: {log[-500:]}")
    wait_for_load(writer, 1_000)
    # Of the three, one is enough of a loss again.
    other = cluster.kill(cluster.with_role("controller")[1]["id"])
    cluster.run("topic", "create", "after", "--partitions", "3")
    cluster.restart(other)
    cluster.healthy(30)
    sent = writer.stop()
    audit(cluster, sent)
    print(f"controller disk lost: refused as what it was, a new voter after {took:.1f} s; "
          f"{sent} records audited")


def controllers_restored(cluster):
    """The controllers come back with an older copy of their directories. The brokers know another
    history than they do: each says so, ends, and follows them from its next start on, also one that
    was away until the controllers had decided more than it knows of; logs of topics that the
    controllers no longer know are kept aside."""
    cluster.run("topic", "create", "kept", "--partitions", "3", "--replication-factor", "3")
    produce_lines(cluster, "kept", 1_000)
    controllers = cluster.with_role("controller")
    for node in controllers:
        cluster.stop_node(node["id"])
    for node in controllers:
        shutil.copytree(node["data_dir"], f"{node['data_dir']}.copy")
        cluster.restart(node)
    cluster.healthy(30)
    for number in range(5):
        cluster.run("topic", "create", f"later-{number}", "--partitions", "3")
    produce_lines(cluster, "later-0", 100)
    *brokers, away = cluster.with_role("broker")
    # A broker keeps its copy of the metadata every two seconds; one that is older than that of the
    # controllers would be of the same past as theirs.
    image = Path(away["data_dir"]) / "broker" / "metadata-image"
    deadline = time.monotonic() + 30
    while b"later-4" not in image.read_bytes():
        if time.monotonic() > deadline:
            fail(f"{image} is not kept up to date")
        time.sleep(0.1)
    cluster.stop_node(away["id"])
    for node in controllers:
        cluster.kill(node["id"])
        shutil.rmtree(node["data_dir"])
        shutil.move(f"{node['data_dir']}.copy", node["data_dir"])
    for node in controllers:
        cluster.restart(node)
    come_back(cluster, brokers)
    # Another past, and longer than the one that the broker which is away knows.
    for number in range(20):
        cluster.run("topic", "create", f"other-{number}", "--replication-factor", "2")
    cluster.restart(away)
    come_back(cluster, [away])
    cluster.healthy(60)
    command = cluster.command("consume", "kept", "--from-beginning", "--max-messages", "1000",
                              "--timeout", "30s")
    kept = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    if len(set(kept)) != 1_000:
        fail(f"{len(set(kept))} of 1000 records are left")
    cluster.run("topic", "create", "later-0")
    strays = [list(Path(node["data_dir"]).glob("broker/log/stray/*")) for node in [*brokers, away]]
    if not all(strays):
        fail(f"the logs of topics that were forgotten are not kept: {strays}")
    print(f"controllers restored: the brokers followed, {sum(map(len, strays))} logs are kept aside")


def come_back(cluster, brokers):
    """Brokers end by themselves, because the controllers know another past than they do, and stay
    when they are started again."""
    # The first brokers are children of `ottla dev`; their ends show as zombies or as gone.
    deadline = time.monotonic() + 60
    while going_on := [node["id"] for node in brokers if is_running(node["pid"])]:
        if time.monotonic() > deadline:
            fail(f"brokers {going_on} go on with another past than the controllers'")
        time.sleep(0.1)
    for node in brokers:
        cluster.restart_broker(node)


def produce_lines(cluster, topic, count):
    lines = "".join(f"{n}\n" for n in range(count))
    done = subprocess.run(cluster.command("produce", topic), input=lines, capture_output=True,
                          text=True)
    if done.returncode != 0:
        fail(f"ottla produce ended with {done.returncode}: {done.stderr}")


STORIES = [all_nodes_killed, quorum_lost, controller_restarted,
           broker_restarted_without_controllers, broker_disk_lost, controller_disk_lost,
           controllers_restored]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ottla", default="target/release/ottla")
    parser.add_argument("stories", nargs="*", help=", ".join(s.__name__ for s in STORIES))
    arguments = parser.parse_args()
    for story in STORIES:
        if arguments.stories and story.__name__ not in arguments.stories:
            continue
        with running_cluster(arguments.ottla, "ottla-faults-") as cluster:
            cluster.run("topic", "create", TOPIC, "--partitions", "12", "--replication-factor", "3")
            story(cluster)


if __name__ == "__main__":
    main()
