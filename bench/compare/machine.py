"""What is read from the machine: processor time and memory of processes, how the disk and the
neighbours behave, and how a process is kept from syncing."""

import ctypes
import os
import platform
import shutil
import struct
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mib(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def write_back():
    """Writes to the disk what the page cache still holds back; others feel it meanwhile."""
    os.sync()


def evict(folder):
    """Puts a folder's files out of the page cache, so that they are read from the disk."""
    write_back()
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def wait_for_room(folder, needed, seconds):
    """Waits until so many bytes are free, at most for so long."""
    deadline = time.monotonic() + seconds
    while shutil.disk_usage(folder).free < needed and time.monotonic() < deadline:
        time.sleep(0.5)


def fill_page_cache(folder):
    """Fills memory with cached pages of a file without blocks, as on a machine that has been up for
    a while. A hypervisor takes back what a guest has not used for a minute; without this, the systems
    would pay for getting it again, page by page, and those that write most would pay most."""
    path = folder / "hole"
    with open(path, "wb") as file:
        file.truncate(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(2**20)
        while file.readinto(buffer):
            pass


def rest_after_deletions(seconds):
    """Waits until files can be created at their usual price again. An ext4 file system without a
    journal does not use an inode for a minute after its file was deleted, and goes over all of
    these whenever it creates a file: a turn with thousands of partitions would pay for the files of
    the one before."""
    write_back()
    time.sleep(seconds)


def stolen_seconds():
    return int(Path("/proc/stat").read_text().split()[8]) / TICKS


def environment(folder):
    """How busy the machine is: the load average, and an append of 4 KiB with its sync."""
    path = folder / "probe"
    block = b"x" * 4096
    times = []
    with open(path, "wb", buffering=0) as file:
        for _ in range(100):
            file.write(block)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - began) * 1e3)
    path.unlink()
    times.sort()
    return {"load_average": os.getloadavg()[0], "sync_p50_ms": times[50], "sync_p99_ms": times[98],
            "stolen_seconds": stolen_seconds()}


def description():
    """The machine in a sentence, without its name."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{os.cpu_count()} CPUs ({model}), {memory:.0f} GiB, one disk, {platform.system()} {kernel}"


# System calls that wait for the disk, by machine: fsync, fdatasync, and the number that marks the
# architecture in a filter.
SYNC_CALLS = {"x86_64": (74, 75, 0xC000003E), "aarch64": (82, 83, 0xC00000B7)}


def without_sync():
    """Makes this process and its children succeed at fsync and fdatasync without doing them. To be
    run between fork and exec; the program itself is the same build to the byte."""
    fsync, fdatasync, architecture = SYNC_CALLS[platform.machine()]
    load, equal, give = 0x20, 0x15, 0x06
    allow, succeed = 0x7FFF0000, 0x00050000
    program = [(load, 0, 0, 4), (equal, 0, 4, architecture), (load, 0, 0, 0),
               (equal, 1, 0, fsync), (equal, 0, 1, fdatasync), (give, 0, 0, succeed),
               (give, 0, 0, allow)]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    header = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", len(program), ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, seccomp, filtered = 38, 22, 2
    for arguments in ((no_new_privileges, 1, 0, 0, 0),
                      (seccomp, filtered, ctypes.addressof(header), 0, 0)):
        if libc.prctl(*(ctypes.c_ulong(argument) for argument in arguments)) != 0:
            raise OSError(ctypes.get_errno(), "cannot keep a process from syncing")
