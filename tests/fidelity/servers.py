"""The real servers: how each is started, what cofferdam must allow it, what is safe to call."""

import http.server
import os
import shutil
import subprocess
import threading

EVERYTHING_CALLS = [
    ("echo", {"message": "h\u00e9llo \u2028 \"quoted\" \\ back\tslash \U0001f600"}),
    ("get-sum", {"a": 1.5, "b": 1e3}),
    ("get-tiny-image", {}),
    ("get-annotated-message", {"messageType": "error", "includeImage": True}),
    ("get-structured-content", {"location": "Chicago"}),
    ("get-resource-links", {"count": 3}),
    ("get-resource-reference", {"resourceType": "Text", "resourceId": 2}),
    ("trigger-long-running-operation", {"duration": 0.3, "steps": 3}),
    ("get-roots-list", {}),
    ("trigger-sampling-request", {"prompt": "say yes", "maxTokens": 5}),
    ("trigger-elicitation-request", {}),
]


class Server:
    """One server in a workspace of its own; the path is the same for every run of a case."""

    name = ""
    resources = ()
    prompts = ()
    completions = ()
    # Notices that the server sends when it likes: their place between answers says nothing.
    unordered = False

    def __init__(self, fixtures, examples, work):
        self.fixtures, self.examples, self.work = fixtures, examples, work
        self.env = {}
        if os.path.isdir(work):
            shutil.rmtree(work)
        os.makedirs(work)
        self.prepare()

    def prepare(self):
        pass

    def node(self, package, *args):
        entry = f"{self.fixtures}/npm/node_modules/@modelcontextprotocol/{package}/dist/index.js"
        return ["node", entry, *args]

    def python(self, module, *args):
        return [f"{self.fixtures}/pypi/bin/python", "-m", module, *args]

    def command(self):
        raise NotImplementedError

    def flags(self):
        return []

    def calls(self):
        return []

    def close(self):
        pass


class Everything(Server):
    name = "everything"
    unordered = True
    resources = ("demo://resource/static/document/architecture.md", "demo://resource/dynamic/text/1")
    prompts = (("simple-prompt", {}), ("args-prompt", {"city": "Berlin"}))
    completions = (
        ({"type": "ref/prompt", "name": "completable-prompt"}, {"name": "department", "value": "E"}),
    )

    def command(self):
        return self.node("server-everything", "stdio")

    def calls(self):
        return EVERYTHING_CALLS


class Filesystem(Server):
    name = "filesystem"
    unordered = True

    def prepare(self):
        self.put("a.txt", "first\nsecond\nthird\n")
        self.put("caf\u00e9.md", "# \u00fcber\n")
        os.makedirs(f"{self.work}/sub/deep")
        self.put("sub/deep/b.json", '{"b": [1, 2, 3]}')

    def put(self, name, text):
        path = f"{self.work}/{name}"
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.utime(path, (1_700_000_000, 1_700_000_000))

    def command(self):
        return self.node("server-filesystem", self.work)

    def flags(self):
        return ["--write", self.work]

    def calls(self):
        w = self.work
        return [
            ("list_allowed_directories", {}),
            ("read_text_file", {"path": f"{w}/a.txt"}),
            ("read_text_file", {"path": f"{w}/a.txt", "tail": 1}),
            ("read_multiple_files", {"paths": [f"{w}/a.txt", f"{w}/caf\u00e9.md", f"{w}/none"]}),
            ("write_file", {"path": f"{w}/new.txt", "content": "written\n"}),
            ("edit_file", {"path": f"{w}/new.txt", "edits": [{"oldText": "written", "newText": "edited"}]}),
            ("create_directory", {"path": f"{w}/made"}),
            ("move_file", {"source": f"{w}/new.txt", "destination": f"{w}/made/moved.txt"}),
            ("directory_tree", {"path": f"{w}"}),
            ("list_directory", {"path": f"{w}"}),
            ("search_files", {"path": w, "pattern": "**/*.json"}),
            ("read_text_file", {"path": f"{w}/../outside"}),
        ]


class Memory(Server):
    name = "memory"
    resources = ("memory://knowledge-graph",)

    def prepare(self):
        self.env = {"MEMORY_FILE_PATH": f"{self.work}/memory.jsonl"}

    def command(self):
        return self.node("server-memory")

    def flags(self):
        return ["--write", self.work, "--allow-env", f"MEMORY_FILE_PATH={self.work}/memory.jsonl"]

    def calls(self):
        entity = {"name": "Ada", "entityType": "person", "observations": ["counts"]}
        other = {"name": "Engine", "entityType": "machine", "observations": []}
        return [
            ("create_entities", {"entities": [entity, other]}),
            ("create_relations", {"relations": [{"from": "Ada", "to": "Engine", "relationType": "programs"}]}),
            ("add_observations", {"observations": [{"entityName": "Ada", "contents": ["writes"]}]}),
            ("read_graph", {}),
            ("search_nodes", {"query": "ada"}),
            ("open_nodes", {"names": ["Engine"]}),
            ("delete_entities", {"entityNames": ["Engine"]}),
            ("read_graph", {}),
        ]


class SequentialThinking(Server):
    name = "sequential-thinking"

    def command(self):
        return self.node("server-sequential-thinking")

    def calls(self):
        return [
            ("sequentialthinking", {"thought": f"step {n}", "nextThoughtNeeded": n < 3, "thoughtNumber": n, "totalThoughts": 3})
            for n in (1, 2, 3)
        ]


class Git(Server):
    name = "git"

    def prepare(self):
        self.repo = f"{self.work}/repo"
        fixed = {
            "GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z",
            "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null",
        }

        def git(*args):
            subprocess.run(["git", "-C", self.repo, *args], check=True, capture_output=True, env={**os.environ, **fixed})

        os.makedirs(self.repo)
        git("init", "-q", "-b", "main")
        git("config", "user.name", "Fixture")
        git("config", "user.email", "fixture@example.com")
        for n in range(3):
            with open(f"{self.repo}/file.txt", "a", encoding="utf-8") as file:
                file.write(f"line {n}\n")
            git("add", "file.txt")
            git("commit", "-q", "-m", f"change {n}")
        with open(f"{self.repo}/file.txt", "a", encoding="utf-8") as file:
            file.write("not committed\n")

    def command(self):
        return self.python("mcp_server_git", "--repository", self.repo)

    def flags(self):
        return ["--write", self.work, "--allow-exec", "git"]

    def calls(self):
        here = {"repo_path": self.repo}
        return [
            ("git_status", here),
            ("git_diff_unstaged", here),
            ("git_log", {**here, "max_count": 2}),
            ("git_show", {**here, "revision": "HEAD~1"}),
            ("git_branch", {**here, "branch_type": "local"}),
            ("git_add", {**here, "files": ["file.txt"]}),
            ("git_diff_staged", here),
            ("git_create_branch", {**here, "branch_name": "side"}),
            ("git_diff", {**here, "target": "HEAD~2"}),
            ("git_show", {**here, "revision": "no-such-revision"}),
        ]


class Time(Server):
    name = "time"

    def command(self):
        return self.python("mcp_server_time", "--local-timezone", "Europe/Berlin")

    def calls(self):
        return [
            ("get_current_time", {"timezone": "Asia/Tokyo"}),
            ("convert_time", {"source_timezone": "UTC", "time": "16:30", "target_timezone": "Asia/Kolkata"}),
            ("get_current_time", {"timezone": "Nowhere/None"}),
        ]


class Fetch(Server):
    name = "fetch"

    def prepare(self):
        pages = {
            "/robots.txt": ("text/plain", "User-agent: *\nAllow: /\n"),
            "/plain": ("text/plain", "plain text, l\u00edne by l\u00edne\n" * 50),
            "/data": ("application/json", '{"n": 1.50, "list": [1, 2, 3]}'),
        }

        class Page(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                kind, body = pages.get(self.path, ("text/plain", ""))
                body = body.encode()
                self.send_response(200 if self.path in pages else 404)
                self.send_header("Content-Type", kind + "; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
        self.port = self.site.server_address[1]
        threading.Thread(target=self.site.serve_forever, daemon=True).start()

    def command(self):
        return self.python("mcp_server_fetch", "--allow-private-ips")

    def flags(self):
        return ["--allow-host", f"127.0.0.1:{self.port}"]

    def calls(self):
        at = f"http://127.0.0.1:{self.port}"
        return [
            ("fetch", {"url": f"{at}/plain", "max_length": 200}),
            ("fetch", {"url": f"{at}/data", "raw": True}),
            ("fetch", {"url": f"{at}/missing"}),
        ]

    def close(self):
        self.site.shutdown()
        self.site.server_close()


class Fixture(Server):
    """Ours: the only one that does the rarer things of every era."""

    name = "fixture"
    resources = ("mem://a", "mem://none/../b")
    prompts = (("greet", {"who": "Ada"}),)
    completions = (({"type": "ref/prompt", "name": "greet"}, {"name": "who", "value": "a"}),)

    def command(self):
        return [f"{self.examples}/fixture"]

    def calls(self):
        return [
            ("echo", {"text": "1.50 \u2028 </script> \\ \" \t"}),
            ("echo", {"text": ""}),
            ("blob", {"bytes": 300_000}),
            ("sleep", {"ms": 20}),
            ("progress", {"steps": 3, "ms": 5}),
            ("structured", {"n": 1.5}),
            ("structured", {"n": 12345678901234567890}),
            ("log", {}),
            ("stderr_flood", {"lines": 500}),
            ("roots", {}),
            ("sample", {}),
            ("elicit", {}),
            ("ask", {}),
            ("task", {"ms": 10}),
        ]


class Nosy(Fixture):
    """Does one thing first that nothing allows, and does not speak of it: the judge must."""

    name = "nosy"

    def command(self):
        code = (
            "import os, sys\n"
            "try: os.chmod(sys.argv[1], 0o640)\n"
            "except OSError: pass\n"
            "os.execv(sys.argv[2], sys.argv[2:])"
        )
        planted = f"{self.work}-planted"
        open(planted, "w").close()
        program = f"{self.examples}/fixture"
        return ["python3", "-c", code, planted, program]

    def flags(self):
        return ["--read", f"{self.work}-planted", "--allow-exec", f"{self.examples}/fixture"]


ALL = {s.name: s for s in (Everything, Filesystem, Memory, SequentialThinking, Git, Time, Fetch, Fixture, Nosy)}
