#!/usr/bin/env python3
"""How one control plane bears many workers: takes root, as it makes a network of its own.

    scripts/bench_swarm.py target/release/wharf target/release/examples/swarm target/guests [--workers N] [--instances N] [--app hello]

The workers are in one process, with the real session, supervisor and TLS, and guests that do nothing. Measured are the time in which all
join, the time from the first deploy until every instance is reported as running, and what the control plane takes meanwhile. Apps are
services without routes, unless `--app` names a guest that has some: then every worker is told the way to every instance.
"""

import argparse
import json
import re
import subprocess
import tempfile
import time
from pathlib import Path

from bench_cluster import Cluster

REPLICAS = 1000


def memory(process):
    """Resident now and at most, in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return [int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1000 for name in ("VmRSS", "VmHWM")]


def cpu(process):
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wharf", type=Path)
    parser.add_argument("swarm", type=Path)
    parser.add_argument("guests", type=Path)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--instances", type=int, default=100_000)
    parser.add_argument("--app", default="c-command")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(options.wharf.resolve(), Path(folder), 99)
        swarm = None
        try:
            token = cluster.call("POST", "/v1/join-tokens", {"uses": options.workers})
            swarm = subprocess.Popen([options.swarm.resolve(), str(options.workers), f"{token['token']}@{token['address']}"],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=cluster.env)
            joined = json.loads(swarm.stdout.readline())
            print(f"{joined['joined']} workers have joined after {joined['seconds']:.1f} s")
            began = time.monotonic()
            before = [cpu(cluster.server), cpu(swarm)]
            for index in range(options.instances // REPLICAS):
                cluster.deploy(options.guests.resolve() / f"{options.app}.wasm", f"app{index}", REPLICAS)
            deployed = time.monotonic() - began
            for line in swarm.stdout:
                said = json.loads(line)
                if said["running"] >= options.instances:
                    break
                if time.monotonic() - began > 900:
                    print(f"waited in vain; the workers have {said}")
                    break
            running = time.monotonic() - began
            cluster.wait("the control plane knows", lambda: cluster.ready() >= options.instances, limit=300, pause=1)
            known = time.monotonic() - began
            now, most = memory(cluster.server)
            print(f"{options.instances} instances of {options.instances // REPLICAS} apps, asked for within {deployed:.1f} s, run after {running:.1f} s"
                  f" and are known to after {known:.1f} s")
            print(f"control plane: {now:.0f} MB, {most:.0f} MB at most, {cpu(cluster.server) - before[0]:.0f} s of CPU;"
                  f" all workers: {memory(swarm)[0]:.0f} MB, {cpu(swarm) - before[1]:.0f} s of CPU")
            time.sleep(10)
            idle = [cpu(cluster.server), cpu(swarm)]
            time.sleep(10)
            print(f"when nothing happens: control plane {(cpu(cluster.server) - idle[0]) / 10:.1%} of a core, all workers {(cpu(swarm) - idle[1]) / 10:.1%}")
        finally:
            if swarm:
                swarm.kill()
                swarm.wait()
            cluster.end()


main()
