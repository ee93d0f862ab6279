"""Tries to reach hosts, one act a line: its name and whether it worked. `egress_acts.py CERTIFICATE`."""

import socket
import ssl
import struct
import sys
import time
import urllib.request

CERTIFICATE = sys.argv[1]
ACTS = []


def act(function):
    ACTS.append(function)
    return function


def talk(host, port, data, wait=0.0, piece=None):
    with socket.create_connection((host, port), timeout=3) as stream:
        stream.settimeout(3)
        time.sleep(wait)
        for at in range(0, len(data), piece or len(data)):
            stream.sendall(data[at : at + (piece or len(data))])
            if piece:
                time.sleep(0.005)
        return stream.recv(4096)


def get(address, port, host, **how):
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    return b"200 OK" in talk(address, port, request, **how)


def tls(host, port, name, wait=0.0, piece=None, begin=b""):
    context = ssl.create_default_context(cafile=CERTIFICATE)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    read, write = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(read, write, server_hostname=name)
    with socket.create_connection((host, port), timeout=3) as stream:
        stream.settimeout(3)
        time.sleep(wait)
        while True:
            try:
                client.do_handshake()
                stream.sendall(write.read())
                return True
            except ssl.SSLWantReadError:
                data = write.read()
                for at in range(0, len(data), piece or len(data) or 1):
                    stream.sendall(data[at : at + (piece or len(data))])
                    if piece:
                        time.sleep(0.002)
                more = stream.recv(16384)
                if not more:
                    return False
                read.write(more)


def ask(server, name):
    query = b"\x12\x34\1\0\0\1\0\0\0\0\0\0"
    query += b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.connect((server, 53))
        client.send(query)
        return client.recv(2000)[7] > 0


# What honest programs do.
@act
def honest_http():
    return b"hello" in urllib.request.urlopen("http://api.example:8080/", timeout=3).read()


@act
def honest_https():
    context = ssl.create_default_context(cafile=CERTIFICATE)
    return b"hello" in urllib.request.urlopen("https://api.example/", timeout=3, context=context).read()


@act
def honest_wildcard():
    return b"hello" in urllib.request.urlopen("http://a.wild.example:8080/", timeout=3).read()


@act
def honest_host_speaks_first():
    with socket.create_connection(("api.example", 5432), timeout=3) as stream:
        first = stream.recv(100)
        stream.sendall(b"EHLO me\r\n")
        return (first, stream.recv(100)) == (b"220 ready\r\n", b"got EHLO me\r\n")


@act
def honest_question_by_datagram():
    return ask("127.0.0.1", "api.example")


@act
def honest_question_over_tcp():
    query = b"\x12\x34\1\0\0\1\0\0\0\0\0\0\3api\7example\0\0\1\0\1"
    reply = talk("127.0.0.1", 53, struct.pack(">H", len(query)) + query)
    return reply[2:4] == b"\x12\x34" and reply[9] == 1


@act
def honest_half_close():
    with socket.create_connection(("api.example", 8080), timeout=3) as stream:
        stream.sendall(b"GET / HTTP/1.1\r\nHost: api.example\r\n\r\n")
        stream.shutdown(socket.SHUT_WR)
        return b"hello" in b"".join(iter(lambda: stream.recv(4096), b""))


@act
def honest_slow_client():
    return get("api.example", 8080, "api.example:8080", wait=0.3, piece=7)


@act
def honest_mixed_addresses():
    return get("mixed.example", 8080, "mixed.example")


@act
def honest_listed_address():
    return get("203.0.113.7", 8080, "whatever")


@act
def honest_own_loopback():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname(), timeout=3) as client:
            client.sendall(b"x")
            return server.accept()[0].recv(1) == b"x"


@act
def honest_own_datagrams():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(2)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", server.getsockname())
        return server.recv(1) == b"x"


# What must not work.
@act
def direct_address():
    return get("203.0.113.5", 8080, "api.example")


@act
def direct_other_address():
    return get("203.0.113.6", 8080, "api.example")


@act
def host_loopback():
    return get("127.0.0.1", 8080, "api.example")


@act
def other_name():
    return get("other.example", 8080, "other.example")


@act
def other_port():
    return get("api.example", 8081, "api.example")


@act
def other_port_of_allowed_name():
    return get("a.wild.example", 80, "a.wild.example")


@act
def ipv6_address():
    return get("2001:db8::5", 8080, "api.example")


@act
def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        client.connect(("203.0.113.5", 9999))
        client.send(b"leak")
        return client.recv(10) == b"leak"


@act
def dns_tunnel():
    return bool(socket.getaddrinfo("evil.example", 80))


@act
def dns_tunnel_below_an_allowed_name():
    return bool(socket.getaddrinfo("secret.api.example", 80))


@act
def dns_to_another_server():
    return ask("203.0.113.5", "evil.example")


@act
def sni_of_another():
    return tls("api.example", 443, "other.example")


@act
def sni_of_another_late():
    return tls("api.example", 443, "other.example", wait=0.4)


@act
def sni_of_another_in_pieces():
    return tls("api.example", 443, "other.example", piece=9)


@act
def sni_of_nobody():
    return tls("api.example", 443, None)


@act
def http_host_of_another():
    return get("api.example", 8080, "other.example")


@act
def http_host_of_another_late():
    return get("api.example", 8080, "other.example", wait=0.4, piece=5)


@act
def http_absolute_target():
    data = b"GET http://other.example/ HTTP/1.1\r\nHost: api.example\r\n\r\n"
    return b"200 OK" in talk("api.example", 8080, data)


@act
def http_two_hosts():
    data = b"GET / HTTP/1.1\r\nHost: api.example\r\nHost: other.example\r\n\r\n"
    return b"200 OK" in talk("api.example", 8080, data)


@act
def smuggled_connect():
    data = b"CONNECT other.example:443 HTTP/1.1\r\nHost: api.example\r\n\r\n"
    return b"200 OK" in talk("api.example", 8080, data)


@act
def smuggled_connect_after_empty_lines():
    data = b"\r\n\r\nCONNECT other.example:443 HTTP/1.1\r\nHost: api.example\r\n\r\n"
    return b"200 OK" in talk("api.example", 8080, data, wait=0.2)


@act
def rebinding_to_loopback():
    return get("loop.example", 8080, "loop.example")


@act
def rebinding_to_private():
    return get("ten.example", 8080, "ten.example")


@act
def rebinding_to_metadata():
    return get("meta.example", 8080, "meta.example")


@act
def rebinding_at_the_second_look():
    return get("flip.example", 8080, "flip.example") and get("flip.example", 8080, "flip.example")


for one in ACTS:
    begin = time.monotonic()
    try:
        worked = one()
    except (OSError, ValueError) as error:
        worked = False
        print(one.__name__, repr(error), file=sys.stderr)
    took = int((time.monotonic() - begin) * 1000)
    print(one.__name__, "worked" if worked else "failed", took, flush=True)
