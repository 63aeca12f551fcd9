#!/usr/bin/env python3
"""What a cluster costs and how long it takes to get over a loss: hosts are network namespaces of this machine, which takes root and iproute2.

    scripts/bench_cluster.py target/release/wharf target/guests [--runs N] [--instances N]

Each run starts a control plane and three hosts, places instances evenly, cuts one host's link and kills its worker in the same moment, and
measures from there until every instance that was lost is ready elsewhere. Meanwhile requests go to an app with replicas, one after the
other, through the front door of a host that lives.

With `--soak SECONDS` one worker after the other stands still for a second every three seconds, and none may be taken for dead. With `--away
SECONDS` the control plane is gone for so long; halfway a worker is killed and started again.
"""

import argparse
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

APPS = 10
HOSTS = 3


def sh(command):
    subprocess.run(command, shell=True, check=True)


class Cluster:
    def __init__(self, wharf, folder, number):
        self.wharf, self.folder, self.number = wharf, folder, number
        self.bridge = f"wfb{number}"
        self.env = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        for name in ("RUST_BACKTRACE", "WHARF_API", "WHARF_TOKEN"):
            self.env.pop(name, None)
        self.hosts = []
        sh(f"ip link add {self.bridge} type bridge && ip addr add 10.127.{number}.1/24 dev {self.bridge} && ip link set {self.bridge} up")
        self.server = self.start([wharf, "server", "--data", folder / "data", "--api", "127.0.0.1:0",
                                  "--workers", f"10.127.{number}.1:7071", "--json"])
        said = json.loads(self.server.stdout.readline())
        self.api = re.sub("^http://", "", said["api"])
        self.token = Path(said["token_file"]).read_text().strip()

    def start(self, command):
        log = open(self.folder / "log", "ab")
        return subprocess.Popen([str(word) for word in command], env=self.env, stdout=subprocess.PIPE, stderr=log, cwd=self.folder)

    def add_host(self):
        index = len(self.hosts) + 1
        name, link, address = f"{self.bridge}-{index}", f"{self.bridge}p{index}", f"10.127.{self.number}.{10 + index}"
        sh(f"ip netns add {name} && ip link add {link} type veth peer name eth0 netns {name}"
           f" && ip link set {link} master {self.bridge} up && ip -n {name} addr add {address}/24 dev eth0"
           f" && ip -n {name} link set eth0 up && ip -n {name} link set lo up")
        token = self.call("POST", "/v1/join-tokens", {})
        process = self.start(["ip", "netns", "exec", name, self.wharf, "worker", "--data", self.folder / name, "--json", "--http",
                              f"{address}:8080", "--peers", f"{address}:7072", "--join", f"{token['token']}@{token['address']}"])
        node = json.loads(process.stdout.readline())["node"]
        self.hosts.append({"node": node, "process": process, "link": link, "name": name, "address": address})

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.api, timeout=60)
        connection.request(method, path, None if body is None else json.dumps(body), {"authorization": f"Bearer {self.token}"})
        reply = connection.getresponse()
        text = reply.read()
        if reply.status >= 300:
            raise RuntimeError(f"{method} {path}: {reply.status} {text[:300]}")
        return json.loads(text) if text else None

    def deploy(self, guest, app, replicas):
        artifact = guest.read_bytes()
        digest = f"sha256:{__import__('hashlib').sha256(artifact).hexdigest()}"
        connection = http.client.HTTPConnection(self.api, timeout=60)
        connection.request("PUT", f"/v1/namespaces/default/artifacts/{digest}", artifact, {"authorization": f"Bearer {self.token}"})
        connection.getresponse().read()
        spec = {"scale": {"replicas": replicas}, "update": {"parallelism": "100%", "monitor": "100ms"}}
        self.call("POST", f"/v1/namespaces/default/apps/{app}/releases", {"artifact": digest, "spec": spec})

    def apps(self):
        found, cursor = [], ""
        while cursor is not None:
            page = self.call("GET", f"/v1/namespaces/default/apps?cursor={cursor}" if cursor else "/v1/namespaces/default/apps")
            found += page["items"]
            cursor = page["next_cursor"]
        return found

    def ready(self):
        return sum(app["ready"] for app in self.apps())

    def wait(self, what, done, limit=240, pause=0.02):
        until = time.monotonic() + limit
        while not done():
            if time.monotonic() > until:
                raise RuntimeError(f"waited in vain: {what}")
            time.sleep(pause)

    def instances_on(self, node):
        return self.call("GET", f"/v1/nodes/{node}")["instances"]

    def end(self):
        for process in [host["process"] for host in self.hosts] + [self.server]:
            process.kill()
            process.wait()
        for host in self.hosts:
            subprocess.run(["ip", "netns", "del", host["name"]], check=False)
        subprocess.run(["ip", "link", "del", self.bridge], check=False)


class Load(threading.Thread):
    """One request after the other, until it is told to stop."""

    def __init__(self, address, app):
        super().__init__(daemon=True)
        self.address, self.host = address, f"{app}.default.localhost"
        self.requests, self.failed, self.stopped = 0, [], False

    def run(self):
        connection = None
        while not self.stopped:
            try:
                connection = connection or http.client.HTTPConnection(self.address, 8080, timeout=10)
                connection.request("GET", "/", headers={"host": self.host})
                reply = connection.getresponse()
                reply.read()
                if reply.status != 200:
                    self.failed.append(f"{reply.status} {reply.getheader('x-wharf-error', '')}")
            except OSError as error:
                self.failed.append(str(error))
                connection = None
            self.requests += 1
            time.sleep(0.002)


def idle(process, seconds=10):
    """Resident memory in MB, and the share of one core."""
    def ticks():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])
    before = ticks()
    time.sleep(seconds)
    share = (ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds
    rss = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
    return int(rss[1]) / 1000, share


def run(options, number):
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(options.wharf, Path(folder), number)
        try:
            for _ in range(HOSTS):
                cluster.add_host()
            cluster.wait("the nodes are ready", lambda: sum(node["ready"] for node in cluster.call("GET", "/v1/nodes")["items"]) == HOSTS)
            figures = {}
            if number == 1:
                figures["worker idle"] = idle(cluster.hosts[0]["process"])
            total = options.instances * HOSTS
            began = time.monotonic()
            for index in range(APPS):
                cluster.deploy(options.guests / "hello.wasm", f"app{index}", total // APPS)
            cluster.wait("all are ready", lambda: cluster.ready() == total)
            figures["placed"] = time.monotonic() - began
            cluster.wait("rollouts have ended", lambda: all(app["rollout"]["state"] == "succeeded" for app in cluster.apps()))
            lost = cluster.hosts[-1]
            figures["lost"] = cluster.instances_on(lost["node"])
            load = Load(cluster.hosts[0]["address"], "app0")
            load.start()
            time.sleep(1)
            sh(f"ip link set {lost['link']} down")
            lost["process"].send_signal(signal.SIGKILL)
            began = time.monotonic()
            cluster.wait("the loss is noticed", lambda: cluster.ready() < total)
            figures["noticed"] = time.monotonic() - began
            cluster.wait("all are ready again", lambda: cluster.ready() == total)
            figures["ready again"] = time.monotonic() - began
            time.sleep(1)
            load.stopped = True
            load.join()
            figures["requests"], figures["failed"] = load.requests, load.failed
            return figures
        finally:
            cluster.end()


def prepared(options, folder, number):
    """Three hosts with six instances of one app, and a load on it at the first."""
    cluster = Cluster(options.wharf, Path(folder), number)
    try:
        for _ in range(HOSTS):
            cluster.add_host()
        cluster.wait("the nodes are ready", lambda: sum(node["ready"] for node in cluster.call("GET", "/v1/nodes")["items"]) == HOSTS)
        cluster.deploy(options.guests / "hello.wasm", "app0", 6)
        cluster.wait("all are ready", lambda: cluster.ready() == 6)
        cluster.wait("the rollout has ended", lambda: all(app["rollout"]["state"] == "succeeded" for app in cluster.apps()))
    except BaseException:
        cluster.end()
        raise
    load = Load(cluster.hosts[0]["address"], "app0")
    load.start()
    time.sleep(1)
    return cluster, load


def live(cluster):
    instances = cluster.call("GET", "/v1/namespaces/default/apps/app0")["instances"]
    return {instance["id"] for instance in instances if instance["state"] not in ("stopped", "failed", "lost")}


def ended(load):
    time.sleep(1)
    load.stopped = True
    load.join()
    return f"{load.requests} requests, {len(load.failed)} failed {load.failed[:5]}"


def soak(options):
    with tempfile.TemporaryDirectory() as folder:
        cluster, load = prepared(options, folder, 120)
        try:
            before, stalls, until = live(cluster), 0, time.monotonic() + options.soak
            while time.monotonic() < until:
                process = cluster.hosts[stalls % HOSTS]["process"]
                process.send_signal(signal.SIGSTOP)
                time.sleep(1)
                process.send_signal(signal.SIGCONT)
                stalls += 1
                time.sleep(2)
            print(f"{stalls} stalls of 1 s in {options.soak} s: {len(before - live(cluster))} of {len(before)} instances were replaced; {ended(load)}")
        finally:
            cluster.end()


def away(options):
    with tempfile.TemporaryDirectory() as folder:
        cluster, load = prepared(options, folder, 121)
        try:
            before = live(cluster)
            cluster.server.kill()
            cluster.server.wait()
            time.sleep(options.away / 2)
            last = cluster.hosts[-1]
            last["process"].kill()
            last["process"].wait()
            began = time.monotonic()
            last["process"] = cluster.start(["ip", "netns", "exec", last["name"], cluster.wharf, "worker", "--data", cluster.folder / last["name"],
                                             "--json", "--http", f"{last['address']}:8080", "--peers", f"{last['address']}:7072"])
            def serves():
                reply = subprocess.run(["ip", "netns", "exec", last["name"], "curl", "-so", "/dev/null", "-w", "%{http_code}", "-H",
                                        "host: app0.default.localhost", f"http://{last['address']}:8080/"], capture_output=True, text=True)
                return reply.stdout == "200"
            cluster.wait("the worker serves again", serves)
            again = time.monotonic() - began
            time.sleep(options.away / 2)
            cluster.server = cluster.start([cluster.wharf, "server", "--data", cluster.folder / "data", "--api", "127.0.0.1:0",
                                            "--workers", f"10.127.{cluster.number}.1:7071", "--json"])
            cluster.api = re.sub("^http://", "", json.loads(cluster.server.stdout.readline())["api"])
            cluster.wait("all are known to be ready", lambda: cluster.ready() == 6)
            print(f"the control plane was away for {options.away} s: {ended(load)}; a worker that was killed and started meanwhile served after"
                  f" {again:.2f} s; {len(before & live(cluster))} of {len(before)} instances are those of before")
        finally:
            cluster.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wharf", type=Path)
    parser.add_argument("guests", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--instances", type=int, default=1000, help="on each of the three hosts")
    parser.add_argument("--soak", type=int, metavar="SECONDS")
    parser.add_argument("--away", type=int, metavar="SECONDS")
    options = parser.parse_args()
    options.wharf, options.guests = options.wharf.resolve(), options.guests.resolve()
    if options.soak or options.away:
        if options.soak:
            soak(options)
        if options.away:
            away(options)
        return
    all_runs = []
    for number in range(1, options.runs + 1):
        figures = run(options, number)
        print(json.dumps(figures), file=sys.stderr)
        all_runs.append(figures)
    again = sorted(figures["ready again"] for figures in all_runs)
    rss, share = all_runs[0]["worker idle"]
    print(f"worker idle: {rss:.0f} MB, {share:.1%} of a core")
    print(f"{all_runs[0]['lost']} instances lost with a host, ready again after: p50 {statistics.median(again):.2f} s, worst of {len(again)} {again[-1]:.2f} s")
    failed = [failure for figures in all_runs for failure in figures["failed"]]
    print(f"requests to an app with replicas meanwhile: {sum(figures['requests'] for figures in all_runs)}, failed: {len(failed)} {failed[:5]}")


if __name__ == "__main__":
    main()
