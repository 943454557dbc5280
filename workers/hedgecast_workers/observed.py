"""Where a replica's logs and spans go."""

from __future__ import annotations

from hedgecast.service.logs import configure_logs
from hedgecast.service.settings import ServiceSettings
from hedgecast.service.tracing import configure_tracing


def observed(settings: ServiceSettings, component: str) -> None:
    """Logs and spans of this replica's process go where the settings say."""
    configure_logs(settings)
    configure_tracing(settings.trace_endpoint, component)
