"""Measures the control plane: scaling, its API under 64 clients, ten thousand declared apps."""
import http.client, json, re, statistics, subprocess, tempfile, threading, time

from benchlib import Apart, row, timed_ms

APP = "/v1/namespaces/default/apps"


def fetch(platform, path):
    connection = http.client.HTTPConnection(platform.api, timeout=60)
    connection.request("GET", path, headers={"Authorization": f"Bearer {platform.token}"})
    said = json.loads(connection.getresponse().read())
    connection.close()
    return said


def until(is_so, seconds=60):
    limit = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.002)


def scale(args, platform):
    """From two instances to two hundred, until all of them are ready."""
    platform.deploy("hello", args.guests / "hello.wasm", "[scale]\nreplicas = 2\n")
    samples = []
    for _ in range(args.rounds):
        def to(replicas):
            platform.call("PUT", f"{APP}/hello/scale", json.dumps({"replicas": replicas}))
            until(lambda: fetch(platform, f"{APP}/hello")["ready"] == replicas)
        samples.append(timed_ms(lambda: to(200)))
        to(2)
    row("`scale` of a Wasm app from 2 to 200 on one host, until all are ready", statistics.median(samples), "< 500 ms", f"{statistics.median(samples):.0f} ms")


def wrk_api(platform, seconds, script):
    """Requests a second from 64 clients, all of which must succeed."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as lua:
        lua.write(f'wrk.headers["Authorization"] = "Bearer {platform.token}"\n' + script)
        lua.flush()
        done = subprocess.run(["wrk", "-t1", "-c64", f"-d{seconds}s", "--latency", "-s", lua.name, f"http://{platform.api}{APP}/app-1"],
                              capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in done, done
    p99 = re.search(r"99%\s+(\S+)", done)[1]
    return float(re.search(r"Requests/sec:\s+([\d.]+)", done)[1]), p99


# Each client asks for another number than the app has, so that each request writes.
WRITES = """
wrk.headers["Content-Type"] = "application/json"
local count = 0
request = function()
    count = count + 1
    local path = "/v1/namespaces/default/apps/app-" .. (count % 64 + 1) .. "/scale"
    return wrk.format("PUT", path, nil, '{"replicas":' .. (math.floor(count / 64) % 2 + 1) .. '}')
end
"""


def api(args, platform):
    """Reads of an app, and acknowledged writes, each of which is on the disk."""
    declare(args, platform, 64)
    serve_all(platform, 64)
    for what, script, bar in [("reads", "", "≥ 5000"), ("acknowledged writes", WRITES, "≥ 1000")]:
        rates = [wrk_api(platform, args.seconds, script) for _ in range(args.rounds)]
        rate, p99 = sorted(rates)[len(rates) // 2]
        row(f"API, {what} a second from 64 clients, SQLite (p99)", rate, bar, f"{rate:,.0f} ({p99})")


def declare(args, platform, count):
    """Plans and applies apps of one artifact from one file; returns how long both took."""
    resources = [{"kind": "app", "name": f"app-{n}", "artifact": str((args.guests / "hello.wasm").resolve())} for n in range(1, count + 1)]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(resources, file)
        file.flush()
        plan = timed_ms(lambda: platform.cli("plan", "-f", file.name))
        apply = timed_ms(lambda: platform.cli("apply", "-f", file.name, "--no-wait"))
    return plan, apply


def serve_all(platform, count):
    for app in (count, count // 2):
        until(lambda: fetch(platform, f"{APP}/app-{app}")["ready"] == 1, seconds=300)


def thousand(args, platform):
    """Memory of a control plane with a thousand apps, by itself, and of a platform with worker and front door."""
    declare(args, platform, 1000)
    serve_all(platform, 1000)
    row("memory with 1,000 apps: control plane, worker and front door in one process", platform.rss_mb(), "", f"{platform.rss_mb():.0f} MB")
    with Apart(args.wharf) as apart:
        declare(args, apart, 1000)
        serve_all(apart, 1000)
        row("… the control plane alone", apart.rss_mb(), "< 100 MB", f"{apart.rss_mb():.0f} MB")


def declared(args, platform):
    """Ten thousand apps in one file, and how long writes of somebody else take meanwhile."""
    platform.deploy("neighbour", args.guests / "hello.wasm")
    longest, done = [0.0], threading.Event()

    def write_again_and_again():
        replicas = 1
        while not done.wait(0.02):
            replicas = 3 - replicas
            body = json.dumps({"replicas": replicas})
            longest[0] = max(longest[0], timed_ms(lambda: platform.call("PUT", f"{APP}/neighbour/scale", body)))

    neighbour = threading.Thread(target=write_again_and_again, daemon=True)
    neighbour.start()
    plan, apply = declare(args, platform, 10_000)
    done.set()
    neighbour.join()
    row("`wharf plan` of 10,000 apps in one file", plan, "< 2000 ms", f"{plan:.0f} ms")
    row("`wharf apply` of them, until acknowledged", apply, "< 10000 ms", f"{apply:.0f} ms")
    row("… the longest write of somebody else meanwhile", longest[0], "< 1000 ms", f"{longest[0]:.0f} ms")


SUITES = {"scale": scale, "api": api, "thousand": thousand, "declared": declared}
