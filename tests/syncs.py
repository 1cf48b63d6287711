#!/usr/bin/env python3
"""Synced, then acknowledged: watches the system calls of nodes and checks their order.

    tests/syncs.py [--ottla target/release/ottla] [STORY ...]

An answer that leaves before what it speaks of is on the disk loses nothing when a process is
killed, because the kernel has the bytes: only a power cut would tell, and no test cuts the power.
So this looks at the calls themselves, through strace, in the order in which they begin and return,
over all threads of a process. Every sync is delayed a little before it begins (strace can do
that), so that an answer that does not wait for one leaves well before it.

produce     One record at a time, acks=all, to the partitions of a topic with one replica in turn.
            Each record has words of its own, so the calls that carry it are known by their bytes:
            received from the client, written to the journal, and then the first answer that names
            the topic. Between that write's return and that answer's beginning, a sync of the
            journal must have begun and returned. The client sends the next record only after the
            answer, so no other answer can be taken for it.
together    Many producers at once, one for each partition: there must be far fewer syncs than
            appends, and syncs before which batches of several partitions were written. No write
            may be left without a sync that begins after it.
controllers Three controllers. Topics are created and the active controller is killed. Each entry
            that a follower receives, and each vote that it is asked for, must be in its Raft log,
            and a sync that began after that write must have returned, before the answer leaves:
            the one of the same number on the same stream of the connection.

The checks can fail, and were seen to: `produce` with a journal that reports its batches before
`wal.sync()` (log/src/store/journal.rs), and `controllers`, in both of its parts, with a log writer
that completes its waiters before `wal.sync()` (controller/src/quorum/log_writer.rs).

Where strace is missing or may not follow processes, this says so and ends well."""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import strace
from harness import fail

DELAY_US = 20_000
JOURNAL = "/broker/log/journal/"
RAFT_LOG = "/controller/log/"
VOTE = b"\x02"
TOPIC = "acknowledged"
PARTITIONS = 4


class Node:
    """A node under strace."""

    def __init__(self, ottla, directory, node_id, ports, controllers, roles):
        self.directory = directory / f"node-{node_id}"
        self.directory.mkdir()
        self.client, self.internal = ports
        self.node_id = node_id
        self.output = self.directory / "calls"
        names = ", ".join(f'"{role}"' for role in roles)
        text = (f"[node]\nid = {node_id}\nroles = [{names}]\n"
                f"data_dir = \"{self.directory}/data\"\n"
                f"[listen]\nclient = \"127.0.0.1:{self.client}\"\n"
                f"internal = \"127.0.0.1:{self.internal}\"\n")
        for other, port in controllers:
            text += f"[[controllers]]\nid = {other}\naddress = \"127.0.0.1:{port}\"\n"
        config = self.directory / "node.toml"
        config.write_text(text)
        command = strace.under_strace(
            self.output, [ottla, "server", "--config", str(config)], DELAY_US)
        log = open(self.directory / "log", "w")
        self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self):
        """kill -9 of what strace follows; strace then ends by itself."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in children.read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        strace.wait_for_output(self.process, self.output)

    def calls(self):
        return strace.calls(self.output)


class Cluster:
    def __init__(self, ottla, directory, count, roles_of):
        self.ottla = ottla
        ports = free_ports(2 * count)
        pairs = list(zip(ports[::2], ports[1::2]))
        controllers = [(i, pairs[i][1]) for i in range(count) if "controller" in roles_of(i)]
        self.nodes = [Node(ottla, directory, i, pairs[i], controllers, roles_of(i))
                      for i in range(count)]
        brokers = [f"127.0.0.1:{n.client}" for n in self.nodes if "broker" in roles_of(n.node_id)]
        self.bootstrap = ",".join(brokers)

    def command(self, *arguments):
        return [self.ottla, *arguments, "--bootstrap", self.bootstrap]

    def run(self, *arguments, **options):
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True,
                              timeout=60, **options)
        if done.returncode != 0:
            fail(f"ottla {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def stop(self):
        for node in self.nodes:
            if node.process.poll() is None:
                node.kill()


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def first(calls, wanted, after=-1):
    """The first call that begins after a place and is wanted."""
    return next((call for call in calls if call.began > after and wanted(call)), None)


def is_synced_between(calls, folder, write, until):
    """Whether a sync of the written file began after the write and returned by a place."""
    return any(call.is_sync() and call.file == write.file and call.began > write.returned
               and call.returned is not None and call.returned < until
               for call in calls if folder in call.file)


def alone(ottla, directory):
    cluster = Cluster(ottla, directory, 1, lambda _: ["controller", "broker"])
    cluster.run("cluster", "health", "-w", "-e", "--timeout", "60s")
    cluster.run("topic", "create", TOPIC, "--partitions", str(PARTITIONS),
                "--replication-factor", "1")
    return cluster


def produce(ottla, directory):
    cluster = alone(ottla, directory)
    words = [f"record number {number:03} of the story" for number in range(16)]
    try:
        for number, word in enumerate(words):
            cluster.run("produce", TOPIC, "--partition", str(number % PARTITIONS), "--linger",
                        "0ms", input=word + "\n")
    finally:
        cluster.stop()
    node = cluster.nodes[0]
    calls = node.calls()
    for word in words:
        check_acknowledgement(calls, node.client, word)
    print(f"produce: {len(words)} records were on the disk before their acknowledgements left")


def check_acknowledgement(calls, port, word):
    value, topic = word.encode(), TOPIC.encode()
    received = first(calls, lambda c: c.is_receive() and c.is_at_port(port) and value in c.data)
    if not received:
        fail(f"'{word}' was not seen to be received")
    answer = first(calls, lambda c: c.is_send() and c.is_at_port(port) and topic in c.data,
                   after=received.returned)
    if not answer:
        fail(f"'{word}' was not seen to be acknowledged")
    written = first(calls, lambda c: c.is_write_to(JOURNAL) and value in c.data)
    if not written or written.returned is None or written.returned > answer.began:
        fail(f"'{word}' was acknowledged before it was written to the journal")
    if not is_synced_between(calls, JOURNAL, written, answer.began):
        fail(f"'{word}' was acknowledged before a sync of the journal that began after its write "
             "had returned")


def together(ottla, directory):
    records = 60
    cluster = alone(ottla, directory)
    try:
        producers = []
        for partition in range(PARTITIONS):
            command = cluster.command("produce", TOPIC, "--partition", str(partition),
                                      "--linger", "0ms", "--batch-bytes", "1")
            producers.append(subprocess.Popen(command, stdin=subprocess.PIPE, text=True))
        for partition, producer in enumerate(producers):
            producer.stdin.writelines(f"together-{partition}-{n:04}\n" for n in range(records))
            producer.stdin.close()
        for producer in producers:
            if producer.wait(timeout=120) != 0:
                fail(f"ottla produce ended with {producer.returncode}")
    finally:
        cluster.stop()
    calls = cluster.nodes[0].calls()
    writes = [c for c in calls if c.is_write_to(JOURNAL) and b"together-" in c.data]
    syncs = [c for c in calls if c.is_sync() and JOURNAL in c.file and c.returned is not None
             and c.began > writes[0].began]
    unsynced = [w for w in writes if not any(s.began > w.returned for s in syncs)]
    if unsynced:
        fail(f"{len(unsynced)} writes of the journal were never synced")
    most, served = 0, 0
    for sync in syncs:
        data = b"".join(w.data for w in writes if served <= w.began and w.returned < sync.began)
        served = sync.began
        most = max(most, sum(f"together-{p}-".encode() in data for p in range(PARTITIONS)))
    appends = PARTITIONS * records
    if most < 2:
        fail("no sync served batches of more than one partition")
    if len(syncs) * 2 > appends:
        fail(f"{len(syncs)} syncs for {appends} records are not shared")
    print(f"together: {len(syncs)} syncs served {appends} records, up to {most} partitions at once")


def controllers(ottla, directory):
    roles = lambda node_id: ["broker"] if node_id == 3 else ["controller"]
    cluster = Cluster(ottla, directory, 4, roles)
    nodes = cluster.nodes[:3]
    try:
        cluster.run("cluster", "health", "-w", "-e", "--timeout", "60s")
        names = [f"created-for-the-story-{number}" for number in range(4)]
        for name in names:
            cluster.run("topic", "create", name, "--partitions", "1", "--replication-factor", "1")
        status = json.loads(cluster.run("quorum", "status", "--output", "json"))
        leader = status.get("leader", status.get("leader_id"))
        followers = [node for node in nodes if node.node_id != leader]
        ends = {node.node_id: node.output.stat().st_size for node in followers}
        nodes[leader].kill()
        wait_for_votes(followers, ends)
    finally:
        cluster.stop()
    answers = sum(check_entries(node, names) for node in followers)
    if answers < len(names):
        fail(f"only {answers} answers to entries were seen")
    votes = sum(check_votes(node) for node in followers)
    if votes == 0:
        fail("nobody was seen to vote")
    print(f"controllers: {answers} entries and {votes} votes were on the disk before they were "
          "answered")


def wait_for_votes(followers, ends):
    """Waits until the followers have written to their Raft logs since, and gone on a while."""
    deadline = time.monotonic() + 30
    for node in followers:
        while True:
            text = node.output.read_bytes()[ends[node.node_id]:].decode(errors="replace")
            if text.count("pwritev") >= 2:
                break
            if time.monotonic() > deadline:
                fail("no election was seen")
            time.sleep(0.2)
    time.sleep(1)


def received_by(calls, node):
    """The messages that other nodes sent to this one."""
    files = {c.file for c in calls if c.is_receive() and c.is_at_port(node.internal)}
    return [m for file in files for m in strace.messages(calls, file, strace.Call.is_receive)]


def check_answer(calls, node, message, written, what):
    """Whether a message was answered; if so, only once what it made the node write was synced."""
    answer = strace.answer_to(calls, message)
    if not answer:
        return False
    if not written or written.returned is None or written.returned > answer.call.began:
        fail(f"controller {node.node_id} answered {what} before it was written")
    if not is_synced_between(calls, RAFT_LOG, written, answer.call.began):
        fail(f"controller {node.node_id} answered {what} before it was synced")
    return True


def check_entries(node, names):
    """How many entries a follower answered."""
    calls, answered = node.calls(), 0
    received = received_by(calls, node)
    for name in names:
        word = name.encode()
        written = first(calls, lambda c: c.is_write_to(RAFT_LOG) and word in c.data)
        if not written:
            continue
        # With what follows the name in the entry, and not in the request that asked for it.
        at = written.data.index(word)
        entry = written.data[at:at + len(word) + 24]
        for message in (m for m in received if entry in m.data):
            answered += check_answer(calls, node, message, written, f"the entry of '{name}'")
    return answered


def check_votes(node):
    """How many votes a controller gave to others, after the founding too."""
    calls, answered = node.calls(), 0
    for message in received_by(calls, node):
        # A vote begins with its term, whom it is for, and that it is not yet won; and so does what
        # the log keeps of it, behind a mark of its kind.
        vote = message.field(15)[:4]
        if len(vote) < 4 or vote[1] != 1 or vote[3] != 0:
            continue
        written = first(calls, lambda c: c.is_write_to(RAFT_LOG) and VOTE + vote in c.data)
        if written:
            answered += check_answer(calls, node, message, written, "a vote")
    return answered


STORIES = [produce, together, controllers]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ottla", default="target/release/ottla")
    parser.add_argument("stories", nargs="*", help=", ".join(s.__name__ for s in STORIES))
    arguments = parser.parse_args()
    reason = strace.is_available()
    if reason:
        print(f"SKIPPED: the order of system calls cannot be watched here: {reason}")
        return
    ottla = str(Path(arguments.ottla).resolve())
    for story in STORIES:
        if arguments.stories and story.__name__ not in arguments.stories:
            continue
        # Kept after a failure: the calls tell what happened.
        directory = Path(tempfile.mkdtemp(prefix="ottla-syncs-"))
        try:
            story(ottla, directory)
        except BaseException:
            print(f"the calls are kept: {directory}")
            raise
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
