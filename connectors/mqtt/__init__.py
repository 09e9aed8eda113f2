"""MQTT: a broker's messages as a source of readings.

Read `source` for the whole and `status` for what it reports; `connection` and `tls` for where the broker is, and
`session` for what we ask of it; then down to the line: `network_thread`, `link`, `buffered_client`, `orders`.
`publisher` sends; `metrics` shows how a recording goes.
"""
