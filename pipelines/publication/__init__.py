"""Published datasets: canonical files, immutable versions, an append-only log, verification."""
