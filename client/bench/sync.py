#!/usr/bin/env python3
"""Measures two synced directories and a server on this machine, and prints each figure beside its target.

    client/bench/sync.py [--files 100000] [--large-mib 1024] [--saves 100]

It needs target/release/holdfast and target/release/hf ("make build"), and space for the data a few times over.
"""

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

BIN = Path(__file__).resolve().parents[2] / "target/release"
PASSWORD = "a password to measure with\n"


class Device:
    """A device of alice's with its daemon."""

    daemon = None

    def __init__(self, world, name, address, transport=""):
        self.home, self.root = world / f"home-{name}", world / name
        self.env = dict(os.environ, HF_HOME=str(self.home), HF_TRANSPORT=transport)
        self.run("login", address, "--user", "alice", "--password-stdin", "--device", name, text=PASSWORD)

    def run(self, *args, text=None):
        return subprocess.run([BIN / "hf", *args], env=self.env, input=text, text=True, check=True, capture_output=True).stdout

    def start(self):
        self.daemon = subprocess.Popen([BIN / "hf", "daemon"], env=self.env, stdout=subprocess.PIPE)
        self.daemon.stdout.readline()

    def stop(self):
        if self.daemon:
            self.daemon.terminate()
            self.daemon.wait()

    def wait(self):
        self.run("sync", "wait", "--timeout", "3000")

    def sent(self):
        return json.loads(self.run("sync", "status", "--json"))[0]["sent"]

    def cost(self, change):
        """KiB that are sent for a change, until it is synced, and how long that takes."""
        before, begun = self.sent(), time.perf_counter()
        change()
        self.wait()
        took = time.perf_counter() - begun
        return f"{(self.sent() - before) / 1024:.1f} KiB in {took:.1f} s"

    def cpu(self):
        fields = Path(f"/proc/{self.daemon.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self):
        return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.daemon.pid}/status").read_text())[1]) / 1024


def say(what, figure, target):
    print(f"{what:<52} {figure:<28} target: {target}", flush=True)


def until(check):
    begun = time.perf_counter()
    while not check():
        time.sleep(0.001)
        assert time.perf_counter() - begun < 60, "it never comes"
    return time.perf_counter() - begun


def spread(times):
    times = sorted(times)
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    return f"p50 {statistics.median(times) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--large-mib", type=int, default=1024)
    parser.add_argument("--saves", type=int, default=100)
    args = parser.parse_args()
    world = Path(tempfile.mkdtemp(prefix="holdfast-sync-"))
    command = [BIN / "holdfast", "dev", "--data", world / "data", "--s3", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    keys = dict(HOLDFAST_ACCESS_KEY="bench-access-key", HOLDFAST_SECRET_KEY="bench-secret-key")
    env = dict(os.environ, **keys)
    server = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    devices = []
    try:
        line = next(line for line in server.stdout if line.startswith("ready "))
        address, s3 = re.search(r"sync=(\S+)", line)[1], re.search(r"s3=(\S+)", line)[1]
        create = [BIN / "holdfast", "user", "create", "alice", "--password-stdin", "--data", world / "data"]
        subprocess.run(create, input=PASSWORD, text=True, check=True, stdout=subprocess.DEVNULL)
        measure(world, address, args, devices)
        measure_large(world, address, s3, args, devices)
    finally:
        for device in devices:
            device.stop()
        server.kill()
        shutil.rmtree(world, ignore_errors=True)


def measure(world, address, args, devices):
    one, two = Device(world, "one", address), Device(world, "two", address)
    devices += [one, two]
    one.run("spaces", "create", "bench")
    one.run("sync", "add", "bench", str(one.root))
    two.run("sync", "add", "bench", str(two.root))
    one.start()
    two.start()

    saves, deletes, renames = [], [], []
    for number in range(args.saves):
        (one.root / f"save{number}").write_text(f"{number}")
        saves.append(until((two.root / f"save{number}").exists))
        (one.root / f"save{number}").rename(one.root / f"moved{number}")
        renames.append(until((two.root / f"moved{number}").exists))
        (one.root / f"moved{number}").unlink()
        deletes.append(until(lambda: not (two.root / f"moved{number}").exists()))
    say("save, visible on the other device", spread(saves), "p50 < 300 ms, p99 < 1 s")
    say("rename, the same", spread(renames), "p50 < 300 ms, p99 < 1 s")
    say("delete, the same", spread(deletes), "p50 < 300 ms, p99 < 1 s")

    two.stop()
    source = world / "source"
    source.mkdir()
    chance = random.Random(1)
    for number in range(args.files):
        directory = source / f"{number // 1000}"
        directory.mkdir(exist_ok=True)
        (directory / f"{number}").write_bytes(chance.randbytes(4096))
    begun = time.perf_counter()
    subprocess.run(["rsync", "-a", f"{source}/", world / "rsync"], check=True)
    local = time.perf_counter() - begun
    one.stop()
    source.rename(one.root / "small")
    begun = time.perf_counter()
    one.start()
    one.wait()
    up = time.perf_counter() - begun
    say(f"{args.files} files of 4 KiB up", f"{args.files / up:.0f} files/s", f"1000 (rsync -a to a directory: {args.files / local:.0f})")
    begun = time.perf_counter()
    two.start()
    two.wait()
    say(f"{args.files} files of 4 KiB down", f"{args.files / (time.perf_counter() - begun):.0f} files/s", "1000")
    begun = time.perf_counter()
    (one.root / "small").rename(one.root / "renamed")
    until(lambda: (two.root / "renamed").exists())
    say(f"a folder of {args.files} files renamed", f"{time.perf_counter() - begun:.2f} s", "2 s")
    before = one.cpu()
    for number in range(20):
        (one.root / "renamed/0/0").write_text(f"save {number}")
        until(lambda: (two.root / "renamed/0/0").read_bytes() == f"save {number}".encode())
    say(f"CPU of a save among {args.files} files", f"{(one.cpu() - before) / 20 * 1000:.0f} ms", "20 ms among a million")
    say("memory of the client", f"{one.memory_mib():.0f} MiB", "300 MiB with a million files")

    one.stop()
    one.start()
    one.wait()
    begun, sent = time.perf_counter(), one.sent()
    one.wait()
    took = time.perf_counter() - begun
    say("a second run over the same tree", f"{(one.sent() - sent) / 1024:.1f} KiB in {took:.2f} s", "sends nothing, reads no file")


def noise(path, mib, seed):
    chance = random.Random(seed)
    with open(path, "wb") as file:
        for _ in range(mib):
            file.write(chance.randbytes(1 << 20))
    return path


def by_s3(s3, path, to, *way):
    """MiB a second that curl sends or receives."""
    sign = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "bench-access-key:bench-secret-key"]
    plain = ["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]
    begun = time.perf_counter()
    subprocess.run(["curl", "-sSf", *sign, *plain, *way, f"{s3}/{to}"], check=True, stdout=subprocess.DEVNULL)
    return path.stat().st_size / (1 << 20) / (time.perf_counter() - begun)


def measure_large(world, address, s3, args, devices):
    one, two = devices
    mib, large = args.large_mib, one.root / "large"
    source = noise(world / "large", mib, 2)
    begun = time.perf_counter()
    shutil.copyfile(source, world / "copy")
    say(f"{mib} MiB, cp", f"{mib / (time.perf_counter() - begun):.0f} MiB/s", "-")
    by_s3(s3, source, "plain", "-X", "PUT")
    put = by_s3(s3, source, "plain/copy", "-T", str(source))
    # Another one: what the server has already is not stored again.
    noise(source, mib, 3)
    begun = time.perf_counter()
    source.rename(large)
    one.wait()
    up = mib / (time.perf_counter() - begun)
    say(f"{mib} MiB in one file up", f"{up:.0f} MiB/s", f"half of what S3 PUT reaches: {put / 2:.0f}")
    get = by_s3(s3, large, "plain/copy", "-o", str(world / "copy"))
    begun = time.perf_counter()
    two.wait()
    down = mib / (time.perf_counter() - begun)
    say("the same down", f"{down:.0f} MiB/s", f"half of what S3 GET reaches: {get / 2:.0f}")

    def page():
        with open(large, "r+b") as file:
            file.seek(large.stat().st_size // 2 // 4096 * 4096)
            file.write(random.Random(4).randbytes(4096))

    def insert():
        data = large.read_bytes()
        (world / "inserted").write_bytes(b"!" + data)
        (world / "inserted").rename(large)

    say(f"a page of 4 KiB changed in {mib} MiB", one.cost(page), "64 KiB")
    say("1 byte inserted at its front", one.cost(insert), "two chunks (2048 KiB)")
    two.stop()
    rates = {}
    for transport in ["quic", "tcp"]:
        device = Device(world, transport, address, transport)
        devices.append(device)
        one.run("spaces", "create", f"bench-{transport}")
        device.run("sync", "add", f"bench-{transport}", str(device.root))
        noise(world / "next", mib, transport)
        device.start()
        device.wait()
        begun = time.perf_counter()
        (world / "next").rename(device.root / "next")
        device.wait()
        rates[transport] = mib / (time.perf_counter() - begun)
        device.stop()
    ratio = rates["quic"] / rates["tcp"]
    say("up over QUIC and over TCP", f"{rates['quic']:.0f} and {rates['tcp']:.0f} MiB/s: {ratio:.2f}", "0.9")


if __name__ == "__main__":
    main()
