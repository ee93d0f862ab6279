"""A small internet for tests, in a network namespace of its own: a name server and hosts that answer
on HTTP, TLS, a protocol in which the host speaks first, and UDP. Whatever reaches one of them is a line
in the file of witnesses. `internet.py DIRECTORY`, where `cert.pem` and `key.pem` lie.
"""

import socket
import ssl
import struct
import sys
import threading

DIRECTORY = sys.argv[1]
NAMES = {
    "api.example": ["203.0.113.5"],
    "other.example": ["203.0.113.6"],
    "a.wild.example": ["203.0.113.6"],
    "secret.api.example": ["203.0.113.6"],
    "evil.example": ["203.0.113.6"],
    "loop.example": ["127.0.0.1"],
    "ten.example": ["10.0.0.1"],
    "meta.example": ["169.254.169.254"],
    "mixed.example": ["127.0.0.1", "203.0.113.5"],
}
# Public when it is asked first, then not.
FLIPS = {"flip.example": ["203.0.113.5", "127.0.0.1"]}
witnesses = open(f"{DIRECTORY}/witnesses", "a", buffering=1)
lock = threading.Lock()


def witness(*words):
    with lock:
        print(*words, file=witnesses)


def answer(query):
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("latin1"))
        at += query[at] + 1
    name, kind = ".".join(labels).lower(), struct.unpack(">H", query[at + 1 : at + 3])[0]
    question = query[12 : at + 5]
    witness("dns", name, kind)
    known = NAMES.get(name)
    if name in FLIPS and kind == 1:
        known = [FLIPS[name][0]]
        FLIPS[name].append(FLIPS[name].pop(0))
    records = b""
    for address in known or [] if kind == 1 else []:
        records += b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address)
    code = b"\x81\x80" if known or name in FLIPS else b"\x81\x83"
    counts = struct.pack(">HHHH", 1, len(records) // 16, 0, 0)
    return query[:2] + code + counts + question + records


def name_server():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", 53))
    while True:
        query, client = server.recvfrom(2000)
        server.sendto(answer(query), client)


def question(client, _):
    length = struct.unpack(">H", client.recv(2))[0]
    reply = answer(client.recv(length))
    client.sendall(struct.pack(">H", len(reply)) + reply)


def echo():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", 9999))
    while True:
        data, client = server.recvfrom(2000)
        witness("udp", data)
        server.sendto(data, client)


def web(client, port):
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(4096)
        if not more:
            return
        data += more
    text = data.decode("latin1")
    words = text.split()
    host = next((l[5:].strip() for l in text.split("\r\n") if l.lower().startswith("host:")), "")
    witness("http", client.getsockname()[0], port, words[0], words[1], host)
    body = f"hello from {port}".encode()
    client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def secure(client, port):
    names = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{DIRECTORY}/cert.pem", f"{DIRECTORY}/key.pem")
    context.sni_callback = lambda _, name, __: names.append(name)
    with context.wrap_socket(client, server_side=True) as tls:
        witness("tls", names)
        web(tls, port)


def banner(client, port):
    client.sendall(b"220 ready\r\n")
    data = client.recv(4096)
    witness("banner", data)
    client.sendall(b"got " + data)


def serve(family, port, handle):
    server = socket.socket(family)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    server.listen(64)

    def one(client):
        with client:
            try:
                handle(client, port)
            except (OSError, ValueError, IndexError) as error:
                witness("broken", port, repr(error))

    while True:
        client, _ = server.accept()
        threading.Thread(target=one, args=(client,), daemon=True).start()


jobs = [(name_server,), (echo,)]
for port, handle in [(80, web), (8080, web), (8081, web), (443, secure), (5432, banner), (53, question)]:
    jobs.append((serve, socket.AF_INET, port, handle))
jobs.append((serve, socket.AF_INET6, 8080, web))
for job, *arguments in jobs:
    threading.Thread(target=job, args=arguments, daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
