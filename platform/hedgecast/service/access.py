"""Who may call what, on which models, and how much: the access file and the books kept by it."""

from __future__ import annotations

import contextlib
import fnmatch
import math
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hedgecast.core.errors import ConfigError, OverloadedError, PermissionDeniedError, RateLimitedError
from hedgecast.service.rates import TokenBucket
from hedgecast.service.reloading import Reloaded
from hedgecast.service.settings import ServiceSettings


class Grant(BaseModel):
    """What one principal may do; every field left out means no limit of that kind."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    methods: tuple[str, ...] = ("*",)
    """Patterns of method names, for example ``Decide`` or ``Get*``."""
    models: tuple[str, ...] = ("*",)
    """Patterns of models: ``grid*`` covers every version and alias of what it matches; with an ``@``,
    ``grid@champion``, only requests that name the model so."""
    requests_per_second: float | None = Field(default=None, gt=0)
    """Rate of calls, and of messages of a stream."""
    request_burst: int = Field(default=10, ge=1)
    """Calls at once after a pause, where there is a rate."""
    scenarios_per_minute: float | None = Field(default=None, gt=0)
    """Quota of scenarios; a request for more than a minute's worth is never granted."""
    max_concurrent_requests: int | None = Field(default=None, ge=1)
    """Calls under way at once."""

    def allows_method(self, method: str) -> bool:
        """Whether the method (its bare name) is granted."""
        return any(fnmatch.fnmatchcase(method, pattern) for pattern in self.methods)

    def allows_model(self, reference: str) -> bool:
        """Whether NAME, NAME@ALIAS or NAME@VERSION, as the caller wrote it, is granted."""
        name = reference.partition("@")[0]
        return any(
            fnmatch.fnmatchcase(reference if "@" in pattern else name, pattern) for pattern in self.models
        )


class AccessTable(BaseModel):
    """Grants by principal."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    default: Grant | None = None
    """For principals that are not listed. Left out: those may call nothing."""
    principals: Mapping[str, Grant] = {}
    """By name, as in the token table or the certificate's common name."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """The table in a TOML file, strictly read.

        Raises
        ------
        ConfigError
            The file cannot be read, is no TOML, or has an unknown key or a wrong value.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigError(f"access_file {path} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"access_file {path} is no TOML: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(f"access_file {path}: {where}: {first['msg']}") from None

    def grant(self, principal: str) -> Grant:
        """The grant of ``principal``.

        Raises
        ------
        PermissionDeniedError
            It is not listed and there is no default.
        """
        found = self.principals.get(principal, self.default)
        if found is None:
            raise PermissionDeniedError(f"{principal} may call nothing here", principal=principal)
        return found


class _Account:
    """What one principal has used up under one grant."""

    def __init__(self, grant: Grant, clock: Callable[[], float]) -> None:
        self.grant = grant
        self.under_way = 0
        rate, quota = grant.requests_per_second, grant.scenarios_per_minute
        self.requests = None if rate is None else TokenBucket(rate, grant.request_burst, clock)
        self.scenarios = None if quota is None else TokenBucket(quota / 60.0, quota, clock)


class AccessBook:
    """Holds every call against the table and what its principal has used so far.

    Kept by one event loop: nothing here waits or locks.

    Parameters
    ----------
    table : callable
        The table as it is now; an account starts afresh when its grant changes.
    clock : callable
        Seconds that never go back.
    """

    def __init__(self, table: Callable[[], AccessTable], clock: Callable[[], float] = time.monotonic) -> None:
        self._table = table
        self._clock = clock
        # Only principals with a grant come in, and an unlisted one shares the account of the default:
        # certificates with made-up names cannot make this grow.
        self._accounts: dict[str, _Account] = {}

    @contextlib.contextmanager
    def call(self, principal: str, method: str) -> Iterator[None]:
        """One call under way: its method must be granted, and a place free.

        Raises
        ------
        PermissionDeniedError
            The principal or the method is not granted.
        OverloadedError
            As many calls as granted are under way.
        """
        account = self._account(principal)
        if not account.grant.allows_method(method):
            raise PermissionDeniedError(
                f"{principal} may not call {method}", principal=principal, method=method
            )
        limit = account.grant.max_concurrent_requests
        if limit is not None and account.under_way >= limit:
            raise OverloadedError(f"{principal} has {limit} requests under way, the limit", limit=limit)
        account.under_way += 1
        try:
            yield
        finally:
            account.under_way -= 1

    def charge(self, principal: str, models: Iterable[str], scenarios: int) -> None:
        """Let one message through: its models must be granted, its share of rate and quota is taken.

        Raises
        ------
        PermissionDeniedError
            A model is not granted.
        RateLimitedError
            Too soon, or more scenarios than the quota has left; the fact ``retry_seconds`` says when.
        """
        account = self._account(principal)
        for model in models:
            if model and not account.grant.allows_model(model):
                raise PermissionDeniedError(
                    f"{principal} may not use model {model[:128]!r}", principal=principal, field="model"
                )
        _take(account.requests, 1.0, f"{principal} calls too often")
        _take(account.scenarios, float(scenarios), f"{principal} asks for too many scenarios a minute")

    def _account(self, principal: str) -> _Account:
        table = self._table()
        grant = table.grant(principal)
        key = principal if principal in table.principals else ""
        account = self._accounts.get(key)
        if account is None or account.grant != grant:
            account = self._accounts[key] = _Account(grant, self._clock)
        return account


def access_book(settings: ServiceSettings) -> AccessBook:
    """The book for the access file that the settings name, read again when it changes.

    Without one, everybody who is let in may do everything.

    Raises
    ------
    ConfigError
        The file cannot be used.
    """
    path = settings.access_file
    if path is None:
        everything = AccessTable(default=Grant())
        return AccessBook(lambda: everything)
    return AccessBook(Reloaded([path], lambda: AccessTable.read(path), seconds=settings.reload_seconds).value)


def _take(bucket: TokenBucket | None, amount: float, what: str) -> None:
    wait = 0.0 if bucket is None else bucket.take(amount)
    if wait == 0.0:
        return
    when = f"try again in {wait:.3g} s" if math.isfinite(wait) else f"{amount:.0f} at once are never granted"
    raise RateLimitedError(f"{what}: {when}", retry_seconds=wait)
