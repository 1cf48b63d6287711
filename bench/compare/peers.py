"""Fetches the peers from public registries, through the registries' ordinary clients, and builds
the load generators that speak to them."""

import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
KAFKA = "4.3.0"
NATS = "2.12.1"
MATPLOTLIB = "3.10.7"

POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>compare</groupId><artifactId>kafka</artifactId><version>1</version>
  <packaging>pom</packaging>
  <dependencies>
{dependencies}
  </dependencies>
</project>
"""
# The server, its tools, and the logging that its own distribution has.
JARS = [("org.apache.kafka", "kafka_2.13", KAFKA), ("org.apache.kafka", "kafka-tools", KAFKA),
        ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.4")]


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(str(part) for part in command)} ended with {done.returncode}:\n"
                 f"{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def kafka(folder):
    """Kafka's jars and the load generator over its client; gives the class path."""
    libs, classes = folder / "libs", folder / "classes"
    stamp = folder / f"fetched-{KAFKA}"
    if not stamp.exists():
        folder.mkdir(parents=True, exist_ok=True)
        dependencies = "\n".join(
            f"    <dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
            f"<version>{version}</version></dependency>" for group, artifact, version in JARS)
        (folder / "pom.xml").write_text(POM.format(dependencies=dependencies))
        run("mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={libs}",
            cwd=folder)
        stamp.touch()
    classes.mkdir(exist_ok=True)
    run("javac", "-cp", f"{libs}/*", "-d", classes, HERE / "KafkaLoad.java")
    return f"{classes}:{libs}/*"


def nats(folder):
    """The server and the load generator over its client."""
    folder.mkdir(parents=True, exist_ok=True)
    server, load = folder / "bin" / "nats-server", folder / "natsload"
    stamp = folder / f"fetched-{NATS}"
    if not stamp.exists():
        run("go", "install", f"github.com/nats-io/nats-server/v2@v{NATS}",
            env={**os.environ, "GOBIN": str(folder / "bin")})
        stamp.touch()
    run("go", "build", "-o", load, ".", cwd=HERE / "natsload")
    return server, load


def plotting(folder):
    """A Python that can draw, in an environment of its own."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    stamp = folder / f"fetched-{MATPLOTLIB}"
    if not stamp.exists():
        run(python, "-m", "pip", "install", "--quiet", f"matplotlib=={MATPLOTLIB}")
        stamp.touch()
    return python
