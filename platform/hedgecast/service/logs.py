"""Log lines as JSON objects, each with the id of the request that it belongs to."""

from __future__ import annotations

import contextvars
import datetime
import json
import logging
import sys

from hedgecast.service.settings import ServiceSettings

REQUEST_ID: contextvars.ContextVar[str] = contextvars.ContextVar("hedgecast_request_id", default="")
"""Id of the call that the running task or thread works for; empty: none."""

_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_HANDLER = "hedgecast-service"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, request_id and what ``extra`` gave."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without line breaks whatever the message holds."""
        line: dict[str, object] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := REQUEST_ID.get():
            line["request_id"] = request_id
        line.update({key: value for key, value in vars(record).items() if key not in _OWN_ATTRIBUTES})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=True)


def configure_logs(settings: ServiceSettings) -> None:
    """Write what hedgecast logs from INFO on to standard error, in the form that the settings name.

    Calling it again replaces the handler of the call before.
    """
    formatter = (
        JsonFormatter()
        if settings.log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name(_HANDLER)
    handler.setFormatter(formatter)
    for name in ("hedgecast", "hedgecast_workers"):
        logger = logging.getLogger(name)
        for old in [old for old in logger.handlers if old.get_name() == _HANDLER]:
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
