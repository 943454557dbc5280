"""Ray Serve deployments and job entry points; no mathematics here."""
