"""What reaches whom while brokers and workers are killed and clients drop, on real servers.

    python benchmarks/delivery.py [BACKEND ...] [--fault broker|clients|workers] [--seed N]
    python benchmarks/delivery.py --check benchmarks/results/raw/kafka-broker.jsonl.gz
    python benchmarks/delivery.py --table

Each backend gets a server of its own that keeps what it acknowledges, two uvicorn workers (one on
memory://), 24 publishers on 4 channels and 3 clients of each channel. (a) broker: the server is
killed with SIGKILL and started again. (b) clients: each drops its stream every 2 seconds and comes
back with its Last-Event-ID. (c) workers: a worker is killed with SIGKILL, its clients come back to
any, and it is started again.

A run leaves its verdict, its kills and its gaps in benchmarks/results/delivery/, and all that was
published and received in benchmarks/results/raw/, which `--check` judges again. `--table` puts the
verdicts on docs/delivery.md.
"""

import argparse
import asyncio
import random
import sys
from contextlib import nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # where the parts and the servers are

from benchmarks._delivery import results  # noqa: E402
from benchmarks._delivery.backends import BACKENDS  # noqa: E402
from benchmarks._delivery.checker import Verdict, check  # noqa: E402
from benchmarks._delivery.faults import Fault  # noqa: E402
from benchmarks._delivery.records import Record  # noqa: E402
from benchmarks._delivery.run import Plan, run  # noqa: E402

RAW = ROOT / "benchmarks" / "results" / "raw"
# seconds between two messages of a publisher: none, so that there is always a batch to be broken,
# and enough for the run to last while each client drops ten times
PAUSES: dict[Fault, float] = {"broker": 0.0, "clients": 0.012, "workers": 0.012}


def tell(record: Record) -> Verdict:
    """Judge a run and print what came of it."""
    plan = Plan.of(record.about)
    verdict = check(record, loses=plan.loses)
    about, kills = record.about, len(record.outages) + len(record.restarts)
    print(
        f"{plan.backend:>15} {plan.fault:<8} seed {plan.seed}: "
        f"{verdict.acknowledged:,} acknowledged, "
        f"{verdict.maybe} maybe_published, {verdict.unknown} unknown, {verdict.refused} refused; "
        f"{results.share(verdict.once, verdict.acknowledged)} reached everyone once; "
        f"{verdict.announced:,} of {verdict.losses:,} losses announced, {verdict.gaps} gaps, "
        f"{verdict.needless} needless, {verdict.repeated} came again; "
        f"{kills} kills, {about['drops']} drops, {about['seconds']:.0f} s",
        flush=True,
    )
    for objection in verdict.objections[:20]:
        print(f"{'':>15} {objection}")
    if why := results.void(record, verdict):
        print(f"{'':>15} VOID: {why}")
    return verdict


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backend", nargs="*", metavar="BACKEND", help=", ".join(BACKENDS))
    parser.add_argument("--fault", action="append", choices=PAUSES, help="all of them if not given")
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--check", type=Path, metavar="FILE", help="judge a raw log again")
    parser.add_argument("--table", action="store_true", help="write docs/delivery.md")
    arguments = parser.parse_args()
    if unknown := set(arguments.backend) - set(BACKENDS):
        parser.error(f"no such backend: {', '.join(sorted(unknown))}")
    if arguments.table:
        results.write_page()
        return 0
    if arguments.check:
        return bool(tell(Record.load(arguments.check)).objections)
    failed = False
    for name in arguments.backend or BACKENDS:
        make = BACKENDS[name].server
        for fault in arguments.fault or PAUSES:
            if make is None and fault == "broker":
                continue
            plan = Plan(
                backend=name,
                fault=fault,
                messages=arguments.messages,
                kills=arguments.kills,
                pause=PAUSES[fault],
                seed=arguments.seed,
            )
            with make() if make else nullcontext() as server:
                record = asyncio.run(run(plan, server, RAW / f"{name}-{fault}.log"))
            record.save(RAW / f"{name}-{fault}.jsonl.gz")
            verdict = tell(record)
            failed = failed or bool(verdict.objections or results.void(record, verdict))
            if not results.void(record, verdict):
                results.save(record, verdict)
    return failed


if __name__ == "__main__":
    sys.exit(main())
