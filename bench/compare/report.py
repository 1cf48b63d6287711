"""Writes what `run.py` measured as a section of docs/benchmarks.md and as plots in docs/img/.

    report.py RESULTS DOCS [NOTE]
"""

import json
import statistics
import sys
from pathlib import Path

BEGIN, END = "<!-- compare: begin -->", "<!-- compare: end -->"
LABELS = {"ottla": "Ottla", "ottla-unsynced": "Ottla, syncs left out", "kafka": "Kafka",
          "kafka-synced": "Kafka, `flush.messages=1`", "nats": "NATS JetStream"}
COLOURS = {"ottla": "#0b6e4f", "kafka": "#444444", "nats": "#2f7fd1"}


def dig(row, *path):
    for key in path:
        row = row.get(key) if isinstance(row, dict) else None
    return row


class Results:
    def __init__(self, document):
        self.document = document
        self.rows = document["rows"]

    def values(self, system, case, of):
        rows = [r for r in self.rows if r["system"] == system and r["case"] == case]
        return [value for value in map(of, rows) if value is not None]

    def median(self, system, case, of):
        values = self.values(system, case, of)
        return statistics.median(values) if values else None

    def rounds(self):
        """Which groups were measured how often, by how often."""
        of_group = {}
        for row in self.rows:
            of_group.setdefault(row["group"], set()).add(row["round"])
        groups = {}
        for group, rounds in of_group.items():
            groups.setdefault(len(rounds), []).append(group)
        return sorted(groups.items(), reverse=True)

    def taken(self):
        """When which groups were measured, and at which commit of Ottla."""
        groups = {}
        for row in self.rows:
            moment = f"{row['ottla']}, {row['taken']}"
            in_moment = groups.setdefault(moment, [])
            if row["group"] not in in_moment:
                in_moment.append(row["group"])
        if len(groups) == 1:
            return next(iter(groups))
        return "; ".join(f"{moment} ({', '.join(found)})" for moment, found in groups.items())

    def errors(self):
        """Rows of what failed, each with why."""
        for row in self.rows:
            if row.get("error"):
                yield row, row["error"].splitlines()[-1]
            elif row.get("failed"):
                yield row, (f"{row['case']}: {row['failed']:,} of {row['sent']:,} records: "
                            f"{row['failure']}")


def acknowledged(name):
    return lambda row: dig(row, "acknowledged", name)


def acknowledged_at(name):
    return lambda row: dig(row, "acknowledged", "latency", name)


def consumed_at(name):
    return lambda row: dig(row, "consumed", "latency", name)


def consumed(row):
    return dig(row, "consumed", "mb_per_second")


def resident(row):
    return row.get("resident_mib")


def seconds(row):
    return row.get("seconds")


def cpu_per_gb(row):
    if row.get("server_cpu_seconds") is None or not row.get("bytes_in"):
        return None
    return row["server_cpu_seconds"] / row["bytes_in"] * 1e9


# Title, unit, systems, what to take, cases.
TABLES = [
    ("Produce: throughput", "MB/s", ("kafka", "ottla", "nats"), acknowledged("mb_per_second"),
     ["produce 1 KiB", "produce 100 B", "produce 1 KiB, 1 MB batches",
      "its own producer test, 1 KiB"]),
    ("Produce: CPU seconds of all servers per GB", "s", ("kafka", "ottla", "nats"), cpu_per_gb,
     ["produce 1 KiB", "produce 100 B", "produce 1 KiB, 1 MB batches",
      "its own producer test, 1 KiB"]),
    ("Acknowledgement, p50", "ms", ("kafka", "ottla", "nats"), acknowledged_at("p50_ms"),
     ["latency at 30 %", "latency at 60 %"]),
    ("Acknowledgement, p99", "ms", ("kafka", "ottla", "nats"), acknowledged_at("p99_ms"),
     ["latency at 30 %", "latency at 60 %"]),
    ("Acknowledgement, p99.9", "ms", ("kafka", "ottla", "nats"), acknowledged_at("p999_ms"),
     ["latency at 30 %", "latency at 60 %"]),
    ("To the consumer, p99", "ms", ("kafka", "ottla", "nats"), consumed_at("p99_ms"),
     ["latency at 30 %", "latency at 60 %"]),
    ("Sync: throughput", "MB/s", ("ottla-unsynced", "ottla", "kafka-synced"),
     acknowledged("mb_per_second"), ["sync, 12 partitions", "sync, 1,000 partitions"]),
    ("Partitions: throughput", "MB/s", ("ottla",), acknowledged("mb_per_second"),
     ["10 partitions", "1,000 partitions", "10,000 partitions"]),
    ("Catching up: throughput", "MB/s", ("kafka", "ottla", "nats"), consumed,
     [f"consume, {how}, {count}" for count in (1, 4) for how in ("cold", "warm")]
     + ["its own consumer test"]),
    ("Catching up: CPU seconds of all servers per GB", "s", ("kafka", "ottla", "nats"), cpu_per_gb,
     [f"consume, {how}, {count}" for count in (1, 4) for how in ("cold", "warm")]
     + ["its own consumer test"]),
    ("Tail beside a cold reader: p99 to the consumer", "ms", ("kafka", "ottla"),
     consumed_at("p99_ms"), ["tail alone", "tail beside a cold reader"]),
    ("While all nodes compact: p99 of acknowledgements", "ms", ("ottla",),
     acknowledged_at("p99_ms"), ["compaction, before", "compaction, meanwhile"]),
    ("Resident memory of the largest node", "MiB", ("kafka", "ottla", "nats"), resident,
     ["idle", "produce 1 KiB", "produce 100 B", "produce 1 KiB, 1 MB batches",
      "50,000 idle partitions"]),
    ("From the start of the process to serving", "s", ("kafka", "ottla"), seconds,
     ["start", "restart, empty", "restart, 1 GB", "restart, 1 GB and 2,050 partitions",
      "restart, 10 GiB", "50,000 idle partitions"]),
]


def number(value):
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def cell(results, system, case, of):
    values = results.values(system, case, of)
    if not values:
        return "–"
    text = number(statistics.median(values))
    if len(values) > 1:
        text += f" ({number(min(values))} to {number(max(values))})"
    return text


def tables(results):
    for title, unit, systems, of, cases in TABLES:
        rows = []
        for case in cases:
            cells = [cell(results, system, case, of) for system in systems]
            if any(text != "–" for text in cells):
                rows.append(f"| {case} | {' | '.join(cells)} |")
        if rows:
            heads = " | ".join(LABELS[system] for system in systems)
            yield "\n".join([f"| {title}, {unit} | {heads} |", "|---" * (len(systems) + 1) + "|",
                             *rows])


class Target:
    """A ratio or a figure with the most or least it may be."""

    def __init__(self, what, value, bound, at_least, unit=""):
        self.what, self.value, self.bound = what, value, bound
        self.at_least, self.unit = at_least, unit

    def row(self, judged):
        sign = "≥" if self.at_least else "≤"
        bound = f"{sign} {self.bound:.3g}{self.unit}"
        if self.value is None:
            return f"| {self.what} | {bound} | not measured | |"
        met = self.value >= self.bound if self.at_least else self.value <= self.bound
        verdict = ("met" if met else "missed") if judged else ""
        return f"| {self.what} | {bound} | {self.value:.3g}{self.unit} | {verdict} |"


def ratio(over, under):
    return over / under if over is not None and under else None


# Kafka's own performance test of the same case.
OWN_TESTS = {"produce 1 KiB": "its own producer test, 1 KiB",
             "consume, warm, 1": "its own consumer test"}


def targets(results):
    def against_kafka(case, of):
        """Where Kafka's own test did better than the common load, it is what counts."""
        theirs = [results.median("kafka", name, of) for name in (case, OWN_TESTS.get(case))]
        theirs = [value for value in theirs if value is not None]
        best = min if of is cpu_per_gb else max
        return ratio(results.median("ottla", case, of), best(theirs, default=None))

    throughput = acknowledged("mb_per_second")
    for case in ("produce 1 KiB", "produce 100 B"):
        yield Target(f"{case}: throughput against Kafka", against_kafka(case, throughput), 2, True, "×")
    for case, bound in (("produce 1 KiB", 1 / 2), ("produce 1 KiB, 1 MB batches", 1 / 1.2)):
        yield Target(f"{case}: CPU per GB against Kafka", against_kafka(case, cpu_per_gb), bound,
                     False, "×")
    for case in ("latency at 30 %", "latency at 60 %"):
        for name, field in (("p99", "p99_ms"), ("p99.9", "p999_ms")):
            yield Target(f"{case} of Kafka's peak: acknowledgement {name} against Kafka",
                         against_kafka(case, acknowledged_at(field)), 1 / 3, False, "×")
    synced = results.median("ottla", "sync, 12 partitions", throughput)
    unsynced = results.median("ottla-unsynced", "sync, 12 partitions", throughput)
    price = None if synced is None or not unsynced else (1 - synced / unsynced) * 100
    yield Target("price of the sync, 12 partitions", price, 20, False, " %")
    few = results.median("ottla", "10 partitions", throughput)
    for case in ("1,000 partitions", "10,000 partitions"):
        part = ratio(results.median("ottla", case, throughput), few)
        yield Target(f"{case}: throughput against 10", part and part * 100, 85, True, " %")
    yield Target("1,000 partitions: throughput against Kafka with `flush.messages=1`", ratio(
        results.median("ottla", "sync, 1,000 partitions", throughput),
        results.median("kafka-synced", "sync, 1,000 partitions", throughput)), 10, True, "×")
    for consumers in (1, 4):
        for how in ("cold", "warm"):
            case = f"consume, {how}, {consumers}"
            yield Target(f"{case}: throughput against Kafka", against_kafka(case, consumed), 1, True,
                         "×")
    yield Target("resident memory, idle", results.median("ottla", "idle", resident), 30, False, " MiB")
    under_load = [results.median("ottla", case, resident) for case in
                  ("produce 1 KiB", "produce 100 B", "produce 1 KiB, 1 MB batches")]
    under_load = [value for value in under_load if value is not None]
    yield Target("resident memory, after the load", max(under_load, default=None), 150, False, " MiB")
    for case, bound in (("start", 0.2), ("restart, 1 GB", 1),
                        ("restart, 1 GB and 2,050 partitions", 1), ("restart, 10 GiB", 2),
                        ("50,000 idle partitions", 5)):
        yield Target(f"{case}: to serving", results.median("ottla", case, seconds), bound, False, " s")
    yield Target("50,000 idle partitions: resident memory",
                 results.median("ottla", "50,000 idle partitions", resident), 600, False, " MiB")
    yield Target("tail p99 beside a cold reader against alone", ratio(
        results.median("ottla", "tail beside a cold reader", consumed_at("p99_ms")),
        results.median("ottla", "tail alone", consumed_at("p99_ms"))), 2, False, "×")
    yield Target("acknowledgement p99 while compacting against before", ratio(
        results.median("ottla", "compaction, meanwhile", acknowledged_at("p99_ms")),
        results.median("ottla", "compaction, before", acknowledged_at("p99_ms"))), 2, False, "×")


METHOD = """Three nodes of each system, a process each, and the load on one machine with one disk;
replication factor 3, `min.insync.replicas` 2, acks all, no compression, 12 partitions, a linger of
5 ms, batches of up to 128 KiB where nothing else is said. Everything else is each system's default:
Ottla syncs before it acknowledges; Kafka {kafka} (KRaft, three combined nodes, 1 GiB of heap) and
NATS JetStream {nats} (a stream of three replicas stands for a partition; no batches of a producer's,
4,000 messages in flight) do not. Each system is driven through its own client with the same
schedule and the same payloads (`ottla bench`, `KafkaLoad.java`, `natsload`), so the load costs
CPU time on the same cores, a JVM's the most. Kafka's own performance tests stand beside, and count
where they do better.
One system runs at a time; the systems take turns within each round. The price of the sync and the
cost of many partitions are smaller than what the machine's speed changes by within minutes: clusters
with and without the sync, and with 10, 1,000 and 10,000 partitions, are up at the same time, and have
the load in turn, forth and back; the others do nothing meanwhile. CPU seconds are user and
system time of the three servers until a second after the load, with the load's warm-up. Latency
counts from the moment a record was due. `syncs left out` is the same program with a system call
filter that makes `fsync` and `fdatasync` succeed without being done. For cold reads the data files
are put out of the page cache first. Serving means: Kafka says that it started, Ottla that it is
registered."""


def surroundings(results):
    loads = [row["load_average"] for row in results.rows if "load_average" in row]
    syncs = [row["sync_p50_ms"] for row in results.rows if "sync_p50_ms" in row]
    if not loads:
        return ""
    return (f"Before the turns the load average was {number(statistics.median(loads))} "
            f"({number(min(loads))} to {number(max(loads))}), and an append of 4 KiB with its sync "
            f"took {number(statistics.median(syncs))} ms ({number(min(syncs))} to "
            f"{number(max(syncs))}).")


def section(results, note, images):
    document = results.document
    rounds = results.rounds()
    parts = ["## Against Kafka and NATS JetStream", note] if note else [
        "## Against Kafka and NATS JetStream"]
    most = rounds[0][0] if rounds else 0
    told = "; ".join(f"{count} of {', '.join(groups)}" for count, groups in rounds)
    spread = (f"Rounds: {told if len(rounds) > 1 else most}. Medians, the range in parentheses."
              if most > 1 else "One round.")
    quick = " --quick" if document["quick"] else ""
    parts.append(f"`bench/compare/run.py{quick} --rounds {most}` on {document['machine']}. {spread} "
                 f"Ottla's commit and the day: {results.taken()}. {surroundings(results)}")
    if document["quick"]:
        parts.append("A quick run: a quarter of the time, and a sixteenth of the data and of the idle "
                     "partitions that the cases name. It shows that all works and judges nothing.")
    parts.append(METHOD.format(**document["versions"]))
    rows = [target.row(judged=not document["quick"]) for target in targets(results)]
    parts.append("\n".join(["| target | bound | measured | |", "|---|---|---|---|", *rows]))
    parts += [f"![{alt}](img/{name})" for alt, name in images]
    parts += list(tables(results))
    failures = [f"- {row['group']}, {LABELS[row['system']]}, round {row['round']}: "
                f"{why[:300]}" for row, why in results.errors()]
    if failures:
        parts.append("What failed:\n\n" + "\n".join(failures))
    return "\n\n".join(parts)


def place(docs, text):
    """Puts the section where it stood, or at the end."""
    path = docs / "benchmarks.md"
    old = path.read_text()
    block = f"{BEGIN}\n{text}\n{END}\n"
    if BEGIN in old and END in old:
        head, _, rest = old.partition(BEGIN)
        _, _, after = rest.partition(END)
        path.write_text(head + block + after.lstrip("\n"))
    else:
        path.write_text(old.rstrip("\n") + "\n\n" + block)


# File, title, unit, what to take, cases, whether the scale is logarithmic.
PLOTS = [
    ("compare-throughput.svg", "Produce throughput", "MB/s", acknowledged("mb_per_second"),
     [case for case in ("produce 1 KiB", "produce 100 B", "produce 1 KiB, 1 MB batches")], False),
    ("compare-cpu.svg", "CPU seconds of all servers per GB produced", "s", cpu_per_gb,
     ["produce 1 KiB", "produce 100 B", "produce 1 KiB, 1 MB batches"], False),
    ("compare-latency.svg", "Acknowledgement from the schedule, p99", "ms",
     acknowledged_at("p99_ms"), ["latency at 30 %", "latency at 60 %"], True),
    ("compare-consume.svg", "Catching up", "MB/s", consumed,
     [f"consume, {how}, {count}" for count in (1, 4) for how in ("cold", "warm")], False),
]


def plots(results, folder):
    import matplotlib
    matplotlib.use("svg")
    # The same figures give the same file, byte for byte.
    matplotlib.rcParams["svg.hashsalt"] = "compare"
    from matplotlib import pyplot
    folder.mkdir(exist_ok=True)
    drawn = []
    for name, title, unit, of, cases, logarithmic in PLOTS:
        cases = [case for case in cases if results.median("ottla", case, of) is not None]
        if not cases:
            continue
        figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
        width = 0.8 / len(COLOURS)
        for index, (system, colour) in enumerate(COLOURS.items()):
            heights = [results.median(system, case, of) or 0 for case in cases]
            at = [position + (index - 1) * width for position in range(len(cases))]
            bars = axes.bar(at, heights, width, label=LABELS[system], color=colour)
            axes.bar_label(bars, [number(height) if height else "" for height in heights],
                           fontsize=8)
        axes.set_xticks(range(len(cases)), cases, fontsize=9)
        axes.set_title(title, fontsize=11)
        axes.set_ylabel(unit)
        if logarithmic:
            axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
        figure.savefig(folder / name, metadata={"Date": None})
        pyplot.close(figure)
        drawn.append((title, name))
    return drawn


def main():
    results = Results(json.loads(Path(sys.argv[1]).read_text()))
    docs = Path(sys.argv[2])
    note = sys.argv[3] if len(sys.argv) > 3 else ""
    place(docs, section(results, note, plots(results, docs / "img")))


if __name__ == "__main__":
    main()
