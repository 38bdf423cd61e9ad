"""``python -m bench``: our training steps against those of other frameworks. See bench/README.md."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

from bench import machine
from bench.race import Budget, ContestantError, Result, race
from bench.steps import CONTESTANTS
from bench.table import disagrees, table_of
from bench.workloads import chosen


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        workloads = chosen(options.only)
    except KeyError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    names = options.contestants or list(CONTESTANTS)
    unknown = [name for name in names if name not in CONTESTANTS]
    if unknown:
        print(f"there is no contestant {unknown[0]!r}; there are {', '.join(CONTESTANTS)}", file=sys.stderr)
        return 2
    budget = Budget(run=options.seconds, prepare=options.prepare)
    results: list[Result] = []
    for workload in workloads:
        try:
            result = race(
                workload,
                {name: CONTESTANTS[name] for name in names},
                budget,
                compile_times=not options.no_compile_times,
                say=lambda text: print(text, file=sys.stderr, flush=True),
                before_timing=_wait_for_enter if options.ask else lambda: None,
            )
        except ContestantError as failure:
            print(f"{workload.name} is left out: {failure}", file=sys.stderr)
            continue
        results.append(result)
        print(table_of([result]).splitlines()[-1], flush=True)
    print(f"\n{machine.described()}\n\n{table_of(results)}")
    if options.json:
        options.json.write_text(json.dumps([_as_json(result) for result in results], indent=2) + "\n", encoding="utf-8")
    wrong = [result.workload for result in results if disagrees(result)]
    if wrong:
        print(f"\nThe first losses are not PyTorch's: {', '.join(wrong)}.", file=sys.stderr)
    return 1 if wrong or not results else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as a list of objects")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="these workloads; `kernel` for all products"
    )
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help=f"of {', '.join(CONTESTANTS)}")
    parser.add_argument("--seconds", type=float, default=6.0, help="of running for each contestant (6)")
    parser.add_argument("--prepare", type=float, default=120.0, help="most seconds for starting and compiling (120)")
    parser.add_argument("--no-compile-times", action="store_true", help="do not measure how long ours compiles")
    parser.add_argument("--ask", action="store_true", help="when all is prepared, wait for Enter before timing")
    return parser


def _wait_for_enter() -> None:
    print("prepared; Enter starts the clock", file=sys.stderr, flush=True)
    sys.stdin.readline()


def _as_json(result: Result) -> dict[str, Any]:
    """Numbers that are not finite become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    described: dict[str, Any] = plain(dataclasses.asdict(result))
    return {**described, "best_peer": result.best_peer, "machine": machine.described()}


if __name__ == "__main__":
    sys.exit(main())
