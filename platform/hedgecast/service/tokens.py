"""Bearer tokens: the file holds hashes only, so reading it lets nobody in."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from hedgecast.core.errors import ConfigError, UnauthenticatedError

_SCHEME = "Bearer "


class TokenTable:
    """Principals by the SHA-256 of their token."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = dict(hashes)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The table in a file of lines ``PRINCIPAL SHA256HEX``; blank lines and ``#`` lines are skipped.

        Raises
        ------
        ConfigError
            The file cannot be read, a line has another form, a principal comes twice, or none comes.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ConfigError(f"token_file {path} cannot be read: {error.strerror}") from error
        hashes: dict[str, str] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            match = re.fullmatch(r"(\S+)\s+([0-9a-f]{64})\s*", line)
            if match is None or match[1] in hashes:
                raise ConfigError(
                    f"{path} line {number}: must be PRINCIPAL and the 64 hexadecimal digits of the token's "
                    "SHA-256, each principal once"
                )
            hashes[match[1]] = match[2]
        if not hashes:
            raise ConfigError(f"{path} holds no token: nobody could call")
        return cls(hashes)

    def require(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """The principal whose token the metadata carry.

        Raises
        ------
        UnauthenticatedError
            No ``authorization`` entry of the form ``Bearer TOKEN``, or an unknown token.
        """
        header = next((str(value) for key, value in metadata if key == "authorization"), "")
        if not header.startswith(_SCHEME):
            raise UnauthenticatedError("no token: send the metadata authorization: Bearer TOKEN")
        digest = hashlib.sha256(header.removeprefix(_SCHEME).encode()).hexdigest()
        # Every entry is compared, each in constant time: the duration tells nothing about the table.
        matches = [name for name, known in self._hashes.items() if hmac.compare_digest(known, digest)]
        if not matches:
            raise UnauthenticatedError("the token is not known here")
        return matches[0]
