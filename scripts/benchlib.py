"""What the measurements of bench.py have in common: the platform, its peers, the load tool and the table."""
import http.client, json, os, re, secrets, signal, socket, subprocess, tempfile, time
from pathlib import Path

# Backtraces cost time, and the others would lead the command to another platform than the one that is measured.
UNWANTED = {"RUST_BACKTRACE", "RUST_LOG", "WHARF_API", "WHARF_TOKEN", "WHARF_NAMESPACE"}
ENV = {key: value for key, value in os.environ.items() if key not in UNWANTED}


class Server:
    """A process that serves until it is stopped, which the end of a `with` does, however it comes."""

    signal_to_stop = signal.SIGTERM

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.process.send_signal(self.signal_to_stop)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise SystemExit(f"{self.process.args[0]} did not stop within 40 s")


class Platform(Server):
    """One `wharf up` with a data directory of its own."""

    def __init__(self, wharf, *flags, **variables):
        self.wharf = wharf
        self.folder = tempfile.TemporaryDirectory(prefix="wharf-bench-")
        self.env = {**ENV, "XDG_CONFIG_HOME": self.folder.name, **variables}
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            [wharf, "up", "--data", f"{self.folder.name}/data", "--api", "127.0.0.1:0", "--http", "127.0.0.1:0", "--json", *flags],
            stdout=subprocess.PIPE, env=self.env)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"wharf up ended with {self.process.wait()}; what it said stands above")
        ready = json.loads(line)
        self.ready_ms = 1000 * (time.perf_counter() - begin)
        self.http, self.api = (ready[name].removeprefix("http://") for name in ["http", "api"])
        self.token = Path(ready["token_file"]).read_text().strip()

    def rss_mb(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def call(self, method, path, body=None, kind="application/json"):
        """A call of the API."""
        connection = http.client.HTTPConnection(self.api, timeout=120)
        connection.request(method, path, body, {"Authorization": f"Bearer {self.token}", "Content-Type": kind})
        response = connection.getresponse()
        said = response.read()
        connection.close()
        if response.status >= 300:
            raise SystemExit(f"{method} {path} was answered with {response.status}: {said[:300]}")

    def deploy(self, app, artifact, settings=""):
        """Deploys a file with the settings of a manifest."""
        folder = Path(self.folder.name) / f"of-{app}"
        folder.mkdir()
        (folder / "wharf.toml").write_text(f'app = "{app}"\n[build]\nartifact = "{artifact.resolve()}"\n{settings}')
        self.cli("deploy", str(folder))

    def cli(self, *args):
        done = subprocess.run([self.wharf, *args], env=self.env, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"wharf {' '.join(args)} failed: {done.stderr}")
        return done.stdout

    def get(self, app, path="/", timeout=60):
        connection = http.client.HTTPConnection(self.http, timeout=timeout)
        connection.request("GET", path, headers={"Host": f"{app}.default.localhost"})
        response = connection.getresponse()
        try:
            # A client that leaves before the end makes the platform end the guest, and what the guest has open.
            response.read()
        except http.client.IncompleteRead:
            pass
        connection.close()
        return response.status

    def stop(self):
        super().stop()
        self.folder.cleanup()


class Apart(Platform):
    """The control plane as a process of its own, and one worker beside it."""

    def __init__(self, wharf):
        self.wharf = wharf
        self.folder = tempfile.TemporaryDirectory(prefix="wharf-bench-")
        folder = self.folder.name
        self.env = {**ENV, "XDG_CONFIG_HOME": folder, "XDG_DATA_HOME": folder}
        self.process, ready = self.start("server", "--data", f"{folder}/data", "--api", "127.0.0.1:0", "--workers", f"127.0.0.1:{free_port()}")
        self.api = ready["api"].removeprefix("http://")
        self.token = Path(ready["token_file"]).read_text().strip()
        connection = http.client.HTTPConnection(self.api, timeout=60)
        connection.request("POST", "/v1/join-tokens", "{}", {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"})
        token = json.loads(connection.getresponse().read())
        connection.close()
        self.worker, _ = self.start("worker", "--data", f"{folder}/worker", "--http", f"127.0.0.1:{free_port()}", "--peers", f"127.0.0.1:{free_port()}",
                                    "--docker", "off", "--join", f"{token['token']}@{token['address']}")

    def start(self, *words):
        process = subprocess.Popen([self.wharf, *words, "--json"], stdout=subprocess.PIPE, env=self.env)
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"wharf {words[0]} ended with {process.wait()}; what it said stands above")
        return process, json.loads(line)

    def stop(self):
        self.worker.kill()
        self.worker.wait()
        super().stop()


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
    if failures := re.findall("(?:Non-2xx|Socket errors).*", done):
        raise SystemExit(f"requests to {host} at {url} failed, so their rate says nothing: {failures}")
    units = {"us": 0.001, "ms": 1, "s": 1000}
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", done)
    return float(re.search(r"Requests/sec:\s+([\d.]+)", done)[1]), float(p99[1]) * units[p99[2]]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Serve(Server):
    """`wasmtime serve` of one component."""

    signal_to_stop = signal.SIGINT

    def __init__(self, wasmtime, wasm, *flags):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/"
        self.process = subprocess.Popen([wasmtime, "serve", "-S", "cli", "--addr", f"127.0.0.1:{port}", *flags, wasm],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENV)
        for _ in range(1000):
            # Somebody else may have taken the port meanwhile, and must not be measured.
            if self.process.poll() is not None:
                raise SystemExit(f"wasmtime serve ended with {self.process.returncode}")
            try:
                connection = http.client.HTTPConnection(f"127.0.0.1:{port}", timeout=5)
                connection.request("GET", "/")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                time.sleep(0.05)
        self.stop()
        raise SystemExit("wasmtime serve did not start")


class Native(Server):
    """A server of hyper alone, which answers what the example answers."""

    signal_to_stop = signal.SIGKILL

    def __init__(self, binary):
        self.process = subprocess.Popen([binary], stdout=subprocess.PIPE, text=True, env=ENV)
        self.http = self.process.stdout.readline().strip()

    def get(self, _app, path="/"):
        connection = http.client.HTTPConnection(self.http, timeout=60)
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status


missed = []


def row(what, figure, bar, ours, peer="", ratio=""):
    """One line of the table; `bar` is such as `< 300 ms` or `≥ 2.5 ×`, or empty, and `figure` the number that is held against it."""
    verdict = ""
    if bar:
        limit = float(re.search(r"[<≥] ([\d.]+)", bar)[1])
        holds = figure < limit if "<" in bar else figure >= limit
        verdict = "yes" if holds else "**no**"
        if not holds:
            missed.append(what)
    print(f"| {what} | {ours} | {peer} | {ratio} | {bar} | {verdict} |", flush=True)


