"""Each fault and its exact error; TLS; the tables; no password in any message."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from fastapi_broadcaster import BackendError, BackendUnavailableError, Broadcaster
from fastapi_broadcaster.backends.postgres_stream import schema_sql
from servers import Postgres, free_port
from tests.conformance.tools import take
from tests.postgres.conftest import stream

SECRET = "s3cret with:@/ signs"
QUOTED = "s3cret%20with%3A%40%2F%20signs"
SCHEMES = pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgres-stream"])


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority of our own, another one, and a server's certificate for 127.0.0.1."""
    place = tmp_path_factory.mktemp("certificates")
    for name in ("ca", "other"):
        openssl(
            *(
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                f"/CN={name}",
            ),
            *("-keyout", f"{place}/{name}.key", "-out", f"{place}/{name}.crt"),
        )
    (place / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        *("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"),
        *("-keyout", f"{place}/server.key", "-out", f"{place}/server.csr"),
    )
    openssl(
        *("x509", "-req", "-in", f"{place}/server.csr", "-days", "2", "-set_serial", "1"),
        *("-CA", f"{place}/ca.crt", "-CAkey", f"{place}/ca.key", "-extfile", f"{place}/names"),
        *("-out", f"{place}/server.crt"),
    )
    return place


@pytest.fixture(scope="session")
def guarded(certificates: Path) -> Iterator[Postgres]:
    """A server that asks for a password and speaks TLS."""

    class Guarded(Postgres):
        password = SECRET
        certificate = certificates / "server.crt"
        key = certificates / "server.key"

        @property
        def url(self) -> str:
            return super().url.replace(SECRET, QUOTED)

    with Guarded.private() as server:
        yield server


async def refusal(url: str, **options: Any) -> BackendError:
    with pytest.raises(BackendError) as refused:
        await Broadcaster(url, **options).connect()
    return refused.value


def of_scheme(url: str, scheme: str) -> str:
    return re.sub(r"^\w+", scheme, url)


@SCHEMES
async def test_password(guarded: Postgres, scheme: str) -> None:
    url = of_scheme(guarded.url, scheme)
    where = f"{scheme}://127.0.0.1:{guarded.port}/postgres"
    async with Broadcaster(url) as broadcaster, broadcaster.subscribe("room") as subscriber:
        await broadcaster.publish("room", "hello")
        assert await take(subscriber, 1) == ["hello"]
        assert str(broadcaster.backend) == broadcaster.health().backend == where
        assert "s3cret" not in repr(broadcaster)
    error = await refusal(url.replace(QUOTED, "wr0ng"))
    assert type(error) is BackendUnavailableError
    assert str(error) == (
        f'{where} refused the user or password: password authentication failed for user "postgres"'
    )


@SCHEMES
async def test_server_away(scheme: str) -> None:
    port = free_port()
    error = await refusal(f"{scheme}://alice:s3cret@127.0.0.1:{port}/shop")
    assert type(error) is BackendUnavailableError
    assert error.maybe_published is False
    assert str(error).startswith(f"{scheme}://127.0.0.1:{port}/shop is not reachable: ")
    assert "s3cret" not in f"{error} {error.__cause__}"


@SCHEMES
async def test_host_unknown(scheme: str) -> None:
    error = await refusal(f"{scheme}://alice:s3cret@no.such.host.invalid/shop")
    wanted = f"{scheme}://no.such.host.invalid:5432/shop is not reachable: "
    assert str(error).startswith(wanted)


@SCHEMES
async def test_server_silent(scheme: str) -> None:
    """Somebody accepts the connection and says nothing."""
    with Postgres.private() as server:
        server.pause()
        error = await refusal(of_scheme(server.url, scheme), connect_timeout=0.5)
        server.resume()
    where = f"{scheme}://127.0.0.1:{server.port}/postgres"
    assert str(error) == f"{where} did not answer within 0.5 s"


@SCHEMES
async def test_database_missing(server: Postgres, scheme: str) -> None:
    url = of_scheme(server.url, scheme).removesuffix("/postgres") + "/nowhere"
    error = await refusal(url)
    assert type(error) is BackendUnavailableError
    where = f"{scheme}://127.0.0.1:{server.port}/nowhere"
    assert str(error) == f"{where}: the database does not exist"


@SCHEMES
async def test_option_unknown(server: Postgres, scheme: str) -> None:
    with pytest.raises(ValueError, match=f'^{scheme}://: .*"colour" in the URL$'):
        await Broadcaster(f"{of_scheme(server.url, scheme)}?colour=red").connect()


@pytest.mark.parametrize(
    "option", ["history=many", "history=-1", "max_age=0", "create=yes", "table=Robert'); --"]
)
async def test_option_unreadable(server: Postgres, option: str) -> None:
    with pytest.raises(ValueError, match="postgres-stream://"):
        Broadcaster(f"{stream(server.url)}?{option}")


@pytest.mark.parametrize("secret", ["s3/cret", "s3?cret", "s3#cret", "12/@34"])
def test_a_password_that_breaks_the_url_is_not_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="percent-encoded") as refused:
        Broadcaster(f"postgres://alice:{secret}@127.0.0.1/shop")
    assert secret not in str(refused.value)


@SCHEMES
async def test_standby(scheme: str) -> None:
    with Postgres.private() as server:
        server.stop()
        (server.data / "standby.signal").touch()
        server.start()
        error = await refusal(of_scheme(server.url, scheme))
        assert type(error) is BackendUnavailableError
        assert str(error) == (
            f"{scheme}://127.0.0.1:{server.port}/postgres is a standby, "
            "which takes no LISTEN, NOTIFY or writes"
        )


@SCHEMES
async def test_a_server_that_turns_read_only_has_published_nothing(scheme: str) -> None:
    with Postgres.private() as server:
        async with Broadcaster(
            of_scheme(server.url, scheme), publish_timeout=0.5, handle_signals=False
        ) as broadcaster:
            await broadcaster.publish("room", "hello")
            await asyncio.to_thread(server.stop)
            (server.data / "standby.signal").touch()
            await asyncio.to_thread(server.start)
            with pytest.raises(BackendUnavailableError) as refused:
                await broadcaster.publish("room", "hello")
            assert refused.value.maybe_published is False


async def test_no_right_to_make_the_tables(server: Postgres, sql: asyncpg.Connection) -> None:
    await sql.execute("create role guest login; grant usage on schema public to guest")
    url = f"postgres-stream://guest@127.0.0.1:{server.port}/postgres?table=guests"
    error = await refusal(url)
    where = f"postgres-stream://127.0.0.1:{server.port}/postgres"
    assert str(error) == f"{where}: permission denied for schema public"
    error = await refusal(f"{url}&create=false")
    assert str(error).startswith("the table public.guests is not there or is of another version")
    assert "schema_sql()" in str(error)


async def test_tables_by_migration(server: Postgres, sql: asyncpg.Connection) -> None:
    """Their owner makes them; the application may only use them."""
    script = schema_sql(table="migrated")
    await sql.execute(script)
    await sql.execute(script)
    await sql.execute(
        "create role app login; grant usage on schema public to app; "
        "grant select, insert, update, delete on migrated, migrated_floor, migrated_meta, "
        "migrated_outbox to app; grant usage, select, update on migrated_id to app"
    )
    url = f"postgres-stream://app@127.0.0.1:{server.port}/postgres"
    async with (
        Broadcaster(f"{url}?table=migrated&create=false&history=5") as broadcaster,
        broadcaster.subscribe("room") as subscriber,
    ):
        for number in range(50):
            await broadcaster.publish("room", str(number))
        await take(subscriber, 50)
        app = await asyncpg.connect(f"postgres://app@127.0.0.1:{server.port}/postgres")
        async with app.transaction():
            await broadcaster.publish("room", "end", connection=app)
        await app.close()
        assert await take(subscriber, 1) == ["end"]


async def test_many_processes_make_the_tables_at_once(server: Postgres, stream_url: str) -> None:
    broadcasters = [Broadcaster(stream_url, connect_timeout=60) for _ in range(12)]
    try:
        await asyncio.gather(*(broadcaster.connect() for broadcaster in broadcasters))
        async with broadcasters[0].subscribe("room") as subscriber:
            await broadcasters[-1].publish("room", "hello")
            assert await take(subscriber, 1) == ["hello"]
    finally:
        await asyncio.gather(*(broadcaster.disconnect() for broadcaster in broadcasters))


@SCHEMES
async def test_tls(guarded: Postgres, certificates: Path, scheme: str) -> None:
    url = of_scheme(guarded.url, scheme)
    verified = f"{url}?sslmode=verify-full&sslrootcert={certificates}"
    async with (
        Broadcaster(f"{verified}/ca.crt") as broadcaster,
        broadcaster.subscribe("room") as subscriber,
    ):
        await broadcaster.publish("room", "hello")
        assert await take(subscriber, 1) == ["hello"]
        looking = await asyncpg.connect(guarded.url)
        plain = await looking.fetchval(
            "select count(*) from pg_stat_ssl join pg_stat_activity using (pid) "
            "where not ssl and client_port is not null"
        )
        await looking.close()
        assert plain == 0
    error = await refusal(f"{verified}/other.crt")
    where = f"{scheme}://127.0.0.1:{guarded.port}/postgres"
    assert str(error).startswith(f"{where}: TLS failed: ")
    assert "certificate verify failed" in str(error)


@SCHEMES
async def test_tls_that_the_server_does_not_speak(server: Postgres, scheme: str) -> None:
    error = await refusal(f"{of_scheme(server.url, scheme)}?sslmode=require")
    assert type(error) is BackendUnavailableError
    assert "rejected SSL" in str(error)
