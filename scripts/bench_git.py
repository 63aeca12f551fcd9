#!/usr/bin/env python3
"""What `git push` costs, with the git of this machine, over HTTP.

    scripts/bench_git.py target/release/wharf target/guests [--runs N] [--large MIB]

Measured are a push with a built component, from the command to its end, which is when the new release serves; the part of it that is the
platform's; a push whose build is a shell command; twenty pushes to twenty apps at once, and what requests to another app meanwhile take; and
how much memory a large push costs.
"""

import argparse
import os
import re
import statistics
import subprocess
import threading
import time
from pathlib import Path

from benchlib import ENV, Platform

GIT = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_COMMITTER_NAME": "A",
       "GIT_COMMITTER_EMAIL": "a@example.com", "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}


class Repository:
    def __init__(self, platform, app, artifact, manifest=""):
        self.folder = Path(platform.folder.name) / f"repository-{app}"
        self.folder.mkdir()
        self.env = {**ENV, **GIT, "HOME": platform.folder.name}
        self.app, self.manifest = app, manifest
        self.git("init", "--quiet", "--initial-branch=main")
        (self.folder / "app.wasm").write_bytes(artifact.read_bytes())
        self.number = 0
        self.url = f"http://x:{platform.token}@{platform.api}/git/default/{app}.git"
        self.commit()

    def git(self, *args):
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
        """Milliseconds of the whole command, and of the platform."""
        begin = time.perf_counter()
        said = self.git("push", self.url, "main")
        took = 1000 * (time.perf_counter() - begin)
        number, unit = re.search(r"deployed after ([\d.]+) (ms|s)", said).groups()
        return took, float(number) * (1 if unit == "ms" else 1000)


def row(what, bar, found):
    print(f"| {what} | {bar} | {found} |")


def several(repository, runs):
    samples = []
    for _ in range(runs):
        repository.commit()
        samples.append(repository.push())
    whole, own = zip(*samples)
    return f"p50 {statistics.median(whole):.0f} ms, worst {max(whole):.0f} ms", f"p50 {statistics.median(own):.0f} ms, worst {max(own):.0f} ms"


def latencies(platform, until):
    """Milliseconds of requests to an app, one after the other, until something has ended."""
    samples = []
    while not until.is_set():
        begin = time.perf_counter()
        if platform.get("quiet") != 200:
            raise SystemExit("a request failed")
        samples.append(1000 * (time.perf_counter() - begin))
    samples.sort()
    return samples[len(samples) * 99 // 100], len(samples)


def p99_while(platform, action):
    over, found = threading.Event(), []
    asking = threading.Thread(target=lambda: found.append(latencies(platform, over)))
    asking.start()
    action()
    over.set()
    asking.join()
    return found[0]


def at_once(repositories):
    threads = [threading.Thread(target=repository.push) for repository in repositories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wharf", type=Path)
    parser.add_argument("guests", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--large", type=int, default=200)
    options = parser.parse_args()
    hello = options.guests / "hello.wasm"
    with Platform(str(options.wharf.resolve())) as platform:
        print("| What | Bar | Found |\n|---|---|---|")
        prebuilt = Repository(platform, "prebuilt", hello)
        prebuilt.push()
        whole, own = several(prebuilt, options.runs)
        row("push of a built component of 240 kB: old branch to new release serving", "< 1.5 s", whole)
        row("… of which the platform", "< 400 ms", own)
        built = Repository(platform, "built", hello, '[build]\ncommand = "cp app.wasm out.wasm"\nartifact = "out.wasm"\n')
        built.push()
        row("push with a build in the sandbox that copies a file: the platform's part", "< 1 s", several(built, options.runs)[1])
        platform.deploy("quiet", hello)
        quiet, _ = p99_while(platform, lambda: time.sleep(5))
        repositories = [Repository(platform, f"app{number}", hello) for number in range(20)]
        begin = time.perf_counter()
        busy, count = p99_while(platform, lambda: at_once(repositories))
        took = time.perf_counter() - begin
        row("20 pushes to 20 new apps at once: all succeed, and the p99 of another app's requests", "< 2 × quiet",
            f"all after {took:.1f} s; {busy:.1f} ms of {count} requests, quiet {quiet:.1f} ms: {busy / quiet:.1f} ×")
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
        took, _ = large.push()
        over.set()
        watching.join()
        row(f"push of a repository of {options.large} MB: growth of the control plane's memory", "< 50 MB",
            f"{most[0] - before:.0f} MB at most, in {took / 1000:.1f} s")


if __name__ == "__main__":
    main()
