#!/usr/bin/env python3
"""Measures what docs/promises.md promises, beside `wasmtime serve` in the same run.

usage: bench.py WHARF WASMTIME GUESTS [--seconds N] [--rounds N] [--only NAME,...]

WHARF and WASMTIME are binaries, GUESTS is the folder with hello.wasm, hello-p3.wasm and crash.wasm. Needs `wrk`. Prints a
Markdown table. Each figure is the median of its rounds; rounds of the two sides alternate, so that a noisy moment hits both.
"""
import argparse, http.client, json, os, re, secrets, signal, statistics, subprocess, tempfile, threading, time
from pathlib import Path

ENV = {k: v for k, v in os.environ.items() if k != "RUST_BACKTRACE"}


class Platform:
    """One `wharf up` with a data directory of its own."""

    def __init__(self, wharf, data=None):
        self.wharf = wharf
        self.folder = tempfile.TemporaryDirectory(prefix="wharf-bench-")
        self.env = {**ENV, "XDG_CONFIG_HOME": self.folder.name}
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            [wharf, "up", "--data", data or f"{self.folder.name}/data", "--api", "127.0.0.1:0", "--http", "127.0.0.1:0", "--json"],
            stdout=subprocess.PIPE, env=self.env)
        ready = json.loads(self.process.stdout.readline())
        self.ready_ms = 1000 * (time.perf_counter() - begin)
        self.http = ready["http"].removeprefix("http://")

    def rss_mb(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def cli(self, *args):
        done = subprocess.run([self.wharf, *args], env=self.env, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"wharf {' '.join(args)} failed: {done.stderr}")
        return done.stdout

    def get(self, app, path="/", timeout=60):
        connection = http.client.HTTPConnection(self.http, timeout=timeout)
        connection.request("GET", path, headers={"Host": f"{app}.default.localhost"})
        status = connection.getresponse().status
        connection.close()
        return status

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(40)
        self.folder.cleanup()


def variant(wasm, to):
    """The same component with other bytes: a custom section with a random payload at its end."""
    payload = b"\x04salt" + secrets.token_bytes(16)
    to.write_bytes(wasm.read_bytes() + b"\x00" + bytes([len(payload)]) + payload)
    return str(to)


def timed_ms(action):
    begin = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - begin)


def wrk(url, host, seconds, connections=32):
    done = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-H", f"Host: {host}", url],
                          capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in done or "Socket errors" in done:
        print(f"<!-- {host}: {re.findall('.*(?:Non-2xx|Socket errors).*', done)} -->")
    units = {"us": 0.001, "ms": 1, "s": 1000}
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", done)
    return float(re.search(r"Requests/sec:\s+([\d.]+)", done)[1]), float(p99[1]) * units[p99[2]]


class Serve:
    """`wasmtime serve` of one component."""

    def __init__(self, wasmtime, wasm, port, *flags):
        self.url = f"http://127.0.0.1:{port}/"
        self.process = subprocess.Popen([wasmtime, "serve", "-S", "cli", "--addr", f"127.0.0.1:{port}", *flags, wasm],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENV)
        for _ in range(1000):
            try:
                connection = http.client.HTTPConnection(f"127.0.0.1:{port}", timeout=5)
                connection.request("GET", "/")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                time.sleep(0.05)
        raise SystemExit("wasmtime serve did not start")

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)


def row(what, ours, peer="", ratio="", bar=""):
    print(f"| {what} | {ours} | {peer} | {ratio} | {bar} |", flush=True)


def startup(args):
    samples = []
    for _ in range(10):
        platform = Platform(args.wharf)
        samples.append((platform.ready_ms, platform.rss_mb()))
        platform.stop()
    row("`wharf up` until ready", f"{statistics.median(s[0] for s in samples):.0f} ms", bar="< 300 ms")
    row("resident memory when ready", f"{statistics.median(s[1] for s in samples):.0f} MB", bar="< 60 MB")


def deploys(args):
    platform = Platform(args.wharf)
    folder = Path(platform.folder.name)
    hello = args.guests / "hello.wasm"

    def push(wasm):
        def action():
            platform.cli("deploy", wasm, "--app", "hello", "--json")
            assert platform.get("hello") == 200
        return action

    fresh = [timed_ms(push(variant(hello, folder / "new.wasm"))) for _ in range(20)]
    known = [variant(hello, folder / f"{name}.wasm") for name in "ab"]
    for wasm in known:
        push(wasm)()
    seen = [timed_ms(push(known[i % 2])) for i in range(20)]

    def rollback():
        platform.cli("rollback", "--app", "hello")
        assert platform.get("hello") == 200
    back = [timed_ms(rollback) for _ in range(20)]
    size = hello.stat().st_size // 1000
    row(f"push of a {size} kB component it has never seen → first 200 (p50 / max of 20)",
        f"{statistics.median(fresh):.0f} / {max(fresh):.0f} ms", bar="p50 < 500 ms")
    row("push of one it has seen → first 200", f"{statistics.median(seen):.0f} / {max(seen):.0f} ms", bar="< 60 ms")
    row("rollback → first 200", f"{statistics.median(back):.0f} / {max(back):.0f} ms", bar="< 100 ms")
    platform.stop()


def throughput(args):
    platform = Platform(args.wharf)
    folder = Path(platform.folder.name)
    reuse = folder / "reuse"
    reuse.mkdir()
    (reuse / "wharf.toml").write_text(
        f'app = "reuse"\n[build]\nartifact = "{(args.guests / "hello.wasm").resolve()}"\n[reuse]\nmode = "serial"\nmax_requests = 1000\n')
    platform.cli("deploy", str(args.guests / "hello.wasm"), "--app", "hello")
    platform.cli("deploy", str(args.guests / "hello-p3.wasm"), "--app", "hello-p3")
    platform.cli("deploy", str(reuse))
    cases = [
        ("WASI 0.2, new instance per request", "hello", "hello.wasm", [], "≥ 2.5 ×"),
        ("WASI 0.2, 1000 requests per instance", "reuse", "hello.wasm", ["--max-instance-reuse-count", "1000"], "≥ 1.0 ×"),
        ("WASI 0.3, defaults", "hello-p3", "hello-p3.wasm", [], "≥ 0.9 ×"),
    ]
    for port, (what, app, wasm, flags, bar) in enumerate(cases, 18100):
        peer = Serve(args.wasmtime, str(args.guests / wasm), port, *flags)
        host = f"{app}.default.localhost"
        wrk(f"http://{platform.http}/", host, 1), wrk(peer.url, "localhost", 1)
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(wrk(f"http://{platform.http}/", host, args.seconds))
            theirs.append(wrk(peer.url, "localhost", args.seconds))
        peer.stop()
        a, b = (statistics.median(sample[0] for sample in side) for side in (ours, theirs))
        p, q = (statistics.median(sample[1] for sample in side) for side in (ours, theirs))
        row(f"{what}: requests/s (p99)", f"{a:,.0f} ({p:.2f} ms)", f"{b:,.0f} ({q:.2f} ms)", f"{a / b:.2f} ×", bar)
    platform.stop()


def neighbours(args):
    platform = Platform(args.wharf)
    crash = Path(platform.folder.name) / "crash"
    crash.mkdir()
    (crash / "wharf.toml").write_text(
        f'app = "crash"\n[build]\nartifact = "{(args.guests / "crash.wasm").resolve()}"\n[limits]\ntimeout = "2s"\ncpu = "1s"\n')
    platform.cli("deploy", str(args.guests / "hello.wasm"), "--app", "hello")
    platform.cli("deploy", str(crash))
    url, host = f"http://{platform.http}/", "hello.default.localhost"
    for path in ["/trap", "/loop", "/memory"]:
        again = []
        for _ in range(5):
            assert platform.get("crash", path) >= 500
            again.append(timed_ms(lambda: platform.get("crash")))
        row(f"the same app answers again after `{path}` (max of 5)", f"{max(again):.1f} ms", bar="< 50 ms")
    quiet, noisy = {}, {}
    for path in ["/trap", "/loop", "/memory"]:
        quiet[path], noisy[path] = [], []
        for _ in range(args.rounds):
            quiet[path].append(wrk(url, host, args.seconds, 8)[1])
            stop = threading.Event()

            def bother():
                while not stop.is_set():
                    platform.get("crash", path)
            threads = [threading.Thread(target=bother) for _ in range(4 if path == "/loop" else 1)]
            for thread in threads:
                thread.start()
            noisy[path].append(wrk(url, host, args.seconds, 8)[1])
            stop.set()
            for thread in threads:
                thread.join()
        a, b = statistics.median(noisy[path]), statistics.median(quiet[path])
        many = "4 at once" if path == "/loop" else "one after the other"
        row(f"a neighbour's p99 during `{path}`, {many}", f"{a:.2f} ms", f"quiet: {b:.2f} ms", f"{a / b:.2f} ×", "< 3 ×")
    platform.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wharf"), parser.add_argument("wasmtime"), parser.add_argument("guests", type=Path)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="startup,deploys,throughput,neighbours")
    args = parser.parse_args()
    print("| What | Wharf | peer | ratio | bar |\n|---|---|---|---|---|")
    for name in args.only.split(","):
        {"startup": startup, "deploys": deploys, "throughput": throughput, "neighbours": neighbours}[name](args)


main()
