from fastapi_broadcaster import Broadcaster, Event


async def follow(broadcaster: Broadcaster) -> None:
    async with broadcaster.subscribe("prices", buffer_size=100, overflow="drop_oldest") as prices:
        async for item in prices.stream():
            if isinstance(item, Event):
                print(item.message)
            else:
                print(f"{item.missed} messages missing here: {item.reason}")
