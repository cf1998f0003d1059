import asyncio

from fastapi_broadcaster import Broadcast


async def main() -> None:
    async with (
        Broadcast("memory://") as broadcast,
        broadcast.subscribe(channel="chatroom", history=100) as subscriber,
    ):
        await broadcast.publish(channel="chatroom", message="hello")
        async for event in subscriber:
            print(event.channel, event.message, event.id)
            break


asyncio.run(main())
