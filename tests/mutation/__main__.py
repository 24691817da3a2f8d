"""Mutates the security-relevant modules: `python dev.py mutation [again] [PART ...]`.

With `again`, only the mutants that survived last time are tried, with the tests as they are now;
that is for writing the test that kills one. After a change of a module, which makes other mutants
of it, and for the score, run it without.
"""

from __future__ import annotations

import sys

from tests.mutation.mutants import Mutant, Part, parts, results, run
from tests.mutation.survivors import explained

#: Per cent of all mutants, the explained ones counted as survivors.
GOAL = 90


def report(part: Part, mutants: list[Mutant]) -> bool:
    """Print what survived and how many did not; say whether that is good enough."""
    known = explained()
    tried = [mutant for mutant in mutants if mutant.killed is not None]
    survivors = [mutant for mutant in tried if not mutant.killed]
    unread = [mutant for mutant in survivors if mutant.change not in known]
    ours = [change for change in known if change.module in part.modules]
    living = {mutant.change for mutant in survivors}
    stale = [change for change in ours if change not in living]
    for mutant in unread:
        print(f"survived: {mutant.change}")
    for change in stale:
        print(f"explained, but not alive: {change}")
    killed = len(tried) - len(survivors)
    score = 100 * killed / len(tried)
    print(
        f"{part.name}: {len(tried)} of {len(mutants)} mutants, {killed} killed ({score:.1f} %),"
        f" {len(survivors) - len(unread)} explained, {len(unread)} survived unread",
        flush=True,
    )
    return len(tried) == len(mutants) and score >= GOAL and not unread and not stale


def main(arguments: list[str]) -> int:
    again = arguments[:1] == ["again"]
    chosen = set(arguments[1:] if again else arguments)
    known = {part.name: part for part in parts()}
    if unknown := chosen - known.keys():
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    good: list[bool] = []
    for name, part in known.items():
        if chosen and name not in chosen:
            continue
        names = (
            [mutant.name for mutant in results(part) if mutant.killed is False] if again else None
        )
        if names != []:
            run(part, names)
        good.append(report(part, results(part)))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
