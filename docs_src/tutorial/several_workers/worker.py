import asyncio

from .channels import ChatMessage, broadcaster, rooms


async def main() -> None:
    async with broadcaster:
        lobby = broadcaster.channel(rooms, room="lobby")
        await lobby.publish(ChatMessage(user="robot", text="The report is ready."))


if __name__ == "__main__":
    asyncio.run(main())
