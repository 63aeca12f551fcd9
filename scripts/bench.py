#!/usr/bin/env python3
"""Measures what docs/promises.md promises, beside `wasmtime serve` in the same run.

usage: bench.py WHARF WASMTIME GUESTS [--seconds N] [--rounds N] [--only NAME,...]

WHARF and WASMTIME are binaries, GUESTS is the folder with hello.wasm, hello-p3.wasm, crash.wasm and hostile.wasm. Needs `wrk`. Prints a
Markdown table, and ends with 1 when a bar is missed. Each figure is the median of its rounds; rounds of the two sides alternate,
so that a noisy moment hits both.
"""
import argparse, http.client, socket, statistics, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bench_control, bench_idle, bench_use
from benchlib import Native, Platform, Serve, missed, row, timed_ms, variant, wrk


# A round of an attack on a neighbour takes at most so long: there are many.
NEIGHBOUR_SECONDS_MAX = 2


def startup(args):
    samples = []
    for _ in range(10):
        with Platform(args.wharf) as platform:
            samples.append((platform.ready_ms, platform.rss_mb()))
    ready, memory = (statistics.median(column) for column in zip(*samples))
    row("`wharf up` until ready", ready, "< 300 ms", f"{ready:.0f} ms")
    row("resident memory when ready", memory, "< 60 MB", f"{memory:.0f} MB")


def deploys(args, platform):
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
    for what, samples, bar in [
        (f"push of a {size} kB component it has never seen → first 200 (p50 / max of 20)", fresh, "< 500 ms"),
        ("push of one it has seen → first 200 (p50 / max of 20)", seen, "< 60 ms"),
        ("rollback → first 200 (p50 / max of 20)", back, "< 100 ms"),
    ]:
        p50 = statistics.median(samples)
        row(what, p50, f"p50 {bar}", f"{p50:.0f} / {max(samples):.0f} ms")


def throughput(args, platform):
    platform.deploy("hello", args.guests / "hello.wasm")
    platform.deploy("hello-p3", args.guests / "hello-p3.wasm")
    platform.deploy("reuse", args.guests / "hello.wasm", '[reuse]\nmode = "serial"\nmax_requests = 1000\n')
    cases = [
        ("WASI 0.2, new instance per request", "hello", "hello.wasm", [], "≥ 4 ×"),
        ("WASI 0.2, 1000 requests per instance", "reuse", "hello.wasm", ["--max-instance-reuse-count", "1000"], "≥ 1.2 ×"),
        ("WASI 0.3, defaults", "hello-p3", "hello-p3.wasm", [], "≥ 1.2 ×"),
    ]
    for what, app, wasm, flags, bar in cases:
        host = f"{app}.default.localhost"
        ours, theirs = [], []
        with Serve(args.wasmtime, str(args.guests / wasm), *flags) as peer:
            wrk(f"http://{platform.http}/", host, 1), wrk(peer.url, "localhost", 1)
            for _ in range(args.rounds):
                ours.append(wrk(f"http://{platform.http}/", host, args.seconds))
                theirs.append(wrk(peer.url, "localhost", args.seconds))
        a, b = (statistics.median(sample[0] for sample in side) for side in (ours, theirs))
        p, q = (statistics.median(sample[1] for sample in side) for side in (ours, theirs))
        row(f"{what}: requests/s (p99)", a / b, bar, f"{a:,.0f} ({p:.2f} ms)", f"{b:,.0f} ({q:.2f} ms)", f"{a / b:.2f} ×")


def get_failing(app, path):
    """A client that asks for something that the platform has to end."""
    def ask(platform):
        status = platform.get(app, path)
        assert status >= 500, f"{app}{path} was answered with {status}"
    return ask


def get_well(app, path):
    """A client that asks for something that is allowed, and does not wait longer than it must. 503 is the app's own limit."""
    def ask(platform):
        status = platform.get(app, path)
        assert status in (200, 503), f"{app}{path} was answered with {status}"
    return ask


def read_for_a_second(app, path):
    """A client that reads of a body that does not end, and goes away."""
    def ask(platform):
        connection = http.client.HTTPConnection(platform.http, timeout=60)
        connection.request("GET", path, headers={"Host": f"{app}.default.localhost"})
        response, end = connection.getresponse(), time.perf_counter() + 1
        while time.perf_counter() < end and response.read1():
            pass
        connection.close()
    return ask


def connect_to_silence(platform):
    """A client that makes an app open many connections, which are not answered until its time is up, or are refused."""
    port = platform.silent.getsockname()[1]
    status = platform.get("hostile", f"/connections?n=500&url=http://127.0.0.1:{port}")
    assert status == 200 or status >= 500, f"/connections was answered with {status}"


# What a neighbour has to bear: what it is called, how many clients at once, and what each does over and over.
ATTACKS = [
    ("`/trap`, one after the other", 1, get_failing("crash", "/trap")),
    ("`/loop`, 4 at once", 4, get_failing("crash", "/loop")),
    ("`/memory`, one after the other", 1, get_failing("crash", "/memory")),
    ("`/recursion`, one after the other", 1, get_failing("hostile", "/recursion")),
    ("`/handles`, one after the other", 1, get_failing("hostile", "/handles")),
    ("`/fields`, one after the other", 1, get_failing("hostile", "/fields")),
    ("`/polls`, one after the other", 1, get_failing("hostile", "/polls")),
    ("`/connections`, 8 times 500 at once", 8, connect_to_silence),
    ("`/no-response`, one after the other", 1, get_failing("hostile", "/no-response")),
    ("`/logs`, one after the other", 1, get_failing("hostile", "/logs")),
    ("`/endless`, one after the other", 1, read_for_a_second("hostile", "/endless")),
    ("`/drip`, 8 at once", 8, read_for_a_second("hostile", "/drip?ms=10")),
    ("a flood of small requests, 8 at once", 8, get_well("hostile", "/")),
]


def neighbours(args, platform):
    # Takes connections and says nothing.
    platform.silent = socket.create_server(("127.0.0.1", 0), backlog=4096)
    grant = f"http://127.0.0.1:{platform.silent.getsockname()[1]}"
    for app in ["crash", "hostile"]:
        settings = f'[limits]\ntimeout = "2s"\ncpu = "1s"\n[outbound]\nallow = ["{grant}"]\n'
        platform.deploy(app, args.guests / f"{app}.wasm", settings)
    platform.deploy("hello", args.guests / "hello.wasm")
    url, host = f"http://{platform.http}/", "hello.default.localhost"
    for path in ["/trap", "/loop", "/memory"]:
        again = []
        for _ in range(5):
            assert platform.get("crash", path) >= 500
            again.append(timed_ms(lambda: platform.get("crash")))
        row(f"the same app answers again after `{path}` (max of 5)", max(again), "< 50 ms", f"{max(again):.1f} ms")
    seconds = min(args.seconds, NEIGHBOUR_SECONDS_MAX)
    for what, clients, ask in ATTACKS:
        quiet, noisy = [], []
        for _ in range(args.rounds):
            quiet.append(wrk(url, host, seconds, 8)[1])
            noisy.append(while_bothered(platform, clients, ask, lambda: wrk(url, host, seconds, 8)[1]))
        a, b = statistics.median(noisy), statistics.median(quiet)
        row(f"a neighbour's p99 during {what}", a / b, "< 3 ×", f"{a:.2f} ms", f"quiet: {b:.2f} ms", f"{a / b:.2f} ×")
    if args.native:
        # What of the last one is the work of the clients, which run on the same cores: they ask another server meanwhile.
        with Native(args.native) as native:
            noisy = [while_bothered(native, clients, ask, lambda: wrk(url, host, seconds, 8)[1]) for _ in range(args.rounds)]
        a = statistics.median(noisy)
        row("… while the same clients ask a native server instead", a / b, "", f"{a:.2f} ms", f"quiet: {b:.2f} ms", f"{a / b:.2f} ×")


def while_bothered(platform, clients, ask, measure):
    """Measures while so many clients ask. One that stops bothering, for whatever reason, fails the measurement."""
    stop = threading.Event()

    def bother():
        count = 0
        while not stop.is_set():
            ask(platform)
            count += 1
        return count

    with ThreadPoolExecutor(clients) as pool:
        bothering = [pool.submit(bother) for _ in range(clients)]
        try:
            figure = measure()
        finally:
            stop.set()
        assert all(client.result() > 0 for client in bothering), "nobody bothered"
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wharf"), parser.add_argument("wasmtime"), parser.add_argument("guests", type=Path)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="startup,deploys,throughput,latency,compute,echo,overload,outbound,neighbours,scale,api,thousand,declared")
    parser.add_argument("--native", type=Path, help="the native server; `latency` needs it")
    args = parser.parse_args()
    suites = {"deploys": deploys, "throughput": throughput, "neighbours": neighbours, **bench_use.SUITES, **bench_control.SUITES, **bench_idle.SUITES}
    names = args.only.split(",")
    if unknown := set(names) - {"startup", *suites}:
        parser.error(f"--only knows startup, {', '.join(suites)}, and not {', '.join(sorted(unknown))}")
    print("| What | Wharf | peer | ratio | bar | holds |\n|---|---|---|---|---|---|")
    for name in names:
        if name == "startup":
            startup(args)
            continue
        flags, variables = getattr(suites[name], "start", lambda _: ([], {}))(args)
        with Platform(args.wharf, *flags, **variables) as platform:
            suites[name](args, platform)
    if missed:
        sys.exit(f"{len(missed)} bars were missed: {'; '.join(missed)}")


main()
