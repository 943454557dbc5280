"""Who calls: by token, else by the certificate of mutual TLS, else nobody in particular."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import grpc.aio

from hedgecast.service.reloading import Reloaded
from hedgecast.service.settings import ServiceSettings
from hedgecast.service.tokens import TokenTable

ANONYMOUS = "anonymous"
_COMMON_NAME = "x509_common_name"
_LONGEST_NAME = 128


class Identity:
    """Names the principal of a call.

    Parameters
    ----------
    tokens : callable, optional
        The token table as it is now; None: no token is asked for.
    """

    def __init__(self, tokens: Callable[[], TokenTable] | None) -> None:
        self._tokens = tokens

    @classmethod
    def of(cls, settings: ServiceSettings) -> Identity:
        """With the token table that the settings name, read again when its file changes.

        Raises
        ------
        ConfigError
            The table cannot be read.
        """
        if settings.tokens is not None:
            table = TokenTable.parse(settings.tokens, source="HEDGECAST_TOKENS")
            return cls(lambda: table)
        path = settings.token_file
        if path is None:
            return cls(None)
        return cls(Reloaded([path], lambda: TokenTable.read(path), seconds=settings.reload_seconds).value)

    def principal(
        self, metadata: Iterable[tuple[str, str | bytes]], context: grpc.aio.ServicerContext
    ) -> str:
        """The token's principal; without tokens the certificate's common name; else ``anonymous``.

        Raises
        ------
        UnauthenticatedError
            A token is asked for and the call carries none that is known.
        """
        if self._tokens is not None:
            return self._tokens().require(metadata)
        names = context.auth_context().get(_COMMON_NAME, ())
        return bytes(names[0]).decode("utf-8", "replace")[:_LONGEST_NAME] if names else ANONYMOUS
