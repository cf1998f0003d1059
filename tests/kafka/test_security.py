"""How to log in: four protocols, three mechanisms, and three different refusals."""

from __future__ import annotations

import asyncio
import logging
import ssl
import subprocess
from pathlib import Path
from shutil import copy
from typing import Any

import pytest

from fastapi_broadcaster import BackendUnavailableError, Broadcaster
from fastapi_broadcaster.backends.kafka import KafkaBackend
from servers import SecureKafka
from tests.conformance.tools import take

MECHANISMS = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
LISTENERS = {"SASL_PLAINTEXT": "SASLPT", "SASL_SSL": "SASLTLS", "SSL": "TLS"}
WAYS = [
    ("PLAINTEXT", None),
    *(
        (protocol, mechanism)
        for protocol in ("SASL_PLAINTEXT", "SASL_SSL")
        for mechanism in MECHANISMS
    ),
    ("SSL", None),
]
SECRET = "alice-secret"


def address(secure: SecureKafka, protocol: str) -> str:
    return f"127.0.0.1:{secure.port_of(LISTENERS.get(protocol, 'PLAINTEXT'))}"


def options(secure: SecureKafka, protocol: str, mechanism: str | None) -> dict[str, Any]:
    """What the server wants to be told."""
    found: dict[str, Any] = {"security_protocol": protocol}
    if mechanism:
        found |= {"sasl_mechanism": mechanism, "username": "alice", "password": SECRET}
    if protocol.endswith("SSL"):
        found["ssl_cafile"] = str(secure.certificates.ca)
    if protocol == "SSL":
        certificate, key = secure.certificates.client
        found |= {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
    return found


def environment(given: dict[str, str]) -> dict[str, str]:
    names = {"username": "KAFKA_PLAIN_USERNAME", "password": "KAFKA_PLAIN_PASSWORD"}
    return {names.get(name, f"KAFKA_{name.upper()}"): value for name, value in given.items()}


async def works(backend: KafkaBackend, name: str) -> None:
    async with Broadcaster(backend=backend) as broadcaster:
        async with broadcaster.subscribe(name) as subscriber:
            await broadcaster.publish(name, "hello")
            assert await take(subscriber, 1) == ["hello"]
        async with broadcaster.subscribe(name, history=1) as subscriber:
            assert await take(subscriber, 1) == ["hello"]


@pytest.mark.parametrize(("protocol", "mechanism"), WAYS)
async def test_by_arguments(
    secure: SecureKafka, name: str, protocol: str, mechanism: str | None
) -> None:
    given = options(secure, protocol, mechanism)
    await works(KafkaBackend(address(secure, protocol), **given), name)


@pytest.mark.parametrize(("protocol", "mechanism"), WAYS)
async def test_by_the_environment(
    secure: SecureKafka,
    name: str,
    protocol: str,
    mechanism: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable, value in environment(options(secure, protocol, mechanism)).items():
        monkeypatch.setenv(variable, value)
    broadcaster = Broadcaster(f"kafka://{address(secure, protocol)}")
    assert isinstance(broadcaster.backend, KafkaBackend)
    await works(broadcaster.backend, name)


@pytest.mark.parametrize(("protocol", "mechanism"), WAYS)
async def test_arguments_win(
    secure: SecureKafka,
    name: str,
    protocol: str,
    mechanism: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over an environment in which every variable is wrong."""
    others = {
        "security_protocol": "SSL" if protocol == "PLAINTEXT" else "PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-256" if mechanism == "PLAIN" else "PLAIN",
        "username": "nobody",
        "password": "wrong-secret",
        "ssl_cafile": str(secure.certificates.other_ca),
        "ssl_certfile": "/nowhere",
        "ssl_keyfile": "/nowhere",
    }
    given = options(secure, protocol, mechanism)
    for variable, value in environment(
        {option: value for option, value in others.items() if option in given}
    ).items():
        monkeypatch.setenv(variable, value)
    await works(KafkaBackend(address(secure, protocol), **given), name)


@pytest.mark.parametrize("way", ["arguments", "environment"])
async def test_an_encrypted_key_and_a_folder_of_authorities(
    secure: SecureKafka, name: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = secure.certificates.client
    locked = tmp_path / "locked.key"
    openssl("pkey", "-in", key, "-aes256", "-passout", "pass:key-secret", "-out", locked)
    copy(secure.certificates.ca, tmp_path / "ca.crt")
    openssl("rehash", tmp_path)
    given = {
        "security_protocol": "SSL",
        "ssl_capath": str(tmp_path),
        "ssl_certfile": str(certificate),
        "ssl_keyfile": str(locked),
        "ssl_key_password": "key-secret",
    }
    with pytest.raises(ValueError, match="KAFKA_SSL_KEY_PASSWORD") as refused:
        KafkaBackend("localhost", **{**given, "ssl_key_password": "wrong-secret"})  # type: ignore[arg-type]
    assert "wrong-secret" not in str(refused.value)
    if way == "environment":
        for variable, value in environment(given).items():
            monkeypatch.setenv(variable, value)
        given = {}
    await works(KafkaBackend(address(secure, "SSL"), **given), name)  # type: ignore[arg-type]


def openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


async def test_by_the_url(secure: SecureKafka, name: str) -> None:
    url = f"kafka://alice:alice%2Dsecret@{address(secure, 'SASL_SSL')}"
    options = f"security_protocol=SASL_SSL&ssl_cafile={secure.certificates.ca}"
    broadcaster = Broadcaster(f"{url}?{options}")
    assert isinstance(broadcaster.backend, KafkaBackend)
    await works(broadcaster.backend, name)


async def test_a_context_of_ones_own(secure: SecureKafka, name: str) -> None:
    context = ssl.create_default_context(cafile=str(secure.certificates.ca))
    context.load_cert_chain(*map(str, secure.certificates.client))
    backend = KafkaBackend(address(secure, "SSL"), security_protocol="SSL", ssl_context=context)
    await works(backend, name)


async def refusal(backend: KafkaBackend) -> str:
    with pytest.raises(BackendUnavailableError) as refused:
        async with asyncio.timeout(20):
            await Broadcaster(backend=backend).connect()
    return str(refused.value)


@pytest.mark.parametrize(
    ("protocol", "mechanism"), [way for way in WAYS if way[0].startswith("SASL")]
)
async def test_a_wrong_password(
    secure: SecureKafka, protocol: str, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    given = {**options(secure, protocol, mechanism), "password": "wrong-secret"}
    message = await refusal(KafkaBackend(address(secure, protocol), **given))
    assert f"refused the user name or the password ({mechanism})" in message
    assert address(secure, protocol) in message
    assert "wrong-secret" not in message + caplog.text


@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_no_password_is_logged(
    secure: SecureKafka, name: str, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    given = options(secure, "SASL_PLAINTEXT", mechanism)
    backend = KafkaBackend(address(secure, "SASL_PLAINTEXT"), **given)
    await works(backend, name)
    assert "Request to" in caplog.text
    assert SECRET not in caplog.text + str(backend) + repr(backend._server.security)


@pytest.mark.parametrize("protocol", ["SASL_SSL", "SSL"])
async def test_a_wrong_authority(secure: SecureKafka, protocol: str) -> None:
    mechanism = "PLAIN" if protocol == "SASL_SSL" else None
    given = {
        **options(secure, protocol, mechanism),
        "ssl_cafile": str(secure.certificates.other_ca),
    }
    message = await refusal(KafkaBackend(address(secure, protocol), **given))
    assert "its certificate is not trusted" in message
    assert "KAFKA_SSL_CAFILE" in message


async def test_three_refusals_are_three_messages(secure: SecureKafka) -> None:
    """The driver has one for all of them."""
    sasl, tls = options(secure, "SASL_SSL", "PLAIN"), options(secure, "SSL", None)
    del tls["ssl_certfile"], tls["ssl_keyfile"]
    wrong = {
        "password": (address(secure, "SASL_SSL"), {**sasl, "password": "wrong-secret"}),
        "authority": (
            address(secure, "SASL_SSL"),
            {**sasl, "ssl_cafile": str(secure.certificates.other_ca)},
        ),
        "certificate": (address(secure, "SSL"), tls),
    }
    told = {
        what: (await refusal(KafkaBackend(where, **given))).replace(where, "HERE")
        for what, (where, given) in wrong.items()
    }
    assert told == {
        "password": "kafka://HERE is not reachable: it refused the user name or the password "
        "(PLAIN)",
        "authority": "kafka://HERE is not reachable: its certificate is not trusted (self-signed "
        "certificate in certificate chain): which authority signed it says ssl_cafile= "
        "(KAFKA_SSL_CAFILE)",
        "certificate": "kafka://HERE is not reachable: it wants a certificate of the client: "
        "give ssl_certfile= and ssl_keyfile= (KAFKA_SSL_CERTFILE, KAFKA_SSL_KEYFILE)",
    }


async def test_no_certificate_of_the_client(secure: SecureKafka) -> None:
    ca = str(secure.certificates.ca)
    for _ in range(5):
        backend = KafkaBackend(address(secure, "SSL"), security_protocol="SSL", ssl_cafile=ca)
        message = await refusal(backend)
        assert "it wants a certificate of the client" in message
        assert "KAFKA_SSL_CERTFILE" in message


@pytest.mark.parametrize(
    ("protocol", "port"),
    [("PLAINTEXT", "SSL"), ("SSL", "PLAINTEXT"), ("SASL_PLAINTEXT", "PLAINTEXT")],
)
async def test_a_protocol_that_is_not_spoken_there(
    secure: SecureKafka, protocol: str, port: str
) -> None:
    mechanism = "PLAIN" if protocol.startswith("SASL") else None
    given = options(secure, protocol, mechanism)
    message = await refusal(KafkaBackend(address(secure, port), **given))
    assert protocol in message
    assert "password" not in message


async def test_each_address_tells_its_own_reason(secure: SecureKafka) -> None:
    servers = f"127.0.0.1:1,{address(secure, 'SASL_SSL')}"
    given = {**options(secure, "SASL_SSL", "PLAIN"), "password": "wrong-secret"}
    message = await refusal(KafkaBackend(servers, **given))
    assert "127.0.0.1:1: " in message
    assert f"{address(secure, 'SASL_SSL')}: it refused the user name" in message


@pytest.mark.parametrize(
    ("given", "naming"),
    [
        ({"security_protocol": "TLS"}, "PLAINTEXT, SASL_PLAINTEXT, SASL_SSL, SSL"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "MD5"}, "SCRAM-SHA-512"),
        ({"security_protocol": "SASL_PLAINTEXT"}, "KAFKA_PLAIN_USERNAME"),
        ({"username": "alice", "password": SECRET}, "SASL_SSL"),
        ({"security_protocol": "SSL", "ssl_cafile": "/nowhere"}, "KAFKA_SSL_CAFILE"),
        ({"security_protocol": "SSL", "ssl_certfile": "/nowhere"}, "KAFKA_SSL_CERTFILE"),
    ],
)
def test_what_does_not_go_together(given: dict[str, str], naming: str) -> None:
    with pytest.raises(ValueError, match=naming) as refused:
        KafkaBackend("localhost", **given)  # type: ignore[arg-type]
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "naming"),
    [
        ("kafka://h?scan=many", "scan"),
        ("kafka://h?group_id=x", "group_id"),
        ("kafka://h?topic=a:b", "a:b"),
        ("kafka://h?topic=", "topic"),
        ("kafka://h/topic", "only options"),
        ("kafka://h:x", "host:port"),
        ("kafka://u:p/w@h:9092", "percent-encoded"),
    ],
)
def test_urls_that_are_refused(url: str, naming: str) -> None:
    with pytest.raises(ValueError, match=naming) as refused:
        Broadcaster(url)
    assert "p/w" not in str(refused.value)


def test_addresses() -> None:
    assert str(Broadcaster("kafka://h1:9092,h2").backend) == "kafka://h1:9092,h2:9092"
    assert str(Broadcaster("kafka://").backend) == "kafka://localhost:9092"
    assert str(KafkaBackend(["[::1]:9093", "h"])) == "kafka://[::1]:9093,h:9092"
