#!/usr/bin/env python3
"""Compares Ottla with Apache Kafka and NATS JetStream on this machine, in one run, and writes what
was measured into docs/benchmarks.md and docs/img/.

    bench/compare/run.py [--quick] [--rounds 3] [--only GROUP[,GROUP]] [--data DIR]

Needs a release build of ottla (`cargo build --release`), Java 17 or newer with Maven, Go, and about
60 GiB of free disk (4 GiB with --quick); the peers are fetched from public registries the first
time."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import machine
import peers
from cases import GROUPS
from systems import ALL

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# How much shorter a quick run is: enough to see that all works, not to compare.
QUICK_TIME, QUICK_SIZE = 4, 16


class Run:
    """What was measured so far, and how large this run is."""

    def __init__(self, options, results):
        self.quick = options.quick
        self.results = results
        self.versions = versions()
        self.rows = earlier(options, results)
        self.rounds_before = max((row["round"] for row in self.rows
                                  if row["group"] in options.only), default=0)
        self.round = 0
        self.system = None
        self.group = None
        self.surroundings = {}
        self.reading = False

    def seconds(self, full):
        return full / QUICK_TIME if self.quick else full

    def scaled(self, full):
        return full // QUICK_SIZE if self.quick else full

    def record(self, case, result):
        result.pop("intervals", None)
        row = {"group": self.group, "case": case, "system": self.system, "round": self.round,
               "ottla": self.versions["ottla"], "taken": time.strftime("%Y-%m-%d"),
               **self.surroundings, **result}
        self.rows.append(row)
        self.save()
        print(f"    {case}: {summary(row)}", flush=True)

    def median(self, system, case, *path):
        values = [dig(row, path) for row in self.rows
                  if row["system"] == system and row["case"] == case]
        values = [value for value in values if value is not None]
        return statistics.median(values) if values else None

    def save(self):
        document = {"quick": self.quick, "machine": machine.description(), "versions": self.versions,
                    "rows": self.rows}
        self.results.write_text(json.dumps(document, indent=1))


def earlier(options, results):
    """With --add: what the last run measured in groups that this one leaves alone; with --more:
    all that it measured."""
    if not (options.add or options.more) or not results.exists():
        return []
    document = json.loads(results.read_text())
    if document["quick"] != options.quick:
        sys.exit("the last run was of another size; --quick must be as it was then")
    return [row for row in document["rows"] if options.more
            or row["group"] not in options.only or row["system"] not in options.systems]


def dig(row, path):
    for key in path:
        row = row.get(key) if isinstance(row, dict) else None
    return row


def versions():
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True,
                            text=True).stdout.strip()
    return {"kafka": peers.KAFKA, "nats": peers.NATS, "ottla": commit}


def summary(row):
    parts = []
    for name in ("acknowledged", "consumed"):
        stretch = row.get(name)
        if stretch:
            text = f"{name} {stretch['mb_per_second']:.1f} MB/s"
            latency = stretch.get("latency")
            if latency:
                text += f", p50 {latency['p50_ms']:.2f} p99 {latency['p99_ms']:.1f} " \
                        f"p99.9 {latency['p999_ms']:.1f} ms"
            parts.append(text)
    if row.get("server_cpu_seconds") is not None and row.get("bytes_in"):
        parts.append(f"{row['server_cpu_seconds'] / row['bytes_in'] * 1e9:.2f} CPU s/GB")
    for name, unit in (("resident_mib", "MiB"), ("seconds", "s")):
        if row.get(name) is not None:
            parts.append(f"{row[name]:.3g} {unit}")
    return "; ".join(parts) + row.get("error", "")


def one(run, options, tools, group, name):
    """One system's turn in one group of one round."""
    case, _, nodes = GROUPS[group]
    run.group, run.system = group, name
    machine.fill_page_cache(options.data)
    run.surroundings = machine.environment(options.data)
    print(f"  {group}, {name} (load {run.surroundings['load_average']:.1f}, sync "
          f"{run.surroundings['sync_p50_ms']:.2f} ms)", flush=True)
    try:
        with ALL[name](options.data, options.base_port, tools, nodes=nodes) as system:
            case(run, system)
    except Exception as error:  # pylint: disable=broad-except
        # One that fails is a result, too, and must not end the others.
        run.record("failed", {"error": f"{type(error).__name__}: {str(error)[-600:]}"})


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true",
                        help="a quarter of the time and a sixteenth of the data")
    parser.add_argument("--only", default=",".join(GROUPS),
                        help=f"which groups, of {', '.join(GROUPS)}")
    parser.add_argument("--add", action="store_true",
                        help="keep what the last run measured in other groups")
    parser.add_argument("--more", action="store_true",
                        help="keep all that the last run measured, and add rounds to it")
    parser.add_argument("--systems", default=",".join(ALL), help="which systems")
    parser.add_argument("--data", type=Path, default=ROOT / "target" / "compare")
    parser.add_argument("--ottla", type=Path, default=ROOT / "target" / "release" / "ottla")
    parser.add_argument("--base-port", type=int, default=24_100)
    parser.add_argument("--note", default="", help="a sentence to put under the tables' heading")
    parser.add_argument("--report-only", action="store_true",
                        help="write the report of the last run again")
    options = parser.parse_args()
    options.data = options.data.resolve()
    options.only = options.only.split(",")
    options.systems = options.systems.split(",")
    for name, known in ((options.only, GROUPS), (options.systems, ALL)):
        unknown = set(name) - set(known)
        if unknown:
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if not options.report_only and not options.ottla.exists():
        parser.error(f"there is no {options.ottla}; build it with cargo build --release")
    return options


def main():
    options = arguments()
    options.data.mkdir(parents=True, exist_ok=True)
    results = options.data / "results.json"
    fetched = options.data / "peers"
    if not options.report_only:
        tools = {"ottla": str(options.ottla.resolve())}
        if any(name.startswith("kafka") for name in options.systems):
            tools["kafka"] = peers.kafka(fetched / "kafka")
        if "nats" in options.systems:
            tools["nats"] = peers.nats(fetched / "nats")
        run = Run(options, results)
        for number in range(run.rounds_before, run.rounds_before + options.rounds):
            run.round = number + 1
            print(f"round {run.round} of {run.rounds_before + options.rounds}", flush=True)
            for group in options.only:
                turns = [name for name in GROUPS[group][1] if name in options.systems]
                # Every other round backwards, so that nobody always follows the same one.
                turns = turns[::-1] if number % 2 else turns
                for name in turns:
                    one(run, options, tools, group, name)
    python = peers.plotting(fetched / "plot")
    done = subprocess.run([python, HERE / "report.py", results, ROOT / "docs", options.note])
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
