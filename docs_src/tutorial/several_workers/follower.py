import asyncio

from .channels import broadcaster, rooms


async def main() -> None:
    async with broadcaster, broadcaster.subscribe(pattern=rooms) as events:
        async for event in events:
            print(event.params["room"], event.message.user, event.message.text, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
