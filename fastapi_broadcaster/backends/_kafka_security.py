"""How `kafka://` authenticates: arguments, the environment, and what went wrong."""

import asyncio
import os
import ssl
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi_broadcaster.backends._kafka_driver import (
    AuthenticationFailed,
    MechanismRefused,
    NoSaslHere,
)
from fastapi_broadcaster.backends._reasons import reason

PROTOCOLS = ("PLAINTEXT", "SASL_PLAINTEXT", "SASL_SSL", "SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_ENVIRONMENT = {
    "protocol": "KAFKA_SECURITY_PROTOCOL",
    "mechanism": "KAFKA_SASL_MECHANISM",
    "username": "KAFKA_PLAIN_USERNAME",
    "password": "KAFKA_PLAIN_PASSWORD",
    "cafile": "KAFKA_SSL_CAFILE",
    "capath": "KAFKA_SSL_CAPATH",
    "certfile": "KAFKA_SSL_CERTFILE",
    "keyfile": "KAFKA_SSL_KEYFILE",
    "key_password": "KAFKA_SSL_KEY_PASSWORD",
}


@dataclass(frozen=True, kw_only=True)
class Security:
    """One of four protocols, and what it takes; `context` wins over the files."""

    protocol: str = "PLAINTEXT"
    mechanism: str = "PLAIN"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    cafile: str | None = None
    capath: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    key_password: str | None = field(default=None, repr=False)
    context: ssl.SSLContext | None = field(default=None, repr=False)

    @classmethod
    def of(cls, context: ssl.SSLContext | None, **given: str | None) -> "Security":
        """What is given, and for the rest the environment; raises `ValueError`."""
        values = {name: value for name, value in given.items() if value is not None}
        for name, variable in _ENVIRONMENT.items():
            if name not in values and os.environ.get(variable):
                values[name] = os.environ[variable]
        made = cls(context=context, **values)
        made._check(given)
        return made if not made.tls or context is not None else made._with_context()

    def _check(self, given: dict[str, str | None]) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(
                f"kafka://: the security protocol is one of {', '.join(PROTOCOLS)} "
                "(security_protocol=, KAFKA_SECURITY_PROTOCOL)"
            )
        if self.mechanism not in MECHANISMS:
            raise ValueError(
                f"kafka://: the SASL mechanism is one of {', '.join(MECHANISMS)} "
                "(sasl_mechanism=, KAFKA_SASL_MECHANISM)"
            )
        if self.sasl and (self.username is None or self.password is None):
            raise ValueError(
                f"kafka://: {self.protocol} takes a user name and a password "
                "(username=, password=, KAFKA_PLAIN_USERNAME, KAFKA_PLAIN_PASSWORD)"
            )
        if not self.sasl and (given.get("username") or given.get("password")):
            raise ValueError(
                f"kafka://: {self.protocol} sends no user name and password: give "
                "security_protocol= (KAFKA_SECURITY_PROTOCOL) SASL_SSL or SASL_PLAINTEXT"
            )

    @property
    def sasl(self) -> bool:
        return self.protocol.startswith("SASL")

    @property
    def tls(self) -> bool:
        return self.protocol.endswith("SSL")

    def _with_context(self) -> "Security":
        try:
            context = ssl.create_default_context(cafile=self.cafile, capath=self.capath)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(
                f"kafka://: no certificates in ssl_cafile or ssl_capath (KAFKA_SSL_CAFILE, "
                f"KAFKA_SSL_CAPATH): {error}"
            ) from error
        if self.certfile is not None:
            secret = self.key_password or ""
            try:
                context.load_cert_chain(self.certfile, self.keyfile, lambda: secret)
            except (OSError, ssl.SSLError) as error:
                raise ValueError(
                    "kafka://: ssl_certfile, ssl_keyfile and ssl_key_password (KAFKA_SSL_CERTFILE, "
                    f"KAFKA_SSL_KEYFILE, KAFKA_SSL_KEY_PASSWORD) do not go together: {error}"
                ) from error
        return replace(self, context=context)

    @property
    def options(self) -> dict[str, Any]:
        """For the driver."""
        options: dict[str, Any] = {"security_protocol": self.protocol}
        if self.tls:
            options["ssl_context"] = self.context
        if self.sasl:
            options["sasl_mechanism"] = self.mechanism
            options["sasl_plain_username"] = self.username
            options["sasl_plain_password"] = self.password
        return options

    def explain(self, error: BaseException) -> str:
        """Why a broker could not be reached, without a secret."""
        cause = error.__cause__ or error
        match cause:
            case AuthenticationFailed():
                return f"it refused the user name or the password ({self.mechanism})"
            case MechanismRefused():
                return f"it does not offer the SASL mechanism {self.mechanism}"
            case NoSaslHere():
                return f"it wants no SASL here, but the security protocol is {self.protocol}"
            case ssl.SSLCertVerificationError():
                return (
                    f"its certificate is not trusted ({cause.verify_message}): "
                    "which authority signed it says ssl_cafile= (KAFKA_SSL_CAFILE)"
                )
            case ssl.SSLError() if "ALERT" in str(cause.reason):
                return self._refused_certificate()
            case ssl.SSLError():
                return f"TLS failed: {cause.reason or cause}"
            case asyncio.IncompleteReadError() | ConnectionResetError() if not self.tls:
                return f"it closed the connection: it may not speak {self.protocol} at this port"
            case ConnectionResetError() if cause is error:
                return f"it closed the connection: it may not speak {self.protocol} at this port"
            case asyncio.IncompleteReadError() | ConnectionResetError():
                return self._refused_certificate()
            case TimeoutError():
                return "it did not answer in time"
            case _:
                return reason(cause)

    def _refused_certificate(self) -> str:
        if self.certfile is None:
            return (
                "it wants a certificate of the client: give ssl_certfile= and ssl_keyfile= "
                "(KAFKA_SSL_CERTFILE, KAFKA_SSL_KEYFILE)"
            )
        return "it does not accept the client's certificate (ssl_certfile=, KAFKA_SSL_CERTFILE)"
