"""Fuzzes the parsers: `python -m tests.fuzz [SECONDS [TARGET ...]]`, by default 120 s for each.

A finding is printed and kept in tests/fuzz/corpus, where the normal test run replays it; so are
inputs that reach code which no other input reaches. Where atheris can be imported it searches
first, guided by coverage inside the interpreter and with sanitised memory; then, or without it, a
tracer guides the mutations, from a seed that is printed.
"""

from __future__ import annotations

import importlib.util
import logging
import random
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.all_targets import TARGETS
from tests.fuzz.engine import Finding, search
from tests.fuzz.target import Target


def _atheris(target: Target, inputs: list[bytes], seconds: int) -> tuple[list[bytes], list[bytes]]:
    """Return the inputs that atheris found interesting, and those for which the target failed."""
    with tempfile.TemporaryDirectory() as folder:
        kept, failed = Path(folder, "corpus"), Path(folder, "failed")
        kept.mkdir()
        failed.mkdir()
        for number, data in enumerate([*inputs, *target.seeds]):
            (kept / str(number)).write_bytes(data)
        subprocess.run(
            [
                *(sys.executable, "-m", "tests.fuzz.with_atheris", target.name, str(kept)),
                *(f"-max_total_time={seconds}", "-max_len=2048", "-timeout=10"),
                *(f"-artifact_prefix={failed}/", "-print_final_stats=1"),
            ],
            check=False,
        )
        return [[file.read_bytes() for file in path.iterdir()] for path in (kept, failed)]  # type: ignore[return-value]


def main() -> int:
    logging.disable()
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 120
    guided = importlib.util.find_spec("atheris") is not None
    findings = 0
    for name in sys.argv[2:] or sorted(TARGETS):
        target, seed = TARGETS[name], random.randrange(2**32)
        inputs, failed = corpus.read(name), list[bytes]()
        print(f"{name}: {len(inputs)} inputs, {seconds} s, seed {seed}", flush=True)
        if guided:
            inputs, failed = _atheris(target, inputs, seconds)
        try:
            inputs = search(target, inputs, seconds=5 if guided else seconds, seed=seed)
        except Finding as finding:
            traceback.print_exception(finding)
            failed.append(finding.data)
        for data in failed:
            print(f"{name}: failed for {data!r}", flush=True)
        findings += len(failed)
        if failed:
            inputs = corpus.read(name)
        corpus.write(name, [*inputs, *failed])
        print(f"{name}: {len(inputs)} inputs are worth keeping", flush=True)
    print(f"{findings} findings; the corpus takes {corpus.size()} bytes")
    return min(findings, 1)


if __name__ == "__main__":
    sys.exit(main())
