"""The evidence that needs a GPU: every rule's cases on cuda, and one program proven in a run on the device.

Run `python benchmarks/verifier/gpu.py` from the repository root on a machine where torch sees a CUDA device; it writes
rules_cuda.json and program_cuda.json beside itself, with device, driver and torch version. Elsewhere it ends with 2.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from suite import HERE

PROGRAM = "cnn_classifier"


def torchlint(folder: Path, *words: str) -> int:
    return subprocess.run([sys.executable, "-m", "torchlint", *words], cwd=folder, check=False).returncode


def main() -> int:
    if not torch.cuda.is_available():
        print("torch sees no CUDA device here")
        return 2
    cases = torchlint(HERE.parents[1], "verify", "--device", "cuda", f"--json={HERE / 'rules_cuda.json'}")
    with tempfile.TemporaryDirectory(prefix="torchlint-gpu-") as work:
        folder = Path(shutil.copytree(HERE / "programs" / PROGRAM, Path(work) / PROGRAM))
        run = torchlint(
            folder, "fix", ".", "--apply", "--no-cache", "--verify=run", f"--json={HERE / 'program_cuda.json'}",
            "--", sys.executable, "train.py",
        )  # fmt: skip
    return max(cases, run)


if __name__ == "__main__":
    raise SystemExit(main())
