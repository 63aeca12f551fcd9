#!/usr/bin/env python3
"""What `git push` costs, with the git of this machine, over HTTP.

    scripts/bench_git.py target/release/wharf target/guests [--runs N] [--large MIB]

Measured are a push with a built component, from the command to its end, which is when the new release serves; the part of it that is the
platform's; a push whose build is a shell command; twenty pushes to twenty apps at once, and what requests to another app meanwhile take; and
how much memory a large push costs.
"""

import argparse
import http.client
import json
import os
import re
import select
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchlib import ENV, Platform, free_port

GIT = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_COMMITTER_NAME": "A",
       "GIT_COMMITTER_EMAIL": "a@example.com", "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}


class Repository:
    def __init__(self, platform, app, artifact=None, manifest=""):
        self.folder = Path(platform.folder.name) / f"repository-{app}"
        self.folder.mkdir()
        self.env = {**ENV, **GIT, "HOME": platform.folder.name}
        self.app, self.manifest = app, manifest
        self.git("init", "--quiet", "--initial-branch=main")
        if artifact:
            (self.folder / "app.wasm").write_bytes(artifact.read_bytes())
        else:
            rust_project(self.folder)
        self.number = 0
        self.url = f"http://x:{platform.token}@{platform.api}/git/default/{app}.git"
        self.commit()

    def git(self, *args):
        # Clients are other machines as a rule, and take nothing from the platform's.
        done = subprocess.run(["git", *args], cwd=self.folder, env=self.env, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"git {' '.join(args)} failed: {done.stderr}")
        return done.stderr

    def commit(self):
        """Something that makes another release."""
        self.number += 1
        text = f'app = "{self.app}"\n[update]\nmonitor = "50ms"\n[env]\nNUMBER = "{self.number}"\n{self.manifest}'
        (self.folder / "wharf.toml").write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", f"Number {self.number}")

    def push(self):
        """Milliseconds of the whole command, of the platform, and of the build in that."""
        begin = time.perf_counter()
        said = self.git("push", self.url, "main")
        took = 1000 * (time.perf_counter() - begin)
        return took, told_ms("deployed after", said), told_ms("built in", said)


class Nginx:
    """Answers by itself: what is left of its p99 is the machine's."""

    def __init__(self, folder):
        self.address = f"127.0.0.1:{free_port()}"
        config = Path(folder) / "nginx.conf"
        config.write_text(f"""worker_processes auto; daemon off; pid {folder}/nginx.pid; error_log /dev/null; events {{ }}
            http {{ access_log off; keepalive_requests 10000000; server {{ listen {self.address}; location / {{ return 200 "hello\\n"; }} }} }}""")
        self.process = subprocess.Popen(["nginx", "-c", config, "-p", folder], stderr=subprocess.DEVNULL)

    def stop(self):
        self.process.terminate()
        self.process.wait(20)


def told_ms(words, said):
    found = re.search(words + r" ([\d.]+) (ms|s)", said)
    return float(found[1]) * (1 if found[2] == "ms" else 1000) if found else 0.0


def rust_project(folder):
    """An example as a project of its own, with its dependencies in it, as builds reach no network."""
    examples = Path(__file__).parent.parent / "examples"
    shutil.copytree(examples / "hello-plain", folder / "hello-plain")
    manifest = (examples / "Cargo.toml").read_text()
    manifest = re.sub(r"^members = .*$", 'members = ["hello-plain"]', manifest, flags=re.M)
    (folder / "Cargo.toml").write_text(re.sub(r"^wharf-sdk = .*$", "", manifest, flags=re.M))
    shutil.copy(examples / "Cargo.lock", folder)
    done = subprocess.run(["cargo", "vendor"], cwd=folder, env=ENV, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"cargo vendor failed: {done.stderr}")
    (folder / ".cargo").mkdir()
    (folder / ".cargo/config.toml").write_text(done.stdout)


def row(what, bar, found):
    print(f"| {what} | {bar} | {found} |")


def several(repository, runs, change=lambda number: None):
    samples = []
    for number in range(runs):
        change(number)
        repository.commit()
        samples.append(repository.push())
    whole, platform, build = zip(*samples)
    own = [taken - built for taken, built in zip(platform, build)]
    rest = [taken - built for taken, built in zip(whole, build)]
    return [f"p50 {statistics.median(of):.0f} ms, worst {max(of):.0f} ms" for of in (whole, own, rest, build)]


def latencies(address):
    """Milliseconds of requests to an app, one after the other over one connection, until stdin ends. In a process of its own: threads of one
    interpreter wait for each other."""
    samples = []
    connection = http.client.HTTPConnection(address, timeout=60)
    while not select.select([sys.stdin], [], [], 0)[0]:
        begin = time.perf_counter()
        connection.request("GET", "/", headers={"Host": "quiet.default.localhost"})
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise SystemExit(f"a request was answered with {response.status}")
        samples.append(1000 * (time.perf_counter() - begin))
    samples.sort()
    print(json.dumps([samples[len(samples) * 99 // 100], len(samples)]))


def p99_while(address, action):
    asking = subprocess.Popen([sys.executable, __file__, "--ask", address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    action()
    said, _ = asking.communicate()
    return json.loads(said)


def at_once(repositories):
    """Pushes all of them, from a process that the kernel runs when nobody else wants the CPU, with all that it starts: clients would be on other
    machines."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        failed = []
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            threads = [threading.Thread(target=attempt, args=(repository, failed)) for repository in repositories]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            os._exit(len(failed))
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"{os.waitstatus_to_exitcode(status)} of {len(repositories)} pushes failed")


def attempt(repository, failed):
    try:
        repository.push()
    except BaseException as error:
        print(error, file=sys.stderr)
        failed.append(repository)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wharf", type=Path, nargs="?")
    parser.add_argument("guests", type=Path, nargs="?")
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--large", type=int, default=200)
    options = parser.parse_args()
    if options.ask:
        return latencies(options.ask)
    hello = options.guests / "hello.wasm"
    with Platform(str(options.wharf.resolve())) as platform:
        print("| What | Bar | Found |\n|---|---|---|")
        prebuilt = Repository(platform, "prebuilt", hello)
        prebuilt.push()
        whole, own, _, _ = several(prebuilt, options.runs)
        row("push of a built component of 240 kB: old branch to new release serving", "< 1.5 s", whole)
        row("… of which the platform", "< 400 ms", own)
        built = Repository(platform, "built", hello, '[build]\ncommand = "cp app.wasm out.wasm"\nartifact = "out.wasm"\n')
        built.push()
        row("push with a build in the sandbox that copies a file: the platform's part", "< 1 s", several(built, options.runs)[1])
        rust = Repository(platform, "rust")
        rust.push()
        source = rust.folder / "hello-plain/src/main.rs"
        text = source.read_text()
        _, own, rest, build = several(rust, options.runs // 2, lambda number: source.write_text(f"// {number}\n{text}"))
        row("push that changes one line of a Rust example, with a warm cache: all but the build", "< 1 s", f"{rest}; in the platform {own}; the build {build}")
        platform.deploy("quiet", hello)
        nginx = Nginx(platform.folder.name)
        quiet, _ = p99_while(platform.http, lambda: time.sleep(5))
        quiet_nginx, _ = p99_while(nginx.address, lambda: time.sleep(5))
        repositories = [Repository(platform, f"app{number}", hello) for number in range(20)]
        begin = time.perf_counter()
        busy, count = p99_while(platform.http, lambda: at_once(repositories))
        took = time.perf_counter() - begin
        row("20 pushes to 20 new apps at once: all succeed, and the p99 of another app's requests", "< 2 × quiet",
            f"all after {took:.1f} s; {busy:.1f} ms of {count} requests, quiet {quiet:.1f} ms: {busy / quiet:.1f} ×")
        again = [repository.commit() or repository for repository in repositories]
        busy, count = p99_while(platform.http, lambda: at_once(again))
        row("… once more, to apps that are there", "< 2 × quiet", f"{busy:.1f} ms of {count} requests: {busy / quiet:.1f} ×")
        again = [repository.commit() or repository for repository in repositories]
        busy, count = p99_while(nginx.address, lambda: at_once(again))
        row("… of requests to nginx instead, which answers by itself", "", f"{busy:.1f} ms of {count} requests, quiet {quiet_nginx:.1f} ms: {busy / quiet_nginx:.1f} ×")
        nginx.stop()
        large = Repository(platform, "large", hello)
        for number in range(options.large // 10):
            (large.folder / f"file-{number}").write_bytes(os.urandom(10 << 20))
        large.commit()
        before, most, over = platform.rss_mb(), [0.0], threading.Event()

        def watch():
            while not over.wait(0.05):
                most[0] = max(most[0], platform.rss_mb())

        watching = threading.Thread(target=watch)
        watching.start()
        took, _, _ = large.push()
        over.set()
        watching.join()
        row(f"push of a repository of {options.large} MB: growth of the control plane's memory", "< 50 MB",
            f"{most[0] - before:.0f} MB at most, in {took / 1000:.1f} s")


if __name__ == "__main__":
    main()
