"""Sites whose data are streams: `fleet` (of spools), `site`, `stream_windows` (cut as blocks arrive), `labels`."""
