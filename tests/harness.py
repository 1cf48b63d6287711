"""What the stories over real processes share: a cluster on this machine whose nodes can be killed."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def fail(message):
    print(f"FAILED: {message}", file=sys.stderr)
    sys.exit(1)


@contextlib.contextmanager
def running_cluster(ottla, prefix):
    """A cluster in a directory of its own. That is kept after a failure: the nodes' logs tell what
    happened."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    cluster = Cluster(str(Path(ottla).resolve()), directory)
    try:
        yield cluster
    except BaseException:
        print(f"the cluster's directory is kept: {directory}")
        raise
    finally:
        cluster.stop()
    shutil.rmtree(directory)


class Cluster:
    """Three controllers and three brokers, each a process of its own."""

    def __init__(self, ottla, data_dir):
        self.ottla = ottla
        self.data_dir = data_dir
        self.restarted = []
        command = [ottla, "dev", "--processes", "--controllers", "3", "--brokers", "3",
                   "--data-dir", str(data_dir)]
        self.dev = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        # The table of nodes is printed once the cluster is healthy.
        if not self.dev.stdout.readline():
            fail(f"ottla dev ended with {self.dev.wait()}")
        self.nodes = json.loads((data_dir / "cluster.json").read_text())["nodes"]
        self.bootstrap = ",".join(n["client"] for n in self.with_role("broker"))

    def command(self, *arguments):
        return [self.ottla, *arguments, "--bootstrap", self.bootstrap]

    def run(self, *arguments):
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True)
        if done.returncode != 0:
            said = (done.stderr.strip() + "\n" + done.stdout[-3000:]).strip()
            fail(f"ottla {' '.join(arguments)} ended with {done.returncode}: {said}")
        return done.stdout

    def healthy(self, within=60):
        """Waits until the cluster is healthy; how long that took, in seconds."""
        began = time.monotonic()
        command = self.command("cluster", "health", "-w", "-e", "--timeout", f"{within}s")
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            topics = self.run("topic", "describe", *self.topics())
            fail(f"after {within} s: {done.stderr.strip()}\n{done.stdout[-2000:]}\n{topics}")
        return time.monotonic() - began

    def takes_part(self, node, within=60):
        """Waits until a controller that was just started votes, with the directory that it has, and
        has answered the active one since."""
        began = time.monotonic()
        identity = Path(node["data_dir"]) / "controller" / "meta.json"
        while True:
            # It ends with 3 while nobody leads, and says what is known all the same.
            status = subprocess.run(self.command("quorum", "status", "-o", "json"),
                                    capture_output=True, text=True)
            quorum = json.loads(status.stdout or '{"voters": []}')
            try:
                directory = json.loads(identity.read_text())["directory_id"]
            except (OSError, ValueError, KeyError):
                directory = None
            since = (time.monotonic() - began) * 1000
            for voter in quorum["voters"]:
                silence = voter["last_contact_ms"]
                if voter["directory_id"] == directory and silence is not None and silence < since:
                    return
            if since > within * 1000:
                fail(f"controller {node['id']} with {directory} does not vote: {quorum}")
            time.sleep(0.1)

    def restart_broker(self, node, within=60):
        """Starts a broker that has ended, and waits until it serves under a new epoch."""
        identity = Path(node["data_dir"]) / "broker" / "identity.json"

        def epoch():
            return json.loads(identity.read_text())["last_broker_epoch"]

        before = epoch()
        process = self.restart(node)
        deadline = time.monotonic() + within
        while True:
            listed = subprocess.run(self.command("broker", "list", "-o", "json"),
                                    capture_output=True, text=True)
            known = next((b for b in json.loads(listed.stdout or "[]") if b["id"] == node["id"]), None)
            if known and known["state"] == "active" and before != epoch() == known["epoch"]:
                return
            if process.poll() is not None or time.monotonic() > deadline:
                fail(f"broker {node['id']} does not serve under a new epoch: {known}")
            time.sleep(0.1)

    def topics(self):
        return [topic["name"] for topic in json.loads(self.run("topic", "list", "-o", "json"))]

    def set_config(self, node, key, value):
        """Changes a setting of a node, for its next start."""
        config = Path(node["config"])
        text, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", config.read_text())
        if count != 1:
            fail(f"{config} has {key} {count} times")
        config.write_text(text)

    def leading_broker(self, topic):
        """The broker that leads most partitions of a topic."""
        described = json.loads(self.run("topic", "describe", topic, "--output", "json"))
        text = json.dumps(described)
        leaders = [p.get("leader", p.get("leader_id")) for p in find_partitions(described)]
        leaders = [leader for leader in leaders if leader is not None]
        if not leaders:
            fail(f"no partition of the topic has a leader: {text[:300]}")
        return max(set(leaders), key=leaders.count)

    def node(self, node_id):
        return next(n for n in self.nodes if n["id"] == node_id)

    def with_role(self, role):
        return [n for n in self.nodes if role in n["roles"]]

    def kill(self, node_id):
        """kill -9, and wait until the process is gone."""
        node = self.node(node_id)
        os.kill(node["pid"], signal.SIGKILL)
        own = next((p for p in self.restarted if p.pid == node["pid"]), None)
        if own:
            own.wait(timeout=10)
        deadline = time.monotonic() + 10
        while is_running(node["pid"]) and time.monotonic() < deadline:
            time.sleep(0.01)
        return node

    def stop_node(self, node_id):
        """Stops a node cleanly, and waits until its process is gone."""
        pid = self.node(node_id)["pid"]
        os.kill(pid, signal.SIGTERM)
        own = next((p for p in self.restarted if p.pid == pid), None)
        if own:
            own.wait(timeout=30)
        deadline = time.monotonic() + 30
        while is_running(pid):
            if time.monotonic() > deadline:
                fail(f"node {node_id} did not stop")
            time.sleep(0.01)

    def restart(self, node):
        """Starts a killed node again; gives its process."""
        log = open(self.data_dir / f"restarted-{node['id']}.log", "a")
        command = [self.ottla, "server", "--config", node["config"]]
        process = subprocess.Popen(command, stderr=log)
        node["pid"] = process.pid
        self.restarted.append(process)
        return process

    def stop(self):
        """Stops everything cleanly. `ottla dev` stops the nodes that were restarted too; a second
        signal would cut their way down short."""
        for process in [self.dev, *self.restarted]:
            if process is self.dev and process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def is_running(pid):
    """Whether a process exists and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def find_partitions(described):
    """The list of partitions, wherever the description has it."""
    if isinstance(described, dict):
        if isinstance(described.get("partitions"), list):
            return described["partitions"]
        for value in described.values():
            found = find_partitions(value)
            if found:
                return found
    if isinstance(described, list):
        for value in described:
            found = find_partitions(value)
            if found:
                return found
    return []
