#!/usr/bin/env python3
"""Puts a binary that was built with `-Cprofile-generate` through what platforms do, for pgo.sh.

usage: train.py WHARF GUESTS [--seconds N]

It covers what is on the way of every request and of every deploy, each for some seconds: new instances, warm ones, WASI 0.3, bodies, a busy API, guests that fail.
"""
import argparse
from pathlib import Path

from benchlib import Platform, variant, wrk


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wharf")
    parser.add_argument("guests", type=Path)
    parser.add_argument("--seconds", type=int, default=4)
    args = parser.parse_args()
    with Platform(args.wharf) as platform:
        platform.deploy("new", args.guests / "hello.wasm")
        platform.deploy("warm", args.guests / "hello.wasm", '[reuse]\nmode = "serial"\nmax_requests = 1000\n')
        platform.deploy("concurrent", args.guests / "hello-p3.wasm")
        platform.deploy("stream", args.guests / "stream.wasm")
        platform.deploy("crash", args.guests / "crash.wasm")
        for app in ("new", "warm", "concurrent", "stream"):
            # Many connections, and one, where each request waits for nobody.
            for connections in (32, 1):
                wrk(f"http://{platform.http}/", f"{app}.default.localhost", args.seconds, connections)
        for _ in range(100):
            platform.get("crash", "/trap")
        for number in range(5):
            platform.cli("deploy", variant(args.guests / "hello.wasm", Path(platform.folder.name) / "new.wasm"), "--app", "new")
        for _ in range(200):
            platform.call("GET", "/v1/namespaces/default/apps")


main()
