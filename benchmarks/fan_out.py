"""Events per second through publish and `async for`, beside encode/broadcaster in the same run.

    python benchmarks/fan_out.py [--url redis://127.0.0.1:6379] [--subscribers 100]

Only ratios within one run count. encode/broadcaster has unbounded queues and no ids.
"""

import argparse
import asyncio
import time
from typing import Any

import broadcaster

import fastapi_broadcaster

EVENTS, PUBLISHERS = 20_000, 32


async def measure(kind: Any, url: str, subscribers: int) -> float:
    async def read(subscriber: Any) -> None:
        left = EVENTS
        async for _ in subscriber:
            left -= 1
            if not left:
                return

    async with kind(url) as broadcast:
        subscriptions = [broadcast.subscribe("x") for _ in range(subscribers)]
        opened = [await subscription.__aenter__() for subscription in subscriptions]
        begun = time.perf_counter()
        readers = [asyncio.create_task(read(subscriber)) for subscriber in opened]

        async def publish(publisher: int) -> None:
            for number in range(EVENTS // PUBLISHERS):  # Postgres sends equal ones by themselves
                await broadcast.publish("x", f"hello {publisher} {number}")

        await asyncio.gather(*(publish(publisher) for publisher in range(PUBLISHERS)))
        await asyncio.wait_for(asyncio.gather(*readers), 60)
        spent = time.perf_counter() - begun
        for subscription in subscriptions:
            await subscription.__aexit__(None, None, None)
    return EVENTS / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="memory://")
    parser.add_argument("--subscribers", type=int, default=1)
    arguments = parser.parse_args()
    kinds: dict[str, Any] = {"fastapi_broadcaster": fastapi_broadcaster.Broadcast}
    if arguments.url == "memory://":  # its Redis backend delivers nothing with today's redis-py
        kinds["encode/broadcaster"] = broadcaster.Broadcast
    for _ in range(3):
        for name, kind in kinds.items():
            rate = asyncio.run(measure(kind, arguments.url, arguments.subscribers))
            total = rate * arguments.subscribers
            print(f"{name:>20}: {rate:>9,.0f} events/s, {total:>11,.0f} deliveries/s", flush=True)


if __name__ == "__main__":
    main()
