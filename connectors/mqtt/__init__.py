"""MQTT: a broker's messages as a source of readings.

Read `source` for the whole, `connection` for where the broker is, then down to the line: `network_thread`, `link`,
`buffered_client`, `orders`. `publisher` sends; `metrics` shows how a recording goes.
"""
