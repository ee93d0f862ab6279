"""A JSON-RPC client without an SDK: sends exact bytes, keeps exact bytes."""

import json
import os
import queue
import subprocess
import threading
import time

ERAS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
MODERN = "2026-07-28"
PATIENCE = 30.0


class Gone(Exception):
    pass


class Session:
    """One process and everything that it wrote to stdout, line by line."""

    def __init__(self, command, env, cwd):
        self.lines = []
        self.queue = queue.Queue()
        self.errors = open(os.path.join(cwd, os.pardir, "stderr.log"), "ab")
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=env, cwd=cwd
        )
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.child.stdout:
            self.queue.put(line)
        self.queue.put(None)

    def send(self, text):
        try:
            self.child.stdin.write(text.encode() + b"\n")
            self.child.stdin.flush()
        except (BrokenPipeError, OSError):
            raise Gone from None

    def wait(self, token):
        """Reads until the answer with this raw id; answers the server's questions on the way."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                line = self.queue.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                self.lines.append(b"<no answer to %s in time>\n" % token.encode())
                raise Gone from None
            if line is None:
                self.queue.put(None)
                raise Gone
            if self.take(line, token):
                return self.parsed

    def take(self, line, token):
        self.lines.append(line)
        try:
            self.parsed = message = json.loads(line)
        except ValueError:
            return False
        if not isinstance(message, dict):
            return False
        if "method" in message and "id" in message:
            self.answer(message)
            return False
        return "method" not in message and json.dumps(message.get("id")) == token

    def answer(self, message):
        method = message["method"]
        if method == "roots/list":
            result = {"roots": [{"uri": "file://" + self.root, "name": "work"}]}
        elif method == "sampling/createMessage":
            result = {"role": "assistant", "model": "none", "content": {"type": "text", "text": "yes"}}
        elif method == "elicitation/create":
            result = {"action": "decline"}
        else:
            result = {}
        self.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}))

    def pause(self, seconds):
        """Takes what comes without being asked for."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                line = self.queue.get(timeout=max(0.001, end - time.monotonic()))
            except queue.Empty:
                return
            if line is None:
                self.queue.put(None)
                return
            self.take(line, "")

    def close(self):
        """Ends the input as clients do, keeps what still comes, returns the exit code."""
        try:
            self.child.stdin.close()
        except OSError:
            pass
        code = None
        try:
            code = self.child.wait(timeout=4)
        except subprocess.TimeoutExpired:
            self.child.terminate()
            try:
                self.child.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        while True:
            try:
                line = self.queue.get(timeout=2)
            except queue.Empty:
                break
            if line is None:
                break
            self.lines.append(line)
        self.errors.close()
        return code


def play(server, command, env, era):
    """One scripted session in one era; returns the lines and the exit code."""
    session = Session(command, env, server.work)
    session.root = server.work
    try:
        (modern if era == MODERN else legacy)(session, server, era)
    except Gone:
        session.lines.append(b"<the session ended early>\n")
    code = session.close()
    return session.lines, code


def legacy(session, server, era):
    capabilities = {"roots": {"listChanged": True}, "sampling": {}}
    if era >= "2025-06-18":
        capabilities["elicitation"] = {}
    session.send(
        '{"jsonrpc":"2.0", "id" : 0,"method":"initialize","params":{"protocolVersion":"%s",'
        '"capabilities":%s,"clientInfo":{"name":"raw","version":"1.0"}}}' % (era, json.dumps(capabilities))
    )
    session.wait("0")
    session.send('{"method":"notifications/initialized","jsonrpc":"2.0"}')
    if server.unordered:
        # The question for roots comes when it likes; after it, nothing does.
        session.pause(0.8)
    number = Numbers()

    def ask(method, params=None, token=None):
        token = token or number.next()
        text = '{"jsonrpc":"2.0","id":%s,"method":%s' % (token, json.dumps(method))
        text += "" if params is None else ',"params":%s' % json.dumps(params)
        session.send(text + "}")
        return session.wait(json.dumps(json.loads(token)))

    ask("ping")
    walk(ask, None)
    ask("logging/setLevel", {"level": "debug"})
    common(ask, server, {})
    ask("no/such/method", {})
    ask("tools/call", {"name": "no-such-tool", "arguments": {}})
    # Ids as clients choose them: text, escapes, the largest safe integer, a spelling of our own.
    ask("ping", token='"text-\\u0041"')
    ask("ping", token="9007199254740991")
    ask("ping", token='"7"')
    if era == "2025-11-25" and server.name == "fixture":
        created = ask("tools/call", {"name": "task", "arguments": {"ms": 1}, "task": {"ttl": 60000}})
        task = {"taskId": created["result"]["task"]["taskId"]}
        time.sleep(0.2)
        for method in ("tasks/get", "tasks/result", "tasks/list", "tasks/cancel"):
            ask(method, {} if method == "tasks/list" else task)
    slow = {"fixture": ("sleep", {"ms": 3000}), "everything": ("trigger-long-running-operation", {"duration": 2, "steps": 1})}
    if server.name in slow:
        name, arguments = slow[server.name]
        token = number.next()
        session.send(json.dumps({"jsonrpc": "2.0", "id": int(token), "method": "tools/call", "params": {"name": name, "arguments": arguments}}))
        session.send('{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%s,"reason":"no longer"}}' % token)
        ask("ping")
    for uri in server.resources[:1]:
        ask("resources/subscribe", {"uri": uri})
        ask("resources/unsubscribe", {"uri": uri})


def modern(session, server, era):
    meta = {
        "io.modelcontextprotocol/protocolVersion": era,
        "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1.0"},
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}, "sampling": {}},
    }
    number = Numbers()

    def ask(method, params=None, token=None):
        token = token or number.next()
        params = {"_meta": meta, **(params or {})}
        session.send('{"jsonrpc":"2.0","id":%s,"method":%s,"params":%s}' % (token, json.dumps(method), json.dumps(params)))
        return session.wait(json.dumps(json.loads(token)))

    # As the SDKs in `auto` mode do: the first line of the process is no handshake.
    ask("server/discover", token='"server-discover-probe-1"')
    walk(ask, meta)
    common(ask, server, meta)
    ask("no/such/method", {})
    ask("tools/call", {"name": "no-such-tool", "arguments": {}})
    if server.name == "fixture":
        first = ask("tools/call", {"name": "ask", "arguments": {}})["result"]
        assert first["resultType"] == "input_required", first
        ask("tools/call", {
            "name": "ask", "arguments": {}, "requestState": first["requestState"],
            "inputResponses": {"name": {"action": "accept", "content": {"name": "Ada"}}},
        })
        created = ask("tools/call", {"name": "task", "arguments": {"ms": 1}})["result"]
        time.sleep(0.2)
        for method in ("tasks/get", "tasks/update", "tasks/cancel"):
            ask(method, {"taskId": created["taskId"]})
        listen = {"notifications": {"toolsListChanged": True, "resourceSubscriptions": ["mem://a"]}, "_meta": meta}
        session.send('{"jsonrpc":"2.0","id":"listen:0","method":"subscriptions/listen","params":%s}' % json.dumps(listen))
        session.pause(0.3)
        session.send('{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"listen:0"}}')
        ask("tools/list")


class Numbers:
    def __init__(self):
        self.last = 0

    def next(self):
        self.last += 1
        return str(self.last)


def walk(ask, meta):
    """Every list, page by page."""
    for method in ("tools/list", "resources/list", "resources/templates/list", "prompts/list"):
        cursor = {}
        for _ in range(5):
            answer = ask(method, cursor)
            following = answer.get("result", {}).get("nextCursor")
            if not following:
                break
            cursor = {"cursor": following}


def common(ask, server, meta):
    """What both kinds of era do alike."""
    for at, (name, arguments) in enumerate(server.calls()):
        token = {"progressToken": f"p-{at}"}
        ask("tools/call", {"name": name, "arguments": arguments, "_meta": {**meta, **token}})
    for uri in server.resources:
        ask("resources/read", {"uri": uri})
    for name, arguments in server.prompts:
        ask("prompts/get", {"name": name, "arguments": arguments})
    for ref, argument in server.completions:
        ask("completion/complete", {"ref": ref, "argument": argument})
