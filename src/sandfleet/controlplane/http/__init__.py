"""The HTTP edge: credentials, bodies, errors, idempotency, padding; one mechanism each."""
