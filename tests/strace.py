"""System calls of a process in the order in which they began and returned, as strace saw them."""

import re
import subprocess
import time

# Every string in hexadecimal, so that bytes are found however they are cut by quoting.
CALLS = "pwritev,pwrite64,fdatasync,fsync,write,writev,sendto,sendmsg,read,readv,recvfrom,recvmsg"
STRING_BYTES = 262_144

BEGUN = re.compile(r"^(\d+) +(\w+)\((.*)$")
RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
UNFINISHED = "<unfinished ...>"
FILE = re.compile(r"^\d+<((?:TCP|TCPv6):\[.*?->.*?\]|[^>]*)>")
HEX = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
RESULT = re.compile(r"\) += (-?\d+)")


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA_FRAME = 0


class Call:
    """One call: which, on what, with which bytes, and its places among all edges of calls."""

    def __init__(self, name, arguments, began):
        self.name = name
        found = FILE.match(arguments)
        # A path, or `TCP:[local->peer]`.
        self.file = unhex(found.group(1)) if found else ""
        self.began = began
        self.returned = None
        self.data = b""
        self.result = None

    def take(self, text):
        self.data += b"".join(bytes.fromhex(part.replace("\\x", "")) for part in HEX.findall(text))
        result = RESULT.search(text)
        # What is only looked at comes again.
        self.result = int(result.group(1)) if result and "MSG_PEEK" not in text else None

    def is_sync(self):
        return self.name in ("fdatasync", "fsync")

    def is_send(self):
        return self.name in ("write", "writev", "sendto", "sendmsg") and self.file.startswith("TCP")

    def is_receive(self):
        return self.name in ("read", "readv", "recvfrom", "recvmsg") and self.file.startswith("TCP")

    def is_write_to(self, folder):
        return self.name in ("pwritev", "pwrite64") and folder in self.file

    def is_at_port(self, port):
        """Whether the local end of the connection is this port."""
        return re.match(rf"TCP(?:v6)?:\[[^\]]*:{port}->", self.file) is not None


def unhex(text):
    """A path, which strace writes in hexadecimal too."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found.group(1), 16)), text)


def is_available():
    """Whether strace is there and may follow a process; if not, why."""
    try:
        tried = subprocess.run(["strace", "-f", "-e", "trace=none", "true"],
                               capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        return "strace is not installed"
    return None if tried.returncode == 0 else tried.stderr.strip()


def under_strace(output, command, delay_us):
    """The command under strace, with every sync made slower before it begins: an answer that does
    not wait for it then leaves well before it."""
    return ["strace", "-f", "-yy", "-xx", "-s", str(STRING_BYTES), "-o", str(output),
            "-e", f"trace={CALLS}", "-e", "signal=none",
            "-e", f"inject=fdatasync:delay_enter={delay_us}", *command]


def calls(output):
    """All calls in the order in which they began. A call that never returned has no `returned`."""
    all_calls, open_calls = [], {}
    with open(output, errors="replace") as lines:
        for edge, line in enumerate(lines):
            begun = BEGUN.match(line)
            if begun:
                thread, name, rest = begun.groups()
                call = Call(name, rest, began=2 * edge)
                call.take(rest)
                all_calls.append(call)
                if UNFINISHED in rest:
                    open_calls[thread] = call
                else:
                    call.returned = 2 * edge + 1
                continue
            resumed = RESUMED.match(line)
            if resumed:
                thread, _, rest = resumed.groups()
                call = open_calls.pop(thread, None)
                if call:
                    call.take(rest)
                    call.returned = 2 * edge + 1
    return all_calls


def wait_for_output(process, output, patience=30):
    """Waits until strace has written its last line about a process that ended."""
    process.wait(timeout=patience)
    size = -1
    while output.stat().st_size != size:
        size = output.stat().st_size
        time.sleep(0.05)


class Message:
    """One gRPC message: its stream, its number on that stream from 0, and the call that began it."""

    def __init__(self, stream, number, call, data):
        self.stream, self.number, self.call, self.data = stream, number, call, data

    def field(self, number):
        """The bytes of a field of at most 15, where a message of such fields has it."""
        at, found = 0, b""
        while at < len(self.data):
            tag, at = varint(self.data, at)
            value, at = varint(self.data, at)
            if tag & 7 == 2:
                if tag >> 3 == number:
                    found = self.data[at:at + value]
                at += value
        return found


def varint(data, at):
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 0x7f) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    return value, at


def messages(calls, file, wanted):
    """The messages of one direction of a connection, put together from HTTP/2's data frames."""
    data, starts = b"", []
    for call in calls:
        if call.file == file and wanted(call) and call.result and call.result > 0:
            starts.append((len(data), call))
            data += call.data[:call.result]
    streams, counts, found = {}, {}, []
    at = len(PREFACE) if data.startswith(PREFACE) else 0
    while at + 9 <= len(data):
        length = int.from_bytes(data[at:at + 3], "big")
        stream = int.from_bytes(data[at + 5:at + 9], "big")
        if data[at + 3] == DATA_FRAME:
            call = [call for start, call in starts if start <= at][-1]
            rest, first = streams.get(stream, (b"", None))
            first = first if rest else call
            rest += data[at + 9:at + 9 + length]
            while len(rest) >= 5 and len(rest) >= 5 + int.from_bytes(rest[1:5], "big"):
                end = 5 + int.from_bytes(rest[1:5], "big")
                number = counts.get(stream, 0)
                counts[stream] = number + 1
                found.append(Message(stream, number, first, rest[5:end]))
                rest, first = rest[end:], call
            streams[stream] = (rest, first)
        at += 9 + length
    return found


def answer_to(calls, message):
    """The answer to a message that was received: the one of its number on its stream."""
    sent = messages(calls, message.call.file, Call.is_send)
    return next((answer for answer in sent
                 if (answer.stream, answer.number) == (message.stream, message.number)), None)
