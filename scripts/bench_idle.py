"""Measures apps that nobody calls: what they cost, and how soon they answer. Takes ten minutes, most of them for compiling."""
import hashlib, http.client, json, os, time
from concurrent.futures import ThreadPoolExecutor

from benchlib import row

# Distinct artifacts, and apps that run them.
ARTIFACTS = int(os.environ.get("ARTIFACTS", 1000))
APPS = int(os.environ.get("APPS", 10_000))


def idle(args, platform):
    wasm = (args.guests / "hello.wasm").read_bytes()
    before = platform.rss_mb()

    def push(number):
        artifact = wasm + b"\x00\x15\x04salt" + number.to_bytes(16, "big")
        digest = "sha256:" + hashlib.sha256(artifact).hexdigest()
        platform.call("PUT", f"/v1/namespaces/default/artifacts/{digest}", artifact, "application/wasm")
        return digest

    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(push, range(ARTIFACTS)))

    def release(number):
        body = json.dumps({"artifact": digests[number % ARTIFACTS], "spec": {}})
        platform.call("POST", f"/v1/namespaces/default/apps/app{number}/releases", body)

    def wait_for(number):
        while platform.get(f"app{number}") != 200:
            time.sleep(0.2)

    # The first apps have each an artifact of their own to compile; the others come when that is done.
    for apps in (range(ARTIFACTS), range(ARTIFACTS, APPS)):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(release, apps))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(wait_for, apps))
    while "cwasm" in open(f"/proc/{platform.process.pid}/maps").read():
        time.sleep(1)
    each = 1024 * (platform.rss_mb() - before) / APPS
    row(f"memory of an idle app, of {APPS:,} with {ARTIFACTS:,} artifacts", each, "< 100 kB", f"{each:.0f} kB")

    def first_ms(number):
        connection = http.client.HTTPConnection(platform.http, timeout=60)
        connection.connect()
        begin = time.perf_counter()
        connection.request("GET", "/", headers={"Host": f"app{number}.default.localhost"})
        response = connection.getresponse()
        response.read()
        took = 1000 * (time.perf_counter() - begin)
        connection.close()
        assert response.status == 200, response.status
        return took

    took = sorted(first_ms(number) for number in range(ARTIFACTS))
    p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
    row(f"first request to an idle app whose code is not in memory, over {ARTIFACTS:,} apps, p50", p50, "< 1 ms", f"{p50:.2f} ms")
    row("… p99", p99, "< 5 ms", f"{p99:.2f} ms")
    with ThreadPoolExecutor(4) as pool:
        answered = sum(pool.map(lambda number: platform.get(f"app{number}") == 200, range(APPS)))
    row("… of all these apps answer afterwards", answered, f"≥ {APPS}", str(answered))


idle.start = lambda _: (["--unload-after", "5s"], {})

SUITES = {"idle": idle}
