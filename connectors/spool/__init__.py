"""The spool: a durable log of raw messages on a site's own disk.

Read `folder` (what lies where), `spool` (the writer) and `segments` (its files, whose `footer` is written in
`thrift`), then `reader` and `source` (who reads it), then `recorder`, which takes messages from an `inbox`. Beside
the segments lie `gaps` (what is missing, and why), `ages` (how old what is there is), `dead_letters` (what could
not be decoded), `snapshots` (what stateful codecs had learnt) and the `kept_session` with the broker. `contents`
counts what is in a spool, and `scalars` finds those of one machine. `durable` and `page_buffer` are how bytes
reach the disk.
"""
