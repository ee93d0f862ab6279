#!/usr/bin/env python3
"""One cell of the fidelity matrix: the same session direct and wrapped, compared byte for byte.

Exit 0: equal, and nothing that matters was denied. 1: different, with a diff, or denied. 2: the direct
session differs from itself or failed.
"""

import argparse
import difflib
import json
import os
import re
import shutil
import subprocess
import sys

import raw
import servers

HERE = os.path.dirname(os.path.abspath(__file__))
# What clients give a server (they pass no more than these).
GIVEN = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER")
# The cells: with namespaces, and the supervised floor alone. There root's server would be a user to whom
# the workspace does not belong.
TIERS = {
    "any": [],
    "a": ["--require", "namespaces"],
    "b": ["--off", "namespaces", "--require", "supervision", *(["--user", "root"] if os.geteuid() == 0 else [])],
}
SDKS = {
    "ts1": ["node", "sdk.mjs", "ts1"],
    "ts2": ["node", "sdk.mjs", "legacy"],
    "ts2-auto": ["node", "sdk.mjs", "auto"],
    "ts2-pin": ["node", "sdk.mjs", "pin"],
    "py2": ["python", "sdk.py", "auto"],
    "py2-legacy": ["python", "sdk.py", "legacy"],
    "py2-pin": ["python", "sdk.py", "2026-07-28"],
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fixtures", required=True)
    parser.add_argument("--examples", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--server", required=True, choices=servers.ALL)
    parser.add_argument("--client", default="raw")
    parser.add_argument("--era", default="2025-11-25", choices=raw.ERAS)
    parser.add_argument("--tier", default="any", choices=TIERS)
    parser.add_argument("--traced", action="store_true", help="see what the kernel refuses too, by strace")
    parser.add_argument("--cofferdam", help="path of the binary")
    parser.add_argument("--wrapper", help="another wrapper's command, put before the server's")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds for one answer")
    args = parser.parse_args()
    raw.PATIENCE = args.patience
    parts = [args.server, args.client] + ([args.era] if args.client == "raw" else [])
    parts += [f"tier-{args.tier}"] if args.tier != "any" else []
    case = "/".join(parts)
    base = os.path.join(os.path.abspath(args.work), "-".join(parts))
    shutil.rmtree(base, ignore_errors=True)
    os.makedirs(base)

    # A machine that is busy can make a session end late: only what is the same twice is judged.
    for _ in range(3):
        direct = run(args, base, wrapped=False)
        if len(direct) < 4 or any(b"<the session ended early>" in line or b"<no answer" in line for line in direct):
            return report(2, f"{case}: the direct session failed", direct, base)
        wrapped = run(args, base, wrapped=True)
        if wrapped == direct:
            denied = [] if args.wrapper else denials(args, base)
            if denied:
                return report(1, f"{case}: denied what may matter", [line.encode() + b"\n" for line in denied], base)
            print(f"{case}: equal, {len(direct)} lines, {sum(map(len, direct))} bytes")
            shutil.rmtree(base, ignore_errors=True)
            return 0
        again = run(args, base, wrapped=False)
        if again == direct:
            return report(1, f"{case}: the wrapped session differs", diff(direct, wrapped), base)
        shutil.rmtree(base, ignore_errors=True)
        os.makedirs(base)
    return report(2, f"{case}: the direct session differs from itself", diff(direct, again), base)


def run(args, base, wrapped):
    server = servers.ALL[args.server](args.fixtures, args.examples, os.path.join(base, "work"))
    try:
        command = server.command()
        env = {key: os.environ[key] for key in GIVEN if key in os.environ}
        if not wrapped or args.wrapper:
            env.update(server.env)
        if wrapped:
            command = wrap(args, server, base) + command
        if wrapped and args.traced:
            os.makedirs(os.path.join(base, "trace"))
            command = ["strace", "-ff", "-qq", "--pidns-translation", "-o", os.path.join(base, "trace", "of"), "--", *command]
        if args.client == "raw":
            lines, code = raw.play(server, command, env, args.era)
            lines.append(b"<exit code %d>\n" % code if code is not None else b"<did not end by itself>\n")
        else:
            lines = sdk(args, server, command, env, base)
    finally:
        server.close()
    rules = json.load(open(os.path.join(HERE, "volatile.json"), encoding="utf-8"))
    lines = [normal(line, [rule for rule in rules if rule["server"] == server.name]) for line in lines]
    if server.unordered and args.client == "raw":
        lines = settled(lines)
    return lines


def wrap(args, server, base):
    if args.wrapper:
        return args.wrapper.split()
    state = os.path.join(base, "state")
    os.makedirs(state, exist_ok=True)
    # What the server is made of may be read; the rest is the server's own business.
    return [
        args.cofferdam, "run", "--audit", os.path.join(state, "audit.jsonl"), "--read", args.fixtures,
        *TIERS[args.tier], *server.flags(), "--",
    ]


def denials(args, base):
    """What the cell says that it refused, but for what `harmless.json` names with a reason."""
    harmless = json.load(open(os.path.join(HERE, "harmless.json"), encoding="utf-8"))
    harmless = [rule for rule in harmless if rule["server"] in (args.server, "*") and args.tier in rule["tiers"]]
    told = []
    with open(os.path.join(base, "state", "audit.jsonl"), encoding="utf-8") as file:
        for line in map(json.loads, file):
            if line.get("type") in ("cell", "network") and line["decision"] == "refuse":
                told.append(line["detail"])
    # More is written to stderr than is logged: what is told before the log is open.
    with open(os.path.join(base, "stderr.log"), encoding="utf-8", errors="replace") as file:
        told += [line.strip() for line in file if "denied: " in line]
    if args.traced:
        told += refused(os.path.join(base, "trace"))
    return [line for line in told if not any(re.search(rule["pattern"], line) for rule in harmless)]


# The launcher's own last acts before it becomes the server are no part of it.
CAGED = re.compile(r"(seccomp\(SECCOMP_SET_MODE_FILTER|prctl\(PR_SET_SECCOMP)")
EXECUTED = re.compile(r"execve\(.*\) += 0$")
FORKED = re.compile(r"(?:clone|clone3|fork|vfork)\(.*\) += (?:\d+ /\* )?(\d+)(?: in strace's PID NS \*/)?$")
REFUSED = re.compile(r"\) += -1 (?:EACCES|EPERM|ENOSYS) ")


def refused(trace):
    """Calls of the server, and of what it started, that failed as refused calls do; each once."""
    lines, starts = {}, {}
    for name in os.listdir(trace):
        with open(os.path.join(trace, name), encoding="utf-8", errors="replace") as file:
            lines[name.split(".")[-1]] = file.read().splitlines()
    for pid, calls in lines.items():
        caged = next((at for at, call in enumerate(calls) if CAGED.match(call)), len(calls))
        begun = next((at for at, call in enumerate(calls) if at > caged and EXECUTED.match(call)), None)
        if begun is not None:
            starts[pid] = begun
    assert starts, "nobody became the server"
    found, waiting = set(), list(starts)
    while waiting:
        pid = waiting.pop()
        for call in lines[pid][starts[pid]:]:
            child = FORKED.match(call)
            if child and child[1] in lines and child[1] not in starts:
                starts[child[1]] = 0
                waiting.append(child[1])
            if REFUSED.search(call):
                found.add(call)
    return sorted(found)


def sdk(args, server, command, env, base):
    program, script, *mode = SDKS[args.client]
    if program == "python":
        program = f"{args.fixtures}/pypi/bin/python"
    plan = {
        "command": command[0], "args": command[1:], "env": env, "cwd": server.work,
        "calls": [{"name": name, "arguments": arguments} for name, arguments in server.calls()],
        "resources": list(server.resources),
        "prompts": [{"name": name, "arguments": arguments} for name, arguments in server.prompts],
        "completions": [{"ref": ref, "argument": argument} for ref, argument in server.completions],
        "mode": mode[0], "server": server.name,
    }
    path = os.path.join(base, "plan.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(plan, file)
    # Node finds packages beside the script, so it runs where they are.
    source = os.path.join(HERE, script)
    if program == "node":
        source = shutil.copy(source, os.path.join(args.fixtures, "npm", f"{os.getpid()}-{script}"))
    try:
        done = subprocess.run([program, source, path], capture_output=True, timeout=120, cwd=base)
    finally:
        if program == "node":
            os.unlink(source)
    with open(os.path.join(base, "stderr.log"), "ab") as file:
        file.write(done.stderr)
    lines = done.stdout.splitlines(keepends=True)
    if done.returncode != 0:
        lines.append(b"<the session ended early>\n" + done.stderr[-2000:])
    return lines


def normal(line, rules):
    text = line.decode("utf-8", "surrogateescape")
    for rule in rules:
        text = re.sub(rule["pattern"], rule["instead"], text)
    return text.encode("utf-8", "surrogateescape")


def settled(lines):
    """Answers in order; behind them what the server says unasked, in its own order."""
    unasked = [line for line in lines if b'"method":"notifications/' in line and b"progress" not in line]
    asks = [line for line in lines if b'"method":"' in line and b'"id":' in line and line not in unasked]
    rest = [line for line in lines if line not in unasked and line not in asks]
    return rest + unasked + asks


def diff(one, two):
    cut = lambda lines: [line[:400].decode("utf-8", "replace").rstrip("\n") for line in lines]
    shown = list(difflib.unified_diff(cut(one), cut(two), "direct", "other", n=1, lineterm=""))
    if not shown:
        shown = [f"line {at}: differs behind its first 400 bytes" for at, (a, b) in enumerate(zip(one, two)) if a != b]
    return [line.encode() + b"\n" for line in shown]


def report(code, title, lines, base):
    sys.stdout.write(title + "\n")
    for line in lines[:60]:
        sys.stdout.write("    " + line[:600].decode("utf-8", "replace").rstrip("\n") + "\n")
    log = os.path.join(base, "stderr.log")
    if os.path.exists(log):
        sys.stdout.write("  stderr:\n")
        for line in open(log, "rb").read()[-3000:].decode("utf-8", "replace").splitlines()[-15:]:
            sys.stdout.write("    " + line + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
