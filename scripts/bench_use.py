"""Measures what an app can do: latency, computing, large bodies, overload, outbound calls."""
import http.client, re, ssl, statistics, subprocess, sys, tempfile, threading, time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchlib import ENV, Native, row, timed_ms


def latencies_us(address, host, seconds):
    """p50 and p99 of one connection, by a client that asks again as soon as it is answered."""
    done = subprocess.run(["wrk", "-t1", "-c1", f"-d{seconds}s", "--latency", "-H", f"Host: {host}", f"http://{address}/"],
                          capture_output=True, text=True, check=True).stdout
    units = {"us": 1, "ms": 1000, "s": 1e6}
    return [float(found[1]) * units[found[2]] for found in (re.search(rf"{p}%\s+([\d.]+)(us|ms|s)", done) for p in (50, 99))]


def latency(args, platform):
    if not args.native:
        sys.exit("latency needs --native, the binary of `cargo build --release -p wharf-ingress --example native`")
    platform.deploy("hello", args.guests / "hello.wasm")
    platform.deploy("hello-p3", args.guests / "hello-p3.wasm")
    platform.deploy("reuse", args.guests / "hello.wasm", '[reuse]\nmode = "serial"\n')
    with Native(args.native) as native:
        address = native.http
        samples = {app: [] for app in ["native", "hello", "reuse", "hello-p3"]}
        for app in samples:
            latencies_us(address if app == "native" else platform.http, f"{app}.default.localhost", 1)
        for _ in range(args.rounds):
            for app, of_app in samples.items():
                of_app.append(latencies_us(address if app == "native" else platform.http, f"{app}.default.localhost", args.seconds))
    p50, p99 = ({app: statistics.median(column) for app, column in ((app, list(zip(*s))[i]) for app, s in samples.items())} for i in (0, 1))
    for app, what in [("hello", "WASI 0.2, new instance"), ("reuse", "WASI 0.2, `serial`"), ("hello-p3", "WASI 0.3")]:
        more, tail = p50[app] - p50["native"], p99[app] - p99["native"]
        row(f"latency at one connection, p50, over native hyper: {what}", more, "< 30 µs", f"{p50[app]:.0f} µs", f"{p50['native']:.0f} µs", f"+ {more:.0f} µs")
        row(f"… p99: {what}", tail, "< 200 µs", f"{p99[app]:.0f} µs", f"{p99['native']:.0f} µs", f"+ {tail:.0f} µs")


def compute(args, platform):
    """A command that sorts, hashes, multiplies, writes and reads numbers, with every limit on, beside `wasmtime run` without any."""
    guest = args.guests / "compute.wasm"
    ours, theirs = [], []
    for binary in (args.wharf, args.wasmtime):
        subprocess.run([binary, "run", guest], env=ENV, check=True, capture_output=True)
    for _ in range(2 * args.rounds):
        for binary, samples in ((args.wharf, ours), (args.wasmtime, theirs)):
            samples.append(timed_ms(lambda: subprocess.run([binary, "run", guest], env=ENV, check=True, capture_output=True)))
    a, b = statistics.median(ours), statistics.median(theirs)
    row("a command that computes, all limits on, beside `wasmtime run` without limits", a / b, "< 1.2 ×", f"{a:.0f} ms", f"{b:.0f} ms", f"{a / b:.2f} ×")


def echo(args, platform):
    """One gibibyte through a guest and back."""
    platform.deploy("stream", args.guests / "stream.wasm", '[limits]\nrequest_body = "2GiB"\ntimeout = "5m"\ncpu = "5m"\n')
    chunk, count = bytes(1 << 20), 1 << 10

    def once(chunks):
        connection = http.client.HTTPConnection(platform.http, timeout=300)
        connection.putrequest("POST", "/echo", skip_host=True)
        connection.putheader("Host", "stream.default.localhost")
        connection.putheader("Content-Length", str(chunks * len(chunk)))
        connection.endheaders()
        sender = threading.Thread(target=lambda: [connection.send(chunk) for _ in range(chunks)])
        sender.start()
        response, length, most = connection.getresponse(), 0, 0
        while data := response.read(1 << 20):
            length += len(data)
            most = max(most, platform.rss_mb())
        sender.join()
        assert length == chunks * len(chunk), length
        return most

    once(16)
    before = platform.rss_mb()
    begin = time.perf_counter()
    growth = once(count) - before
    rate = count / (time.perf_counter() - begin)
    row(f"memory growth during an echo of 1 GiB ({rate:.0f} MiB/s both ways)", growth, "< 8 MB", f"{growth:.1f} MB")


def overload(args, platform):
    """Ten times as many requests of 100 ms as an app has places for."""
    places = 50
    platform.deploy("crash", args.guests / "crash.wasm", f'[limits]\nconcurrency = {places}\ntimeout = "5s"\n')
    script = """
local counts = {}
function response(status) counts[status] = (counts[status] or 0) + 1 end
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init() seen = {} end
function response(status) seen[status] = (seen[status] or 0) + 1 end
function done(summary)
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("seen")) do io.write("status ", status, " ", count, "\\n") end
  end
  io.write("seconds ", summary.duration / 1e6, "\\n")
end
"""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        done = subprocess.run(["wrk", "-t1", f"-c{10 * places}", f"-d{args.seconds}s", "--timeout", "10s", "-s", file.name, "-H", "Host: crash.default.localhost",
                               f"http://{platform.http}/sleep?ms=100"], capture_output=True, text=True, check=True).stdout
    counts = {int(status): int(count) for status, count in re.findall(r"status (\d+) (\d+)", done)}
    seconds = float(re.search(r"seconds ([\d.]+)", done)[1])
    wrong = sum(count for status, count in counts.items() if status not in (200, 503))
    row("answers other than 200 and 503 at ten times an app's capacity", wrong, "< 1", str(wrong), f"503: {counts.get(503, 0):,}")
    share = 100 * counts.get(200, 0) / seconds / (places / 0.1)
    row("… requests that it serves then, of what it can", share, "≥ 90 %", f"{share:.0f} %")


def certificate(folder):
    """An authority, in ca.pem, and a key and a certificate of 127.0.0.1 that it has signed."""
    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    new = ["req", "-newkey", "rsa:2048", "-nodes"]
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=bench authority", "-keyout", "ca-key.pem", "-out", "ca.pem")
    openssl(*new, "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "request.pem")
    Path(folder, "extensions").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    openssl("x509", "-req", "-days", "2", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-extfile", "extensions",
            "-out", "cert.pem")


class Upstream(ThreadingHTTPServer):
    """Counts the connections that it gets."""
    daemon_threads = True
    connections = 0

    def get_request(self):
        self.connections += 1
        return super().get_request()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, *_):
        pass


def outbound(args, platform):
    """A thousand calls of a guest to one upstream with TLS, eight at a time."""
    with Upstream(("127.0.0.1", 0), Answer) as upstream:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{args.scratch.name}/cert.pem", f"{args.scratch.name}/key.pem")
        upstream.socket = context.wrap_socket(upstream.socket, server_side=True)
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        url = f"https://127.0.0.1:{upstream.server_address[1]}"
        platform.deploy("stream", args.guests / "stream.wasm", f'[outbound]\nallow = ["{url}"]\n')

        def fetch(_):
            return platform.get("stream", f"/fetch?url={url}/")

        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(fetch, range(1000)))
        upstream.shutdown()
        assert all(status == 200 for status in statuses), f"{statuses.count(200)} of 1000 calls were answered"
        row("connections for 1,000 outbound calls to one TLS upstream", upstream.connections, "< 11", str(upstream.connections))


def start_outbound(args):
    args.scratch = tempfile.TemporaryDirectory(prefix="wharf-bench-")
    certificate(args.scratch.name)
    return [], {"SSL_CERT_FILE": f"{args.scratch.name}/ca.pem"}


outbound.start = start_outbound

SUITES = {"latency": latency, "compute": compute, "echo": echo, "overload": overload, "outbound": outbound}
