"""MQTT: a broker's messages as a source of readings.

Read `source` for the whole and `status` for what it reports; `connection` and `tls` for where the broker is, and
`session` for what we ask of it; then down to the line: `supervisor`, `network_thread`, `link`, `outbox`,
`buffered_client`. `publisher` sends; `metrics` shows how a recording goes.
"""
