"""Where Kafka's brokers are, how to log in to them, and what the driver makes of that."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

from fastapi_broadcaster.backends import _kafka_driver as driver
from fastapi_broadcaster.backends._kafka_driver import LOST
from fastapi_broadcaster.backends._kafka_security import Security
from fastapi_broadcaster.exceptions import ConnectionLostError


class Server:
    """Where the brokers are, how to log in, and how new topics are made."""

    def __init__(
        self,
        hosts: Sequence[tuple[str, int]],
        security: Security,
        *,
        timeout: float,
        topic_config: Mapping[str, str],
    ) -> None:
        self.hosts = list(hosts)
        self.security = security
        self.timeout = timeout
        self.topic_config = topic_config

    def __str__(self) -> str:
        return "kafka://" + ",".join(address(*host) for host in self.hosts)

    @property
    def addresses(self) -> list[str]:
        return [address(*host) for host in self.hosts]

    def consumer(self) -> driver.Consumer:
        return driver.consumer(self.addresses, timeout=self.timeout, security=self.security.options)

    def producer(self) -> driver.Producer:
        return driver.producer(self.addresses, timeout=self.timeout, security=self.security.options)

    @contextmanager
    def errors(self) -> Generator[None]:
        """Give the driver's errors our name for a lost connection."""
        try:
            yield
        except LOST as error:
            raise ConnectionLostError(
                f"{self} is not reachable: {self.security.explain(error)}"
            ) from error


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
