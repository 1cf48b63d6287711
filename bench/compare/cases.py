"""What is measured, case by case. Each function runs on one system, in one round; the rounds of all
systems are interleaved by `run.py`."""

import contextlib
import threading
import time

import machine
from systems import NODES, OttlaUnsynced, wait_until

KIB, MB, MIB, GIB = 1024, 10**6, 2**20, 2**30
# Under the most that a record batch may have by default, so that every system takes it.
LARGE_BATCH = 1_000_000

# Name, record bytes, batch bytes.
PRODUCE = [("produce 1 KiB", KIB, 128 * KIB), ("produce 100 B", 100, 128 * KIB),
           ("produce 1 KiB, 1 MB batches", KIB, LARGE_BATCH)]
PEAKS = ("produce 1 KiB", "its own producer test, 1 KiB")
LOADS = [(0.3, "latency at 30 %"), (0.6, "latency at 60 %")]
TAIL_RATE = 5_000
TAIL_ALONE, TAIL_BESIDE = "tail alone", "tail beside a cold reader"
# The most that a turn of one topic writes, and in how many seconds the files of one are gone.
TURN_BYTES = 35 * GIB
DELETED_WITHIN = 100
# For how long the files of earlier turns are left to rest before a turn that makes thousands, in
# seconds.
REST = 75


def produce(run, system):
    """As much as goes, 12 partitions; memory before and after."""
    time.sleep(2)
    run.record("idle", {"resident_mib": system.resident_mib()})
    system.create_topic("warm", 12)
    system.produce("warm", KIB, duration=run.seconds(system.warm_seconds))
    make_room(run, system, "warm")
    for case, record_bytes, batch_bytes in PRODUCE:
        if system.name == "nats" and batch_bytes == LARGE_BATCH:
            continue
        topic = f"p{record_bytes}-{batch_bytes}"
        system.create_topic(topic, 12)
        machine.fill_page_cache(system.folder.parent)
        result = system.produce(topic, record_bytes, duration=run.seconds(20),
                                warmup=run.seconds(5), batch_bytes=batch_bytes)
        result["bytes_in"] = result["sent"] * record_bytes
        run.record(case, result)
        if hasattr(system, "own_produce") and case == PEAKS[0]:
            records = run.scaled(1_000_000)
            result = system.own_produce(topic, KIB, records)
            result["bytes_in"] = records * KIB
            run.record("its own producer test, 1 KiB", result)
        make_room(run, system, topic)


def latency(run, system):
    """A fixed rate, from the schedule: parts of Kafka's peak in this run."""
    peaks = [run.median("kafka", case, "acknowledged", "records_per_second") for case in PEAKS]
    peak = max((peak for peak in peaks if peak is not None), default=None)
    if peak is None:
        raise RuntimeError("Kafka's peak is not known; run the group 'produce' first")
    system.create_topic("latency", 12)
    system.latency("latency", KIB, peak * 0.3, run.seconds(10), run.seconds(2))
    for part, case in LOADS:
        result = system.latency("latency", KIB, peak * part, run.seconds(20), run.seconds(5))
        result["rate"] = peak * part
        run.record(case, result)


def sync(run, system):
    """The price of the sync: of Ottla's, against the same program without it, and of Kafka's, if it
    did it as often."""
    if system.name == "ottla":
        with another(system, OttlaUnsynced, 1) as unsynced:
            there_and_back(run, [("sync, 12 partitions", each, 12) for each in (system, unsynced)])
    simple_produce(run, system, "sync, 1,000 partitions", 1_000)


def partitions(run, system):
    """The same load over more and more partitions, each number in a cluster of its own."""
    counts = (10, 1_000) if run.quick else (10, 1_000, 10_000)
    machine.rest_after_deletions(run.seconds(REST))
    with contextlib.ExitStack() as stack:
        systems = [stack.enter_context(another(system, type(system), number))
                   for number in range(1, len(counts))]
        there_and_back(run, [(f"{count:,} partitions", each, count)
                             for count, each in zip(counts, [system, *systems])])


def another(system, kind, number):
    """One more cluster of the same program, beside that of `system`."""
    return kind(system.folder.parent / f"beside-{number}", system.base_port + 100 * number,
                {"ottla": system.program})


def there_and_back(run, cases):
    """The same load on several clusters in turn, forth and back: how fast the machine is changes
    within minutes by more than what is to be seen. The ones that have no load do nothing."""
    for _, system, count in cases:
        system.create_topic("produce", count)
    machine.fill_page_cache(cases[0][1].folder.parent)
    for _, system, count in cases:
        # At any rate until nearly every partition has its first files.
        system.produce("produce", KIB, duration=run.seconds(8 + count / 400))
    for case, system, _ in cases + cases[::-1]:
        # What the one before has left to write would be felt by this one.
        machine.write_back()
        time.sleep(run.seconds(4))
        result = system.produce("produce", KIB, duration=run.seconds(8), warmup=run.seconds(2))
        result["bytes_in"] = result["sent"] * KIB
        run.system = system.name
        run.record(case, result)
    run.system = cases[0][1].name


def simple_produce(run, system, case, count):
    topic = f"produce-{count}"
    system.create_topic(topic, count)
    # Here, since a hypervisor may have taken memory back while files were left to rest.
    machine.fill_page_cache(system.folder.parent)
    system.produce(topic, KIB, duration=run.seconds(10))
    result = system.produce(topic, KIB, duration=run.seconds(20), warmup=run.seconds(5))
    result["bytes_in"] = result["sent"] * KIB
    run.record(case, result)
    make_room(run, system, topic)


def make_room(run, system, topic):
    """Deletes a topic whose turn is over: the turns of a group do not fit on every disk together.
    Who deletes files later is waited for only when there is no room for the next turn."""
    system.delete_topic(topic)
    # A quick turn writes as much less as it is shorter.
    machine.wait_for_room(system.folder, run.seconds(TURN_BYTES), DELETED_WITHIN)


def consume(run, system):
    """Reading what is there, from the disk and from memory, with one consumer and with four."""
    records = run.scaled(4 * GIB // KIB)
    system.create_topic("consume", 12)
    system.produce("consume", KIB, records=records)
    for consumers in (1,) if system.name == "nats" else (1, 4):
        for case in ("cold", "warm"):
            if case == "cold":
                machine.evict(system.folder)
            result = system.consume("consume", consumers=consumers)
            result["bytes_in"] = records * KIB
            run.record(f"consume, {case}, {consumers}", result)
    if hasattr(system, "own_consume"):
        result = system.own_consume("consume", records)
        result["bytes_in"] = records * KIB
        run.record("its own consumer test", result)


def in_background(work):
    """Runs something beside; gives a function that waits for its result."""
    outcome = {}

    def run():
        try:
            outcome["result"] = work()
        except Exception as error:  # pylint: disable=broad-except
            outcome["error"] = error

    thread = threading.Thread(target=run)
    thread.start()

    def wait():
        thread.join()
        if "error" in outcome:
            raise outcome["error"]
        return outcome["result"]

    return wait


def restart(run, system):
    """kill -9 under load, and how long until the node serves again."""
    node = system.nodes[1]
    system.kill(node)
    run.record("restart, empty", {"seconds": system.seconds_to_serving(node)})
    system.create_topic("restart", 12)
    system.produce("restart", KIB, records=run.scaled(GIB // KIB))
    kill_under_load(run, system, node, "restart, 1 GB")
    # Twelve are there already.
    system.create_topic("many", 2_038)
    kill_under_load(run, system, node, "restart, 1 GB and 2,050 partitions")


def kill_under_load(run, system, node, case):
    load = in_background(lambda: system.load_for_restart("restart", run.seconds(10)))
    time.sleep(run.seconds(4))
    system.kill(node)
    run.record(case, {"seconds": system.seconds_to_serving(node)})
    load()


def restart_large(run, system):
    """10 GiB on one node, killed with kill -9."""
    system.create_topic("restart", 12)
    system.produce("restart", KIB, records=run.scaled(10 * GIB // KIB))
    system.kill(system.nodes[0])
    machine.evict(system.folder)
    seconds = system.seconds_to_serving(system.nodes[0])
    run.record("restart, 10 GiB", {"seconds": seconds})


def start(run, system):
    """A node that holds nothing: a cluster of one, killed with kill -9 and started again."""
    system.kill(system.nodes[0])
    seconds = system.seconds_to_serving(system.nodes[0])
    run.record("start", {"seconds": seconds})


def idle_partitions(run, system):
    """Many partitions that nobody uses, on one node."""
    count = run.scaled(50_000)
    for topic in range(5):
        system.create_topic(f"idle-{topic}", count // 5)
    system.kill(system.nodes[0])
    seconds = system.seconds_to_serving(system.nodes[0])
    time.sleep(2)
    run.record("50,000 idle partitions",
               {"seconds": seconds, "resident_mib": system.resident_mib()})


def tail(run, system):
    """Latency at the tail, alone and while somebody reads what is long written, in turn and each
    the same way: what was written before them is on the disk by then. Ottla's reader is done in
    seconds, so it is measured for no longer than that; putting files out of the cache again
    meanwhile would be felt by itself."""
    records = run.scaled(4 * GIB // KIB)
    for topic in ("old", "new"):
        system.create_topic(topic, 12)
    system.produce("old", KIB, records=records)
    system.latency("new", KIB, TAIL_RATE, run.seconds(5), run.seconds(2))
    for _ in range(3):
        for case in (TAIL_ALONE, TAIL_BESIDE):
            machine.evict(system.folder)
            # Or the reader would need memory that the hypervisor took back, and all would wait for
            # it.
            machine.fill_page_cache(system.folder.parent)
            time.sleep(run.seconds(4))
            reading = in_background(lambda: system.consume("old")) if case == TAIL_BESIDE else None
            measured = system.latency("new", KIB, TAIL_RATE, run.seconds(5), run.seconds(1))
            if reading:
                measured["reader"] = reading()
            run.record(case, measured)


def compaction(run, system):
    """Latency while every node compacts, of records that others wait for at the same time."""
    records = run.scaled(GIB // KIB)
    system.create_topic("keyed", 12, **{"segment.bytes": 4 * MIB})
    system.create_topic("new", 12)
    system.produce("keyed", KIB, records=records, keys=records // 2)
    machine.write_back()
    system.latency("new", KIB, TAIL_RATE, run.seconds(5), run.seconds(2))
    run.record("compaction, before", system.latency("new", KIB, TAIL_RATE, run.seconds(30),
                                                    run.seconds(5)))
    system.set_config("keyed", **{"cleanup.policy": "compact"})
    wait_until("a log is compacted", lambda: system.compacted_partitions() > 0)
    run.record("compaction, meanwhile", system.latency("new", KIB, TAIL_RATE, run.seconds(30),
                                                       run.seconds(5)))
    if system.compacted_partitions() >= 12 * len(system.nodes):
        raise RuntimeError("compaction ended before the measurement did")


# Name: the case, the systems in the order of their turns, and how many nodes.
GROUPS = {
    "produce": (produce, ("kafka", "ottla", "nats"), NODES),
    "latency": (latency, ("kafka", "ottla", "nats"), NODES),
    "sync": (sync, ("ottla", "kafka-synced"), NODES),
    "consume": (consume, ("kafka", "ottla", "nats"), NODES),
    "tail": (tail, ("kafka", "ottla"), NODES),
    "compaction": (compaction, ("ottla",), NODES),
    "start": (start, ("kafka", "ottla"), 1),
    "restart": (restart, ("kafka", "ottla"), NODES),
    "restart-large": (restart_large, ("kafka", "ottla"), 1),
    "idle": (idle_partitions, ("ottla",), 1),
    # The last, because the deletion of so many files is felt for minutes.
    "partitions": (partitions, ("ottla",), NODES),
}
