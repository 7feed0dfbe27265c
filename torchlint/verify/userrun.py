"""Tier 2 from outside: runs the user's own command with both versions of each edited function in place."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torchlint.verify.channel import Forged, verified
from torchlint.verify.launching import UNWATCHED, prepared, surroundings, watched
from torchlint.verify.sandbox import enclose, scratch_directory
from torchlint.verify.shadow import Limits
from torchlint.verify.verdict import Behaviour, BehaviourVerdict, Cost, Difference, cost_from_json
from torchlint.verify.weave import Edited, weave

_ORDER = list(Behaviour)
_MARK = "TORCHLINT_VERIFY_RUN"  # in the environment of all that a run starts
MOST_PROCESSES = 2000  # of one run at once: beyond what loaders of many ranks start, and below what a machine bears
LEFT_ON_DISK = 512 << 20  # bytes that a run must leave free where it writes
_LOOK_EVERY = 1.0  # seconds; a look takes a few milliseconds
# gloo's threads now and then abort a rank that is already done, while its interpreter shuts down (torch 2.13: 1 launch
# of 30). It says nothing of what the program did.
ABORT_AT_EXIT = "terminate called without an active exception"


@dataclass(frozen=True, slots=True)
class FunctionVerdict:
    """What the run showed of one variant of a function. `calls` were seen, `verified` of them were compared."""

    path: str
    function: Edited
    verdict: BehaviourVerdict
    calls: int = 0
    verified: int = 0
    cost: Cost | None = None
    complete: bool = False  # whether every edited statement was executed


@dataclass
class UserRun:
    """The result of one run: verdicts by function, files that could not be judged by function, and how it ended."""

    functions: list[FunctionVerdict] = field(default_factory=list)
    whole_files: dict[str, str] = field(default_factory=dict)  # path → why
    edited: dict[str, list[Edited]] = field(default_factory=dict)  # path → its functions that differ
    ended: str = ""  # "" after exit code 0
    sandbox: str = ""
    key: str = ""  # what its results are signed with
    forged: str = ""  # why none of its results can be believed


def verify_run(
    files: Mapping[str, tuple[str, ...]],
    command: Sequence[str],
    *,
    limits: Limits | None = None,
    timeout: float = 3600.0,
    cwd: str | None = None,
    shown: bool = True,
) -> UserRun:
    """Run `command` once and judge every edited function of `files` by its real calls.

    `files` maps a path to the text before and to one or more texts after; the second one and further ones are looked at
    only in functions where the first is different. What the command prints goes to standard error, or with `shown` off
    nowhere.

    The command runs with the original code. Where the system allows, the directory it runs in is an overlay and the
    rest is read-only, so that it changes no file; `sandbox` says so, or that it could not be done.
    """
    result, plan = planned(files, limits)
    if plan["files"]:
        with scratch_directory() as out:
            plan |= {"out": out, "stop": True}
            where, output = os.path.abspath(cwd or "."), None if shown else os.devnull
            result.ended, enclosed = execute(command, plan, out, timeout, where, output)
            result.sandbox = "the run changes no file" if enclosed else "the run itself was not sandboxed"
            if not result.ended and not watched(out):
                result.ended = UNWATCHED
            gather(result, out)
    return result


def planned(files: Mapping[str, tuple[str, ...]], limits: Limits | None) -> tuple[UserRun, dict[str, Any]]:
    """A run that has not begun, and the plan that `agent.start` reads (without its `out` folder)."""
    result = UserRun(key=os.urandom(32).hex())
    plan: dict[str, Any] = {"files": {}, "limits": asdict(limits or Limits()), "key": result.key}
    for path, (before, *variants) in files.items():
        woven = weave(before, *variants)
        if woven.reason is not None:
            result.whole_files[path] = woven.reason
        else:
            result.edited[path] = woven.functions
            plan["files"][os.path.realpath(path)] = {"before": before, "variants": variants}
    return result, plan


def gather(result: UserRun, out: str) -> None:
    """Read what the processes of the run have published into `out`."""
    seen = []
    try:
        for published in sorted(Path(out).glob("[!.]*-*.json")):
            seen.append(verified(published.read_text(encoding="utf-8"), result.key))
    except (Forged, OSError, UnicodeError):
        # Which function it was about cannot be known, so nothing of this run is believed.
        result.forged = "a result of the run was not written by torchlint, or was changed since"
    children = next((s["sandbox"] for s in seen if s["sandbox"]), "")
    result.sandbox += f"; compared calls: {children}" if children else ""
    for path in sorted(result.edited):
        for function in result.edited[path]:
            mine = [s for s in seen if s["path"] == os.path.realpath(path) and s["function"]["name"] == function.name
                    and tuple(s["function"]["before"]) == function.before
                    and s["function"]["variant"] == function.variant]  # fmt: skip
            verdict = _joined(path, function, mine, result.ended)
            if result.forged and not function.unable:
                verdict = replace(verdict, verdict=BehaviourVerdict(Behaviour.NOT_VERIFIABLE, result.forged), cost=None)
            result.functions.append(verdict)


def execute(
    command: Sequence[str], plan: Mapping[str, Any], scratch: str, timeout: float, cwd: str, output: str | None = None
) -> tuple[str, bool]:
    """How the command ended ("" is well), and whether it was kept from changing files.

    Nothing that it started is left when this returns.

    Its standard output goes to the file `output`, without one to our standard error: ours is for the report.
    """
    plan_path = os.path.join(scratch, ".plan")
    with open(plan_path, "w", encoding="utf-8") as file:
        json.dump(plan, file)
    environment = surroundings(os.environ, os.path.join(scratch, ".bin"))
    environment["TORCHLINT_VERIFY"] = plan_path
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    environment.setdefault("PYTHONHASHSEED", "0")
    environment[_MARK] = plan_path
    environment["TMPDIR"] = os.path.join(scratch, "tmp")
    os.mkdir(environment["TMPDIR"])
    enclosed = os.path.join(scratch, ".enclosed")

    def before_exec() -> None:
        if enclose(scratch, cwd):
            open(enclosed, "w").close()

    stdout = open(output, "wb") if output is not None else None  # noqa: SIM115 (closed below)
    errors = open(os.path.join(scratch, ".stderr"), "w+b")  # noqa: SIM115 (closed below)
    try:
        process = subprocess.Popen(
            prepared(command), env=environment, cwd=cwd, stdin=subprocess.DEVNULL,
            stdout=stdout if stdout is not None else 2, stderr=errors if stdout is not None else None,
            start_new_session=True, preexec_fn=before_exec,
        )  # fmt: skip
    except OSError as error:
        return f"the command cannot be started: {error.strerror}: {command[0]}", False
    try:
        code = _watched(process, timeout, plan_path)
    except _Ended as why:
        return str(why), os.path.exists(enclosed)
    finally:
        _end_all(process, plan_path)
        if stdout is not None:
            stdout.close()
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace").strip().splitlines()
        errors.close()
    if code == 0:
        return "", os.path.exists(enclosed)
    how = f"the command ended with exit code {code}" if code > 0 else f"the command was killed by signal {-code}"
    if said:
        line = ABORT_AT_EXIT if any(ABORT_AT_EXIT in one for one in said) else said[-1].strip()[:200]
        how += f": {line}"
    return how, os.path.exists(enclosed)


class _Ended(Exception):
    """Why a run was not left to its own end."""


def _watched(process: subprocess.Popen[bytes], timeout: float, mark: str) -> int:
    """The command's exit code. Raises _Ended when it takes too long, starts too much or fills the disk."""
    disk = os.path.dirname(mark)
    least = min(LEFT_ON_DISK, shutil.disk_usage(disk).free // 2)
    end = time.monotonic() + timeout
    while True:
        left = end - time.monotonic()
        try:
            return process.wait(max(0.0, min(_LOOK_EVERY, left)))
        except subprocess.TimeoutExpired:
            if left <= _LOOK_EVERY:
                raise _Ended(f"timeout after {timeout:g} s") from None
        if len(_started(mark)) > MOST_PROCESSES:
            raise _Ended(f"ended: more than {MOST_PROCESSES} processes at once")
        if shutil.disk_usage(disk).free < least:
            raise _Ended(f"ended: less than {least >> 20} MiB were left on the disk")


def _started(mark: str) -> set[int]:
    """The processes that carry a run's mark."""
    wanted = f"{_MARK}={mark}".encode()
    found = set()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in entry.read_bytes().split(b"\0"):
                found.add(int(entry.parent.name))
    return found


def _end_all(process: subprocess.Popen[bytes], mark: str) -> None:
    """End the command and everything that it started and left behind, in whatever session that is by now.

    What makes new processes faster than they can be ended is stopped first, until no new one comes.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    stopped: set[int] = set()
    for _ in range(100):
        new = _started(mark) - stopped
        if not new:
            break
        for pid in new:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGSTOP)
        stopped |= new
    for pid in _started(mark):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _joined(path: str, function: Edited, seen: Sequence[Mapping[str, Any]], ended: str) -> FunctionVerdict:
    """The worst of what the processes of the run saw."""
    if function.unable:
        return FunctionVerdict(path, function, BehaviourVerdict(Behaviour.NOT_VERIFIABLE, function.unable))
    if not seen:
        what = "no call was compared" if ended.startswith(("timeout", UNWATCHED)) else "never called"
        why = f"{what}{f'; {ended}' if ended else ''}"
        return FunctionVerdict(path, function, BehaviourVerdict(Behaviour.NOT_VERIFIABLE, why))
    verdicts = [_verdict(s["verdict"]) for s in seen]
    worst = max(verdicts, key=lambda v: _ORDER.index(v.kind))
    cost = next((cost_from_json(s["cost"]) for s in seen if s["cost"]), None)
    calls, verified = (sum(s[key] for s in seen) for key in ("calls", "verified"))
    complete = any(s["complete"] for s in seen)
    return FunctionVerdict(path, function, worst, calls, verified, cost, complete)


def _verdict(data: Mapping[str, Any]) -> BehaviourVerdict:
    differences = tuple(Difference(**d) for d in data["differences"])
    return BehaviourVerdict(Behaviour(data["kind"]), data["detail"], tuple(data["plausible"]), differences)
