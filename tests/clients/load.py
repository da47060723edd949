"""What the API costs one client, alone and beside hundreds of slow, many watching and some deaf ones.

Usage: load.py SOCKET KUBECONFIG PID [ROUNDS]. Prints figures, and fails where one misses its goal.
"""

import base64
import json
import re
import resource
import selectors
import socket
import ssl
import sys
import tempfile
import threading
import time

SLOW, WATCHES, ROUNDS = 300, 2000, int(sys.argv[4]) if len(sys.argv) > 4 else 300
PODS = "/api/v1/namespaces/default/pods"
MAPS = "/api/v1/namespaces/default/configmaps"
# Names, milliseconds or MiB at most.
GOALS = {"get pod p50": 1.0, "request to Running p50": 10.0, "exec p50": 3.0, "others p99": 100.0, "memory kept": 4.0}
missed = []


def local():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(SOCKET)
    return connection


class Tls:
    """Connections with the administrator's certificate."""

    def __init__(self, path):
        text = open(path).read()
        self.host, port = re.search(r"server\"?: \"?https://([^:]+):(\d+)", text).groups()
        self.port = int(port)
        self.context = ssl.create_default_context(cadata=self.field(text, "certificate-authority-data"))
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(self.field(text, "client-certificate-data") + self.field(text, "client-key-data"))
            file.flush()
            self.context.load_cert_chain(file.name)

    @staticmethod
    def field(text, name):
        return base64.b64decode(re.search(name + r"\"?:\s*(?:[>|][-+]?\s+)?\"?([A-Za-z0-9+/=]+)", text).group(1)).decode()

    def bare(self):
        return socket.create_connection((self.host, self.port))

    def connect(self):
        return self.context.wrap_socket(self.bare(), server_hostname=self.host)


def ask(connection, method, path, body=None):
    text = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    connection.sendall(head.encode() + text)
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, rest = data.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head.lower()).group(1))
    while len(rest) < length:
        rest += connection.recv(65536)
    return int(head.split()[1]), json.loads(rest)


def watch(connection, path):
    connection.sendall(f"GET {path}?watch=1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(4096)
    return connection


def timed(call, rounds):
    times = []
    for number in range(rounds):
        begin = time.perf_counter()
        call(number)
        times.append((time.perf_counter() - begin) * 1e3)
    times.sort()
    return times[rounds // 2], times[int(rounds * 0.99)]


def tell(name, value, unit="ms"):
    goal = GOALS.get(name)
    is_missed = goal is not None and value > goal
    if is_missed:
        missed.append(name)
    aim = "" if goal is None else f"  (goal {goal:g}{', MISSED' if is_missed else ''})"
    print(f"{name:34} {value:8.2f} {unit}{aim}", flush=True)


def memory():
    with open(f"/proc/{PID}/status") as status:
        return int(re.search(r"RssAnon:\s+(\d+)", status.read()).group(1)) / 1024


def pod(name, command):
    container = {"name": "c", "image": "busybox", "imagePullPolicy": "Never", "command": command}
    spec = {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False, "containers": [container]}
    return {"metadata": {"name": name}, "spec": spec}


class Starts:
    """Creates pods and sees them run, as a client that watches does."""

    def __init__(self):
        self.connection, self.feed = local(), watch(local(), PODS)
        self.lines = self.feed.makefile("rb")

    def __call__(self, number):
        name = f"start-{number}".encode()
        assert ask(self.connection, "POST", PODS, pod(name.decode(), ["sleep", "1000"]))[0] == 201
        while True:
            line = self.lines.readline()
            if b'"phase":"Running"' in line and b'"name":"' + name + b'"' in line:
                return

    def remove(self, number):
        ask(self.connection, "DELETE", f"{PODS}/start-{number}?gracePeriodSeconds=0")


def execute(_):
    """One command, over a WebSocket, until its status is there."""
    connection = local()
    head = (f"GET {PODS}/one/exec?command=true&stdout=true HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n")
    connection.sendall(head.encode())
    data = b""
    while b'"Success"' not in data:
        part = connection.recv(4096)
        assert part, data
        data += part
    connection.close()


def alone(connection):
    get = timed(lambda _: ask(connection, "GET", f"{PODS}/one"), ROUNDS)
    tell("get pod p50", get[0])
    tell("get pod p99", get[1])
    secure = TLS.connect()
    tell("get pod over TLS p50", timed(lambda _: ask(secure, "GET", f"{PODS}/one"), ROUNDS)[0])
    starts = Starts()
    times = []
    for number in range(min(ROUNDS, 40)):
        begin = time.perf_counter()
        starts(number)
        times.append((time.perf_counter() - begin) * 1e3)
        starts.remove(number)
    tell("request to Running p50", sorted(times)[len(times) // 2])
    tell("exec p50", timed(execute, min(ROUNDS, 200))[0])


def slow(stop):
    """Half of them never finish a TLS handshake, half never a request."""
    connections = []
    for number in range(SLOW):
        connections.append((TLS.bare(), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)) if number % 2
                           else (local(), b"GET /api/v1/pods HTTP/1.1\r\nX: " + b"a" * 500))
    position = 0
    while not stop.wait(1):
        for connection, text in connections:
            try:
                connection.sendall(text[position:position + 1])
            except OSError:
                pass  # it was thrown out, as it should be
        position += 1
    for connection, _ in connections:
        connection.close()


def beside(connection, label, rounds):
    """The worst of reading and of writing beside others."""
    body = {"metadata": {"name": "busy"}, "data": {"text": "x" * 2000}}
    ask(connection, "POST", MAPS, body)

    def both(number):
        ask(connection, "GET", f"{PODS}/one")
        if number % 10 == 0:
            ask(connection, "PUT", f"{MAPS}/busy", dict(body, data={"text": f"{number} " + "y" * 2000}))

    p50, p99 = timed(both, rounds)
    print(f"  beside {label}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, memory {memory():.1f} MiB", flush=True)
    return p99


def readers(connections, stop):
    """Half of the watching ones read what comes."""
    selector = selectors.DefaultSelector()
    for connection in connections[::2]:
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ)
    while not stop.is_set():
        for key, _ in selector.select(0.2):
            try:
                key.fileobj.recv(65536)
            except (BlockingIOError, ssl.SSLWantReadError):
                pass


def main():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    connection = local()
    assert ask(connection, "POST", PODS, pod("one", ["sleep", "1000"]))[0] == 201
    while ask(connection, "GET", f"{PODS}/one")[1]["status"]["phase"] != "Running":
        time.sleep(0.01)
    alone(connection)
    before = memory()
    stop = threading.Event()
    crawling = threading.Thread(target=slow, args=(stop,))
    crawling.start()
    time.sleep(3)
    worst = [beside(connection, f"{SLOW} slow", ROUNDS)]
    connections = [watch(local() if number % 2 else TLS.connect(), MAPS) for number in range(WATCHES - SLOW)]
    reading = threading.Thread(target=readers, args=(connections, stop))
    reading.start()
    worst.append(beside(connection, f"{SLOW} slow, {len(connections)} watching, half of them deaf", ROUNDS))
    assert ask(connection, "POST", PODS, pod("loud", ["yes", "x" * 1000]))[0] == 201
    deaf = local()
    while ask(connection, "GET", f"{PODS}/loud")[1]["status"]["phase"] != "Running":
        time.sleep(0.01)
    deaf.sendall(f"GET {PODS}/loud/log?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    time.sleep(0.5)
    worst.append(beside(connection, "the same and one who stops reading a flood", ROUNDS))
    tell("others p99", max(worst))
    stop.set()
    crawling.join()
    reading.join()
    ask(connection, "DELETE", f"{PODS}/loud?gracePeriodSeconds=0")
    for each in [deaf, *connections]:
        each.close()
    end = time.monotonic() + 75  # memory goes back at most once a minute
    while memory() > before + GOALS["memory kept"] and time.monotonic() < end:
        time.sleep(0.1)
    tell("memory before", before, "MiB")
    tell("memory kept", memory() - before, "MiB")
    sys.exit(f"missed: {', '.join(missed)}" if missed else 0)


SOCKET, PID, TLS = sys.argv[1], sys.argv[3], Tls(sys.argv[2])
main()
