"""Verdicts for a terminal and for machines: the table, and the JSON document that `schema.json` describes."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from torchlint.verify.verdict import CaseVerdict, Speed, Trend, as_json

SCHEMA_VERSION = 1


def machine_facts(device: str) -> dict[str, Any]:
    """What the numbers were measured on, when, and how busy the machine is now."""
    import os
    import time
    from pathlib import Path

    import torch

    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "threads": 1,
        "device": device,
        "date": time.strftime("%Y-%m-%d"),
        "load average": [round(load, 1) for load in os.getloadavg()],
    }
    if device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(0)
        facts["cuda"] = torch.version.cuda
        driver = Path("/proc/driver/nvidia/version")
        facts["driver"] = driver.read_text(encoding="utf-8").partition("\n")[0] if driver.is_file() else "unknown"
    return facts


def document(results: Mapping[str, Sequence[CaseVerdict]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON report: verdicts by rule, with what the fields mean spelled out beside the numbers."""
    rules = []
    for rule, verdicts in results.items():
        cases = []
        for v in verdicts:
            case = as_json(v)
            case["holds"] = v.holds
            case["summary"] = {"behaviour": str(v.behaviour), "cost": str(v.cost), "memory": str(v.memory)}
            cases.append(case)
        rules.append({"rule": rule, "holds": bool(verdicts) and all(v.holds for v in verdicts), "cases": cases})
    return {"version": SCHEMA_VERSION, "machine": dict(facts), "rules": rules}


def render(results: Mapping[str, Sequence[CaseVerdict]], *, width: int = 120) -> str:
    """One block per rule: each case with its verdicts and evidence, then what it promised and did not show."""
    lines: list[str] = []
    for rule, verdicts in results.items():
        lines.append(rule)
        for v in verdicts:
            lines.append(f"  {'✓' if v.holds else '✗'} {v.name}")
            rows = [("behaviour", str(v.behaviour))]
            if v.speed:
                rows.append(("cost", "; ".join(f"n={size} {cost}" for size, cost in sorted(v.speed.items()))))
            if v.memory.kind is not Trend.NOT_MEASURED:
                rows.append(("memory", str(v.memory)))
            changed = [f"{name} {a}→{b}" for name, (a, b) in v.counters.items() if a != b]
            if changed:
                rows.append(("counters", ", ".join(changed)))
            if v.wrong_fix is not None:
                rows.append(
                    ("wrong fix", f"refused: {v.wrong_fix}" if not v.wrong_fix.proven else f"PASSES: {v.wrong_fix}")
                )
            rows.append(("evidence", f"{v.evidence} ({v.seconds:g} s)"))
            rows.extend(("failed", failure) for failure in v.failures)
            for label, text in rows:
                lines.extend(_wrapped(label, text, width))
        lines.append("")
    lines.append(_summary(results))
    return "\n".join(lines) + "\n"


def _wrapped(label: str, text: str, width: int) -> list[str]:
    margin = " " * 16
    return textwrap.wrap(text, width, initial_indent=f"    {label:<12}", subsequent_indent=margin) or [f"    {label}"]


def _summary(results: Mapping[str, Sequence[CaseVerdict]]) -> str:
    verdicts = [v for group in results.values() for v in group]
    held = sum(v.holds for v in verdicts)
    faster = sum(v.cost.kind is Speed.FASTER for v in verdicts)
    saves = sum(v.memory.kind is Trend.SAVES for v in verdicts)
    sandboxes = {v.evidence.sandbox for v in verdicts if v.evidence.sandbox}
    text = f"{held} of {len(verdicts)} cases hold ({faster} faster, {saves} save memory)"
    return text + "".join(f"; sandbox: {s}" for s in sorted(sandboxes))
