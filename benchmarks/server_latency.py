"""Measure what an editor's user waits for: from a change of the text to the diagnostics of that very text.

    python benchmarks/server_latency.py FILE… [--edits N] [--out NAME]

Each FILE is a real Python file, best where it lies in its project. A server is started for each as an editor starts it
and spoken to over stdio. One change after the other is sent, each after the diagnostics of the one before: words typed
into the function with the first finding (or the middle one), and into a comment at the top. Without the debounce, which
the client may set and which is reported apart. `engine` is the same check of the same texts in this process, without
server, client and pipe; its processor time depends least on what else the machine does. Writes results/NAME.json beside
this script.
"""

from __future__ import annotations

import argparse
import ast
import gc
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torchlint import __version__
from torchlint.server.checking import Checker
from torchlint.server.service import DEBOUNCE

HERE = Path(__file__).parent
TARGET = 100.0  # milliseconds, after the first check


class Client:
    """As much of an editor as the measurement needs."""

    def __init__(self, debounce: float) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "torchlint", "server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._number = 0
        folder = Path.cwd().as_uri()
        params = {"processId": os.getpid(), "rootUri": folder, "capabilities": {}}
        self.request("initialize", {**params, "initializationOptions": {"debounce": debounce}})
        self.notify("initialized", {})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._server.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._server.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self._server.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        length = 0
        while (line := self._server.stdout.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
            if not line:
                raise RuntimeError("the server went away")
        message: dict[str, Any] = json.loads(self._server.stdout.read(length))
        return message

    def notify(self, method: str, params: Any) -> None:
        self._send({"method": method, "params": params})

    def request(self, method: str, params: Any) -> Any:
        self._number += 1
        self._send({"id": self._number, "method": method, "params": params})
        while (answer := self.receive()).get("id") != self._number:
            pass
        return answer.get("result")

    def diagnostics(self, number: int) -> list[Any]:
        """Wait for the diagnostics of a version."""
        while True:
            message = self.receive()
            params = message.get("params") or {}
            if message.get("method") == "textDocument/publishDiagnostics" and params.get("version") == number:
                found: list[Any] = params["diagnostics"]
                return found

    def end(self) -> None:
        self.request("shutdown", None)
        self.notify("exit", None)
        self._server.wait(30)


def where(text: str, findings: list[Any]) -> tuple[int, str]:
    """The 0-based row of a statement to type at, and its indentation: in the function with the first finding."""
    row = findings[0]["range"]["start"]["line"] + 1 if findings else text.count("\n") // 2
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    around = [f for f in functions if f.lineno <= row <= (f.end_lineno or row)]
    function = max(around, key=lambda f: f.lineno) if around else min(functions, key=lambda f: abs(f.lineno - row))
    last = function.body[-1]
    return last.lineno - 1, " " * last.col_offset


def session(path: Path, edits: int, debounce: float) -> tuple[dict[str, list[float]], list[Any], list[str]]:
    """Milliseconds of the first check and of the edits of each kind, the findings, and the texts that were checked."""
    text = path.read_text(encoding="utf-8")
    uri = path.resolve().as_uri()
    client = Client(debounce)
    began = time.perf_counter()
    item = {"uri": uri, "languageId": "python", "version": 1, "text": text}
    client.notify("textDocument/didOpen", {"textDocument": item})
    findings = client.diagnostics(1)
    times: dict[str, list[float]] = {"first": [_since(began)], "code": [], "comment": []}
    row, indent = where(text, findings)
    number, texts = 1, []
    lines = text.split("\n")
    for kind, at, line in (("code", row, indent + "value = "), ("comment", 0, "# ")):
        for i in range(edits):
            number += 1
            if i == 0:
                start = end = {"line": at, "character": 0}
                typed = f"{line}{i}\n"
                lines.insert(at, line + str(i))
            else:
                start, end = ({"line": at, "character": c} for c in (len(line), len(lines[at])))
                typed = str(i)
                lines[at] = line + typed
            change = {"range": {"start": start, "end": end}, "text": typed}
            began = time.perf_counter()
            client.notify(
                "textDocument/didChange",
                {"textDocument": {"uri": uri, "version": number}, "contentChanges": [change]},
            )
            client.diagnostics(number)
            times[kind].append(_since(began))
            texts.append("\n".join(lines))
            time.sleep(0.05)  # nobody types faster
    client.end()
    return times, findings, texts


def engine(path: Path, texts: list[str]) -> tuple[list[float], list[float]]:
    """Milliseconds, by the clock and of the processor, of the same checks here."""
    checker, name = Checker(), str(path.resolve())
    times, cpu = [], []
    for number, text in enumerate([texts[0], *texts]):
        gc.disable()
        began, used = time.perf_counter(), time.process_time()
        checker.check(name, text.encode(), number, {})
        times.append(_since(began))
        cpu.append((time.process_time() - used) * 1000)
        gc.enable()
        gc.collect()
        if number == 0:
            checker.prepare(name, text)
    return times[1:], cpu[1:]


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1000


def summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "median_ms": round(statistics.median(ordered), 1),
        "p90_ms": round(ordered[int(0.9 * (len(ordered) - 1))], 1),
        "max_ms": round(ordered[-1], 1),
    }


def measure(path: Path, edits: int) -> dict[str, Any]:
    data = path.read_bytes()
    times, findings, texts = session(path, edits, 0.0)
    delayed, _, _ = session(path, max(edits // 4, 3), DEBOUNCE * 1000)
    after = times["code"] + times["comment"]
    alone, cpu = engine(path, texts)
    return {
        "file": "/".join(path.resolve().parts[-4:]),
        "sha256": hashlib.sha256(data).hexdigest(),
        "lines": data.count(b"\n"),
        "findings": len(findings),
        "first_check_ms": round(times["first"][0], 1),
        "edit_in_code": summary(times["code"]),
        "edit_in_comment": summary(times["comment"]),
        "engine_alone": summary(alone),
        "engine_cpu": summary(cpu),
        "with_debounce": summary(delayed["code"] + delayed["comment"]),
        "below_target": round(sum(t < TARGET for t in after) / len(after), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--edits", type=int, default=20, help="changes of each kind per file")
    parser.add_argument("--out", default="server_latency")
    options = parser.parse_args()
    load = os.getloadavg()
    rows = []
    for path in options.files:
        rows.append(measure(path, options.edits))
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "load_before": [round(x, 2) for x in load],
            "load_after": [round(x, 2) for x in os.getloadavg()],
        },
        "versions": {
            "torchlint": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("pygls", "lsprotocol", "libcst")},
        },
        "debounce_ms": DEBOUNCE * 1000,
        "target_ms": TARGET,
        "files": rows,
    }
    out = HERE / "results" / f"{options.out}.json"
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    sys.exit(main())
