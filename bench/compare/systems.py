"""The systems compared: each is three nodes on this machine, a process each, on loopback ports of
their own. All answer to the same calls, and every load's result has the same fields."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import machine

NODES = 3
READY = 120
SMALL_BATCH = 128 * 1024
LINGER_MS = 5
# Seconds for which a record may wait: a system that is slow is to be slow here, not to fail.
PATIENCE = 120
# How a load ends of which some records failed: what it measured of the others counts.
SOME_FAILED = 3


def wait_until(what, condition, seconds=READY, step=0.005):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds} s")
        time.sleep(step)


class Node:
    """A process and where it keeps everything."""

    def __init__(self, number, folder):
        self.number = number
        self.folder = folder
        self.log = folder / "node.log"
        self.process = None

    @property
    def pid(self):
        return self.process.pid

    def is_running(self):
        return self.process is not None and self.process.poll() is None


class System:
    """What is the same for every system."""

    name = None
    label = None
    preexec = None
    # How long a load runs before anything is measured, for what warms up: files, caches.
    warm_seconds = 10

    def __init__(self, folder, base_port, nodes=NODES):
        self.folder = folder / self.name
        self.base_port = base_port
        shutil.rmtree(self.folder, ignore_errors=True)
        self.ports = [(base_port + 2 * n, base_port + 2 * n + 1) for n in range(nodes)]
        self.nodes = [Node(n + 1, self.folder / f"node-{n + 1}") for n in range(nodes)]
        for node in self.nodes:
            node.folder.mkdir(parents=True)
            self.configure(node)

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        for node in self.nodes:
            self.spawn(node)
        wait_until(f"{self.name} serves", self.is_ready, step=0.1)

    def spawn(self, node):
        """Starts a node; gives where its log began."""
        began = node.log.stat().st_size if node.log.exists() else 0
        with open(node.log, "a") as log:
            node.process = subprocess.Popen(
                self.command(node), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=node.folder, preexec_fn=type(self).preexec, env=self.environment())
        return began

    def environment(self):
        return dict(os.environ)

    def serves_since(self, node, began):
        """Whether the node has said, since that place of its log, that it serves."""
        if not node.is_running():
            raise RuntimeError(f"{self.name} node {node.number} ended; see {node.log}")
        with open(node.log, "rb") as log:
            log.seek(began)
            return self.serving in log.read()

    def seconds_to_serving(self, node):
        """Starts a node that is down; gives how long it takes to serve."""
        before = time.monotonic()
        began = self.spawn(node)
        wait_until(f"node {node.number} serves", lambda: self.serves_since(node, began), step=0.002)
        return time.monotonic() - before

    def kill(self, node):
        """kill -9."""
        os.kill(node.pid, signal.SIGKILL)
        node.process.wait()

    def stop(self):
        running = [node for node in self.nodes if node.is_running()]
        for node in running:
            node.process.send_signal(signal.SIGTERM)
        for node in running:
            try:
                node.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                node.process.kill()
                node.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def cpu_seconds(self):
        return sum(machine.cpu_seconds(node.pid) for node in self.nodes)

    def resident_mib(self):
        """The largest of the nodes."""
        return max(machine.resident_mib(node.pid) for node in self.nodes)

    def call(self, *command, timeout=600, success=(0,)):
        command = [str(part) for part in command]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout,
                              cwd=self.folder, env=self.environment())
        if done.returncode not in success:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-5:]
            raise RuntimeError(f"{os.path.basename(command[0])} ended with {done.returncode}: "
                               f"{' / '.join(said)[-600:]}")
        return done.stdout

    def load_for_restart(self, topic, seconds):
        """A modest load that goes on while a node is down."""
        return self.latency(topic, 1024, 5_000, seconds, 0)

    def measured(self, result_of):
        """A load's result with the processor seconds that the servers spent on it, until a second
        after its end, so that what they put off counts, too."""
        processes = [node.pid for node in self.nodes]
        before = self.cpu_seconds()
        result = result_of()
        time.sleep(1)
        # A node that was killed meanwhile took what it had spent with it.
        if processes == [node.pid for node in self.nodes]:
            result["server_cpu_seconds"] = self.cpu_seconds() - before
            result["resident_mib"] = self.resident_mib()
        return result


class Ottla(System):
    name = "ottla"
    label = "Ottla"
    serving = b"registration: registered"
    # Under the most metadata records that one request may take.
    AT_ONCE = 5_000

    def __init__(self, folder, base_port, tools, nodes=NODES):
        self.program = tools["ottla"]
        super().__init__(folder, base_port, nodes)
        self.bootstrap = ",".join(f"127.0.0.1:{client}" for client, _ in self.ports)

    def configure(self, node):
        client, internal = self.ports[node.number - 1]
        voters = "".join(f'[[controllers]]\nid = {n + 1}\naddress = "127.0.0.1:{port}"\n'
                         for n, (_, port) in enumerate(self.ports))
        (node.folder / "ottla.toml").write_text(
            f'[node]\nid = {node.number}\ndata_dir = "{node.folder}/data"\n'
            f'[listen]\nclient = "127.0.0.1:{client}"\ninternal = "127.0.0.1:{internal}"\n{voters}')

    def command(self, node):
        return [self.program, "server", "--config", str(node.folder / "ottla.toml")]

    def is_ready(self):
        if not all(self.serves_since(node, 0) for node in self.nodes):
            return False
        try:
            self.call(self.program, "cluster", "health", "--bootstrap", self.bootstrap,
                      "--timeout", "2s")
            return True
        except RuntimeError:
            return False

    def create_topic(self, topic, partitions, **configs):
        replicas = min(3, len(self.nodes))
        options = [f"--config={key}={value}" for key, value in configs.items()]
        first = min(partitions, self.AT_ONCE)
        self.call(self.program, "topic", "create", topic, "--partitions", first,
                  "--replication-factor", replicas,
                  f"--config=min.insync.replicas={min(2, replicas)}", *options,
                  "--bootstrap", self.bootstrap, "--timeout", "300s")
        for count in range(first, partitions, self.AT_ONCE):
            self.call(self.program, "topic", "alter", topic, "--partitions",
                      min(partitions, count + self.AT_ONCE), "--bootstrap", self.bootstrap,
                      "--timeout", "300s")

    def delete_topic(self, topic):
        self.call(self.program, "topic", "delete", topic, "--bootstrap", self.bootstrap)

    def bench(self, bench, topic, *options):
        out = self.call(self.program, "bench", bench, topic, "--bootstrap", self.bootstrap,
                        "-o", "json", "--timeout", f"{PATIENCE}s", *options)
        return json.loads(out)

    @staticmethod
    def limits(duration, warmup, records, rate):
        options = []
        if duration is not None:
            options += ["--duration", f"{int(duration * 1e3)}ms"]
        if records is not None:
            options += ["--records", str(records)]
        if rate is not None:
            options += ["--rate", str(int(rate))]
        return options + ["--warmup", f"{int(warmup * 1e3)}ms"]

    def set_config(self, topic, **configs):
        self.call(self.program, "topic", "alter", topic, "--bootstrap", self.bootstrap,
                  *[f"--config={key}={value}" for key, value in configs.items()])

    def compacted_partitions(self):
        """How many replicas were compacted so far, on all nodes."""
        return sum(node.log.read_bytes().count(b" compacted ") for node in self.nodes)

    def produce(self, topic, record_bytes, duration=None, records=None, warmup=0, rate=None,
                batch_bytes=SMALL_BATCH, keys=None):
        options = self.limits(duration, warmup, records, rate)
        if keys is not None:
            options += ["--keys", str(keys)]
        return self.measured(lambda: self.bench(
            "produce", topic, "--record-size", record_bytes, "--batch-bytes", batch_bytes,
            "--linger", f"{LINGER_MS}ms", *options))

    def latency(self, topic, record_bytes, rate, duration, warmup, batch_bytes=SMALL_BATCH):
        options = self.limits(duration, warmup, None, rate)
        return self.measured(lambda: self.bench(
            "latency", topic, "--record-size", record_bytes, "--batch-bytes", batch_bytes,
            "--linger", f"{LINGER_MS}ms", *options))

    def consume(self, topic, consumers=1):
        return self.measured(lambda: self.bench("consume", topic, "--consumers", consumers))


class OttlaUnsynced(Ottla):
    """The same program, whose syncs succeed without being done."""

    name = "ottla-unsynced"
    label = "Ottla, syncs left out"
    preexec = staticmethod(machine.without_sync)


class Kafka(System):
    name = "kafka"
    label = "Kafka"
    serving = b"Kafka Server started"
    # A JVM compiles what it runs often, and is much slower until it has.
    warm_seconds = 30
    # What Kafka's own start script gives the JVM.
    jvm = ["-Xmx1G", "-Xms1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
           "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent",
           "-XX:MaxInlineLevel=15", "-Djava.awt.headless=true"]
    log_config = """<Configuration status="warn"><Appenders><Console name="out">
<PatternLayout pattern="[%d] %p %m (%c)%n"/></Console></Appenders>
<Loggers><Root level="info"><AppenderRef ref="out"/></Root></Loggers></Configuration>"""

    def __init__(self, folder, base_port, tools, nodes=NODES):
        self.class_path = tools["kafka"]
        super().__init__(folder, base_port, nodes)
        self.bootstrap = ",".join(f"127.0.0.1:{client}" for client, _ in self.ports)

    def java(self, main, *arguments, options=()):
        return ["java", *options, "-Duser.language=en", "-cp", self.class_path, main,
                *[str(argument) for argument in arguments]]

    def configure(self, node):
        client, controller = self.ports[node.number - 1]
        voters = ",".join(f"{n + 1}@127.0.0.1:{port}" for n, (_, port) in enumerate(self.ports))
        settings = {
            "process.roles": "broker,controller", "node.id": node.number,
            "controller.quorum.voters": voters, "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": node.folder / "data", "min.insync.replicas": min(2, len(self.ports)),
        }
        path = node.folder / "server.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        (self.folder / "log.xml").write_text(self.log_config)
        # Any 16 bytes in URL-safe base64 are a cluster's id.
        self.call(*self.java("kafka.tools.StorageTool", "format", "-t", "Y29tcGFyZS1iZW5jaG1hcg",
                             "-c", path))

    def command(self, node):
        options = [*self.jvm, f"-Dlog4j2.configurationFile={self.folder / 'log.xml'}"]
        return self.java("kafka.Kafka", node.folder / "server.properties", options=options)

    def is_ready(self):
        return all(self.serves_since(node, 0) for node in self.nodes)

    def create_topic(self, topic, partitions, **configs):
        options = [part for key, value in configs.items()
                   for part in ("--config", f"{key}={value}")]
        self.call(*self.java("org.apache.kafka.tools.TopicCommand", "--bootstrap-server",
                             self.bootstrap, "--create", "--topic", topic, "--partitions",
                             partitions, "--replication-factor", min(3, len(self.nodes)), *options))

    def delete_topic(self, topic):
        self.call(*self.java("org.apache.kafka.tools.TopicCommand", "--bootstrap-server",
                             self.bootstrap, "--delete", "--topic", topic))

    def load(self, bench, topic, **options):
        pairs = [f"{key.replace('_', '-')}={value}" for key, value in options.items()
                 if value is not None]
        client = {"bootstrap.servers": self.bootstrap, "acks": "all", "linger.ms": LINGER_MS,
                  "delivery.timeout.ms": PATIENCE * 1_000}
        if "batch_bytes" in options:
            client["batch.size"] = options["batch_bytes"]
        pairs += [f"client.{key}={value}" for key, value in client.items()]
        out = self.call(*self.java("KafkaLoad", bench, f"topic={topic}", *pairs),
                        success=(0, SOME_FAILED))
        return json.loads(out.splitlines()[-1])

    def produce(self, topic, record_bytes, duration=None, records=None, warmup=0, rate=None,
                batch_bytes=SMALL_BATCH):
        return self.measured(lambda: self.load(
            "produce", topic, record_bytes=record_bytes, duration=duration, records=records,
            warmup=warmup, rate=rate, batch_bytes=batch_bytes))

    def latency(self, topic, record_bytes, rate, duration, warmup, batch_bytes=SMALL_BATCH):
        return self.measured(lambda: self.load(
            "latency", topic, record_bytes=record_bytes, rate=rate, duration=duration,
            warmup=warmup, batch_bytes=batch_bytes))

    def consume(self, topic, consumers=1):
        return self.measured(lambda: self.load("consume", topic, consumers=consumers))

    def own_produce(self, topic, record_bytes, records, batch_bytes=SMALL_BATCH):
        """kafka-producer-perf-test; in the fields of the other results."""
        def run():
            out = self.call(*self.java(
                "org.apache.kafka.tools.ProducerPerformance", "--bootstrap-server",
                self.bootstrap, "--topic", topic, "--num-records", records, "--record-size",
                record_bytes, "--throughput", "-1", "--command-property", "acks=all",
                f"linger.ms={LINGER_MS}", f"batch.size={batch_bytes}"))
            rate = float(re.findall(r"([\d.]+) records/sec", out)[-1])
            return {"sent": records, "acknowledged": {
                "records": records, "records_per_second": rate,
                "mb_per_second": rate * record_bytes / 1e6, "latency": None}}
        return self.measured(run)

    def own_consume(self, topic, records):
        """kafka-consumer-perf-test; the rate is the one while fetching."""
        def run():
            out = self.call(*self.java(
                "org.apache.kafka.tools.ConsumerPerformance", "--bootstrap-server", self.bootstrap,
                "--topic", topic, "--num-records", records, "--timeout", 60_000))
            fields = out.strip().splitlines()[-1].split(",")
            mebibytes, fetching = float(fields[2]), float(fields[8])
            return {"consumed": {"records": int(fields[4]), "bytes": mebibytes * 2**20,
                                 "mb_per_second": fetching * 2**20 / 1e6}}
        return self.measured(run)


class KafkaSynced(Kafka):
    """Kafka that syncs each batch before it acknowledges, by a setting of the topic."""

    name = "kafka-synced"
    label = "Kafka, flush.messages=1"

    def create_topic(self, topic, partitions, **configs):
        super().create_topic(topic, partitions, **{"flush.messages": 1, **configs})


class Nats(System):
    name = "nats"
    label = "NATS JetStream"
    serving = b"Server is ready"
    streams = 12

    def __init__(self, folder, base_port, tools, nodes=NODES):
        self.server, self.program = tools["nats"]
        super().__init__(folder, base_port, nodes)
        self.bootstrap = ",".join(f"nats://127.0.0.1:{client}" for client, _ in self.ports)

    def configure(self, node):
        client, cluster = self.ports[node.number - 1]
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for _, port in self.ports)
        (node.folder / "nats.conf").write_text(
            f'server_name: n{node.number}\nlisten: "127.0.0.1:{client}"\n'
            f'jetstream {{ store_dir: "{node.folder}/data" }}\n'
            f'cluster {{ name: compare, listen: "127.0.0.1:{cluster}", routes: [{routes}] }}\n')

    def command(self, node):
        return [str(self.server), "-c", str(node.folder / "nats.conf")]

    def is_ready(self):
        return all(self.serves_since(node, 0) for node in self.nodes)

    def create_topic(self, topic, partitions, **_configs):
        self.streams = partitions
        self.load("create", topic)

    def delete_topic(self, topic):
        """Nothing: what it writes in a turn fits on the disk."""

    def load(self, bench, topic, **options):
        flags = [f"-{key.replace('_', '-')}={value}" for key, value in options.items()
                 if value is not None]
        out = self.call(self.program, f"-servers={self.bootstrap}", f"-bench={bench}",
                        f"-topic={topic}", f"-streams={self.streams}", *flags)
        return json.loads(out.splitlines()[-1])

    def produce(self, topic, record_bytes, duration=None, records=None, warmup=0, rate=None,
                batch_bytes=None):
        return self.measured(lambda: self.load(
            "produce", topic, record_bytes=record_bytes, duration=duration, records=records,
            warmup=warmup, rate=rate))

    def latency(self, topic, record_bytes, rate, duration, warmup, batch_bytes=None):
        return self.measured(lambda: self.load(
            "latency", topic, record_bytes=record_bytes, rate=rate, duration=duration,
            warmup=warmup))

    def consume(self, topic, consumers=1):
        return self.measured(lambda: self.load("consume", topic))


ALL = {system.name: system for system in (Ottla, OttlaUnsynced, Kafka, KafkaSynced, Nats)}
