#!/usr/bin/env bash
# The README's main command: a cluster comes up, takes a record, gives it back, and stops on Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp)
trap 'rm -f "$out"' EXIT
cargo run --release --quiet -- dev > "$out" &
dev=$!
ottla=target/release/ottla
"$ottla" cluster health -w -e --timeout 30s
"$ottla" topic create greetings --partitions 3
echo "hello" | "$ottla" produce greetings
read_back=$("$ottla" consume greetings --from-beginning --max-messages 1 --timeout 10s)
[ "$read_back" = hello ] || { echo "read back '$read_back' instead of 'hello'" >&2; exit 1; }
kill -INT "$dev"
wait "$dev"
grep -q 127.0.0.1:9092 "$out" || { echo "the table of nodes is missing" >&2; exit 1; }
echo "readme: ok"
