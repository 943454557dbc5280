"""Bearer tokens: the table holds hashes only, so reading it lets nobody in."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from hedgecast.core.errors import ConfigError, UnauthenticatedError

_SCHEME = "Bearer "
# Far more than any token; what is longer is not worth hashing.
_LONGEST_HEADER = 4096


class TokenTable:
    """Principals by the SHA-256 (64 hexadecimal digits) of their token."""

    def __init__(self, principals: Mapping[str, str]) -> None:
        self._principals = [(digest.encode(), name) for digest, name in principals.items()]

    @classmethod
    def read(cls, path: Path) -> Self:
        """The table in a file; see `parse`.

        Raises
        ------
        ConfigError
            The file cannot be read, or `parse` refuses it.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(f"token_file {path} cannot be read: {reason}") from error
        return cls.parse(text, source=str(path))

    @classmethod
    def parse(cls, text: str, *, source: str) -> Self:
        """The table in lines ``PRINCIPAL SHA256HEX``; blank lines and ``#`` lines are skipped.

        A principal may stand on several lines: while a token is changed, the old and the new one work.

        Raises
        ------
        ConfigError
            A line has another form, a hash comes twice, or none comes.
        """
        principals: dict[str, str] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            match = re.fullmatch(r"([A-Za-z0-9@._:-]{1,128})\s+([0-9a-f]{64})\s*", line)
            if match is None or match[2] in principals:
                raise ConfigError(
                    f"{source} line {number}: must be PRINCIPAL (letters, digits, @ . _ : -) and the 64 "
                    "hexadecimal digits of the token's SHA-256, each hash once"
                )
            principals[match[2]] = match[1]
        if not principals:
            raise ConfigError(f"{source} holds no token: nobody could call")
        return cls(principals)

    def require(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """The principal whose token the metadata carry.

        Raises
        ------
        UnauthenticatedError
            No ``authorization`` entry of the form ``Bearer TOKEN``, several, or an unknown token.
        """
        headers = [value for key, value in metadata if key == "authorization"]
        header = headers[0] if len(headers) == 1 else ""
        if not isinstance(header, str) or not header.startswith(_SCHEME) or len(header) > _LONGEST_HEADER:
            raise UnauthenticatedError("no token: send the metadata authorization: Bearer TOKEN, once")
        digest = hashlib.sha256(header.removeprefix(_SCHEME).encode()).hexdigest().encode()
        # Every entry is compared, each in constant time: the duration tells nothing about the table.
        matches = [name for known, name in self._principals if hmac.compare_digest(known, digest)]
        if not matches:
            raise UnauthenticatedError("the token is not known here")
        return matches[0]
