#!/usr/bin/env python3
"""What containers cost, beside Docker Swarm on the same engine and nginx in front of the same container, in one run.

    scripts/bench_containers.py target/release/wharf [--runs N] [--adopt N] [--no-swarm]

Takes a Docker engine, a C compiler that links statically, `wrk` and `nginx`. The engine becomes the one manager of a swarm, and leaves it again; it
must not be in one. Swarm's service has its port in host mode: its routing mesh needs IPVS, which not every kernel has. Two tasks cannot have one
port of the host, so Swarm replaces its task stop-first, and its services of many tasks have no port.
"""

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from benchlib import Platform, free_port, wrk

IMAGE = "wharf-bench/web:1"
SERVICE = "wharf-bench"
LIMIT = 120
APP = "/v1/namespaces/default/apps/web"
# Without it a container that ends within the first seconds of its first release counts as one that cannot run.
SETTINGS = '[limits]\nmemory = "32MiB"\n[container]\nhttp_port = 8000\n[update]\nmonitor = "0s"\n'


def run(*command, **more):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **more)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed: {done.stderr}")
    return done.stdout.strip()


def docker(*args):
    return run("docker", *args)


def make_image():
    source = Path(__file__).parent / "bench-containers" / "server.c"
    with tempfile.TemporaryDirectory() as folder:
        run("cc", "-O2", "-static", "-pthread", "-o", f"{folder}/server", source)
        tar = subprocess.run(["tar", "-c", "-C", folder, "server"], capture_output=True, check=True).stdout
        subprocess.run(["docker", "import", "-c", 'ENTRYPOINT ["/server"]', "-", IMAGE], input=tar, capture_output=True, check=True)


def until(is_so, what):
    begin = time.perf_counter()
    while not is_so():
        if time.perf_counter() - begin > LIMIT:
            raise SystemExit(f"waited {LIMIT} s in vain: {what}")
        time.sleep(0.002)
    return time.perf_counter() - begin


def answers(address, host):
    """Whether a new connection is answered with 200."""
    try:
        connection = http.client.HTTPConnection(address, timeout=5)
        connection.request("GET", "/", headers={"Host": host})
        status = connection.getresponse().status
        connection.close()
        return status == 200
    except OSError:
        return False


class Load:
    """One request after the other until the end; counts those that failed."""

    def __init__(self, address, host):
        self.over, self.count, self.failed = threading.Event(), 0, 0
        self.address, self.host = address, host
        self.thread = threading.Thread(target=self.ask)

    def ask(self):
        while not self.over.is_set():
            self.count += 1
            self.failed += not answers(self.address, self.host)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


class Swarm:
    host = "localhost"

    def __init__(self):
        docker("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:2377")
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"

    def containers(self):
        return docker("ps", "--quiet", "--no-trunc", "--filter", f"label=com.docker.swarm.service.name={SERVICE}").split()

    def create(self):
        docker("service", "create", "--detach", "--quiet", "--name", SERVICE, "--no-resolve-image", "--limit-memory", "32M",
               "--publish", f"mode=host,published={self.port},target=8000", IMAGE)

    def remove(self):
        docker("service", "rm", SERVICE)
        until(lambda: not self.containers(), "the containers of the service end")

    def update(self, number):
        docker("service", "update", "--quiet", "--env-add", f"NUMBER={number}", SERVICE)

    def scale(self):
        docker("service", "create", "--quiet", "--name", SERVICE, "--no-resolve-image", "--limit-memory", "32M", "--replicas", "2", IMAGE)
        begin = time.perf_counter()
        docker("service", "scale", f"{SERVICE}=20")
        took = time.perf_counter() - begin
        self.remove()
        return took

    def leave(self):
        docker("swarm", "leave", "--force")


class Wharf:
    host = "web.default.localhost"

    def __init__(self, platform):
        self.platform, self.address = platform, platform.http
        self.folder = Path(platform.folder.name) / "web"
        self.folder.mkdir()

    def containers(self):
        return docker("ps", "--quiet", "--no-trunc", "--filter", "label=wharf.instance").split()

    def deploy(self, settings=""):
        (self.folder / "wharf.toml").write_text(f'app = "web"\nimage = "{IMAGE}"\n{SETTINGS}{settings}')
        self.platform.cli("deploy", str(self.folder))

    def create(self):
        self.deploy()

    def remove(self):
        self.platform.cli("delete", "web", "--yes")
        until(lambda: self.asked()[0] == 404 and not self.containers(), "the app is gone")

    def update(self, number):
        self.deploy(f'[env]\nNUMBER = "{number}"\n')

    def asked(self):
        """What the API says of the app, with the status."""
        connection = http.client.HTTPConnection(self.platform.api, timeout=10)
        connection.request("GET", APP, headers={"Authorization": f"Bearer {self.platform.token}"})
        response = connection.getresponse()
        said = json.loads(response.read())
        connection.close()
        return response.status, said

    def ready(self):
        try:
            return self.asked()[1].get("ready")
        except OSError:
            return None

    def scale_to(self, replicas):
        self.platform.call("PUT", f"{APP}/scale", json.dumps({"replicas": replicas}))
        until(lambda: self.ready() == replicas, f"{replicas} instances are ready")

    def scale(self):
        self.create()
        self.scale_to(2)
        begin = time.perf_counter()
        self.scale_to(20)
        took = time.perf_counter() - begin
        self.remove()
        return took


def one_replica(of):
    """Seconds from the command to the first answer, from a kill to the next answer, and of an update until the old container is gone; and what
    the update cost."""
    thread = threading.Thread(target=of.create)
    begin = time.perf_counter()
    thread.start()
    until(lambda: answers(of.address, of.host), "the first answer")
    created = time.perf_counter() - begin
    thread.join()
    [before] = of.containers()
    docker("kill", before)
    begin = time.perf_counter()
    until(lambda: answers(of.address, of.host), "an answer after the kill")
    killed = time.perf_counter() - begin
    # The one that ended may be listed for a moment.
    until(lambda: len(of.containers()) == 1 and of.containers() != [before], "another container")
    [before] = of.containers()
    with Load(of.address, of.host) as load:
        thread = threading.Thread(target=of.update, args=(time.time_ns(),))
        begin = time.perf_counter()
        thread.start()
        until(lambda: before not in of.containers(), "the old container ends")
        gone = time.perf_counter() - begin
        thread.join()
        updated = time.perf_counter() - begin
    of.remove()
    return created, killed, gone, updated, load.failed, load.count


def measured(of, runs):
    created, killed, gone, updated, failed, count = zip(*(one_replica(of) for _ in range(runs)))
    scaled = [of.scale() for _ in range(max(1, runs // 3))]
    middle = statistics.median
    return {"created": middle(created), "killed": middle(killed), "worst": max(killed), "gone": middle(gone), "updated": middle(updated),
            "failed": sum(failed), "count": sum(count), "scaled": middle(scaled)}


class Nginx:
    """A proxy to one address, with as many connections kept as it has clients."""

    def __init__(self, upstream):
        self.folder = tempfile.TemporaryDirectory(prefix="wharf-bench-")
        self.port = free_port()
        Path(self.folder.name, "nginx.conf").write_text(f"""
            worker_processes auto; daemon off; pid {self.folder.name}/pid; error_log /dev/null;
            events {{ worker_connections 4096; }}
            http {{
                access_log off; client_body_temp_path {self.folder.name}/a; proxy_temp_path {self.folder.name}/b;
                fastcgi_temp_path {self.folder.name}/c; uwsgi_temp_path {self.folder.name}/d; scgi_temp_path {self.folder.name}/e;
                keepalive_requests 10000000;
                upstream web {{ server {upstream}; keepalive 64; keepalive_requests 10000000; }}
                server {{ listen 127.0.0.1:{self.port}; location / {{ proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
            }}""")
        self.process = subprocess.Popen(["nginx", "-c", f"{self.folder.name}/nginx.conf"], stderr=subprocess.DEVNULL)
        until(lambda: answers(f"127.0.0.1:{self.port}", "localhost"), "nginx answers")

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.folder.cleanup()


def throughput(wharf, rounds=5, seconds=5):
    """Requests a second through the platform and through nginx, in turn."""
    wharf.create()
    [container] = wharf.containers()
    networks = json.loads(docker("inspect", container))[0]["NetworkSettings"]["Networks"]
    upstream = next(network["IPAddress"] for network in networks.values())
    nginx = Nginx(f"{upstream}:8000")
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(wrk(f"http://{wharf.address}/", wharf.host, seconds)[0])
        theirs.append(wrk(f"http://127.0.0.1:{nginx.port}/", "localhost", seconds)[0])
    nginx.stop()
    wharf.remove()
    return statistics.median(ours), statistics.median(theirs)


def adoption(wharf, count):
    """Seconds from the start of a platform that was killed until all containers are ready again; those that are others then; and requests that
    failed after its front door answered at all."""
    platform = wharf.platform
    wharf.create()
    wharf.scale_to(count)
    before = set(wharf.containers())
    command, env = platform.process.args, platform.env
    command = [word if word != "127.0.0.1:0" else "" for word in command]
    listening = iter([platform.api, platform.http])
    command = [word or next(listening) for word in command]
    platform.process.send_signal(signal.SIGKILL)
    platform.process.wait()
    begin = time.perf_counter()
    platform.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=env)

    def listens():
        try:
            connection = http.client.HTTPConnection(wharf.address, timeout=5)
            connection.connect()
            connection.close()
            return True
        except OSError:
            return False

    until(listens, "the front door is open")
    with Load(wharf.address, wharf.host) as load:
        until(lambda: wharf.ready() == count, "all are adopted")
        took = time.perf_counter() - begin
        time.sleep(1)
    others = len(before.symmetric_difference(wharf.containers()))
    wharf.remove()
    return took, others, load.failed, load.count


def row(what, bar, found, swarm):
    print(f"| {what} | {bar} | {found} | {swarm} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wharf", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--adopt", type=int, default=50)
    parser.add_argument("--no-swarm", action="store_true")
    options = parser.parse_args()
    make_image()
    with Platform(str(options.wharf.resolve())) as platform:
        wharf = Wharf(platform)
        if wharf.containers():
            raise SystemExit("the engine has containers of another platform, which would be counted")
        ours = measured(wharf, options.runs)
        theirs = None
        if not options.no_swarm:
            swarm = Swarm()
            try:
                theirs = measured(swarm, options.runs)
            finally:
                swarm.leave()
        print("| What | Bar | Found | Swarm |\n|---|---|---|---|")
        of = lambda text: text(theirs) if theirs else "–"
        row("an app of one container: from the command to the first 200", "< 0.6 s", f"{ours['created']:.2f} s", of(lambda it: f"{it['created']:.2f} s"))
        row("a container is killed: until the next 200", "< 0.5 s", f"{ours['killed']:.2f} s, worst {ours['worst']:.2f} s",
            of(lambda it: f"{it['killed']:.2f} s"))
        row("an update of one replica: until the old container is gone", "< 3 s", f"{ours['gone']:.2f} s; the command {ours['updated']:.2f} s",
            of(lambda it: f"{it['gone']:.2f} s; the command {it['updated']:.2f} s"))
        row("… requests that failed meanwhile", "0", f"{ours['failed']} of {ours['count']}", of(lambda it: f"{it['failed']} of {it['count']}"))
        row("scale from 2 to 20 containers, until all are ready", "< 5 s", f"{ours['scaled']:.1f} s", of(lambda it: f"{it['scaled']:.1f} s"))
        through, proxied = throughput(wharf)
        row("requests/s to a container, against nginx `proxy_pass` to the same port", "≥ 1.0 ×",
            f"{through / proxied:.2f} × ({through:.0f} of {proxied:.0f})", "–")
        took, others, failed, count = adoption(wharf, options.adopt)
        row(f"adoption of {options.adopt} containers after `kill -9` of the platform: from its start until all are ready", "< 2 s",
            f"{took:.2f} s, {others} others than before, {failed} of {count} requests failed", "–")


if __name__ == "__main__":
    main()
