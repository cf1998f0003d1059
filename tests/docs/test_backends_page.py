"""What the page about backends shows and says, on real servers."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Self

import asyncpg
import httpx2
import pytest

from fastapi_broadcaster import BackendUnavailableError, Broadcaster
from servers import Postgres, Redis
from servers.base import free_port
from servers.certificates import Certificates
from tests.conformance.tools import take
from tests.docs.pages import DOCS, ROOT, blocks
from tests.web.clients import WAIT, open_events
from tests.web.processes import WebServer

PAGE = (DOCS / "backends.md").read_text()
TRIGGER, INSERT, GRANT = (
    "".join(line.removeprefix("    ") for line in block.splitlines(keepends=True))
    for block in re.findall(r"^ *```sql\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
)
MESSAGE = '{"user": "ops", "text": "hello"}'


async def run(*command: str) -> str:
    """What a command prints."""
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, check=True, text=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres.private() as server:
        yield server


async def test_publishing_in_ones_own_transaction(postgres: Postgres) -> None:
    sql = await asyncpg.connect(postgres.url)
    await sql.execute("create table stock (item text primary key, pieces int)")
    await sql.execute("insert into stock values ('pen', 3)")
    where = postgres.url.partition("://")[2]
    with WebServer(
        "docs_src.backends.transaction:app", directory=ROOT, environment={"DATABASE": where}
    ) as app:
        orders = f"{app.url}/orders/ada"
        async with (
            open_events(f"{orders}/events") as events,
            httpx2.AsyncClient(timeout=WAIT) as client,
        ):
            statuses = [
                (await client.post(orders, json={"item": item, "pieces": 2})).status_code
                for item in ("pen", "pen", "ink")
            ]
            assert statuses == [201, 409, 409]
            assert (await client.post(orders, json={"item": "pen", "pieces": 1})).status_code == 201
            told = [(await events.event()).json for _ in range(2)]
        assert told == [{"item": "pen", "pieces": 2}, {"item": "pen", "pieces": 1}]
    assert await sql.fetchval("select pieces from stock") == 0
    await sql.close()


async def test_sql_that_publishes(postgres: Postgres) -> None:
    sql = await asyncpg.connect(postgres.url)
    stream = postgres.url.replace("postgres:", "postgres-stream:", 1)
    async with (
        Broadcaster(postgres.url) as live,
        Broadcaster(stream) as log,
        live.subscribe(["orders", "rooms.lobby"]) as heard,
        log.subscribe("rooms.lobby") as logged,
    ):
        await sql.execute(f"create table orders (item text); {TRIGGER}")
        await sql.execute("insert into orders values ('pen')")
        assert await take(heard, 1) == ['{"item":"pen"}']
        [notify] = re.findall(r"`(select pg_notify\(.+?\))`", PAGE)
        await sql.execute(notify)
        assert await take(heard, 1) == [MESSAGE]
        await sql.execute(INSERT)
        assert await take(logged, 1) == [MESSAGE]
    await sql.close()


async def test_tables_by_migration() -> None:
    """Printed, run by the owner, used by a role with the rights that the page tells."""
    [command] = re.findall(r"^python -c '(.+)'$", PAGE, re.MULTILINE)
    printed = await run(sys.executable, "-c", command)
    with Postgres.private() as server:
        sql = await asyncpg.connect(server.url)
        await sql.execute(printed)
        await sql.execute(f"create role app login; {GRANT}")
        url = f"postgres-stream://app@127.0.0.1:{server.port}/postgres?create=false"
        async with Broadcaster(url) as broadcaster, broadcaster.subscribe("news") as events:
            await broadcaster.publish("news", "hello")
            assert await take(events, 1) == ["hello"]
        await sql.close()


async def test_redis_cli() -> None:
    """The commands of the page, as a shell runs them."""
    commands = re.findall(r"`redis-cli ((?:publish|xadd) .+?)`", PAGE)
    assert len(commands) == 2
    with Redis.private() as server:
        async with (
            Broadcaster(server.url) as live,
            Broadcaster(server.url.replace("redis:", "redis-stream:", 1)) as log,
            live.subscribe("rooms.lobby") as heard,
            log.subscribe("rooms.lobby") as logged,
        ):
            for command in commands:
                line = f"redis-cli -p {server.port} {command}"
                await run("bash", "-c", line)
            assert await take(heard, 1) == await take(logged, 1) == [MESSAGE]


class SecureRedis(Redis):
    """Speaks TLS beside, on the next port."""

    @classmethod
    def private(cls) -> Self:
        port = free_port(behind=1)
        return cls(f"{cls.__name__.lower()}-{port}", port)

    @property
    def certificates(self) -> Certificates:
        return Certificates.make(self.directory / "certificates")

    def command(self) -> Sequence[str]:
        certificate, key = self.certificates.server
        options = {
            "tls-port": str(self.port + 1),
            "tls-cert-file": str(certificate),
            "tls-key-file": str(key),
            "tls-ca-cert-file": str(self.certificates.ca),
        }
        return [
            *super().command(),
            *(word for key in options for word in (f"--{key}", options[key])),
        ]


async def test_tls_to_redis() -> None:
    """Its server wants a certificate of the client too."""
    with SecureRedis.private() as server:
        certificates = server.certificates
        certificate, key = certificates.client
        for scheme in ("rediss", "rediss-stream"):
            url = f"{scheme}://127.0.0.1:{server.port + 1}"
            own = f"ssl_certfile={certificate}&ssl_keyfile={key}"
            trusted = f"{url}?ssl_ca_certs={certificates.ca}&{own}"
            async with Broadcaster(trusted) as broadcaster, broadcaster.subscribe("a") as events:
                await broadcaster.publish("a", "hello")
                assert await take(events, 1) == ["hello"]
            for query in (own, f"ssl_ca_certs={certificates.other_ca}&{own}"):
                with pytest.raises(BackendUnavailableError, match="certificate verify failed"):
                    await Broadcaster(f"{url}?{query}").connect()
            with pytest.raises(BackendUnavailableError):
                await Broadcaster(f"{url}?ssl_ca_certs={certificates.ca}").connect()


def test_the_page_has_these_blocks() -> None:
    assert "pg_notify" in TRIGGER
    assert "broadcaster_outbox" in INSERT
    assert GRANT.startswith("grant")
    assert len(blocks(PAGE, "python")) == 2
