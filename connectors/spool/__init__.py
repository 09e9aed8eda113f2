"""The spool: a durable log of raw messages on a site's own disk.

Read `spool` (the writer) and `segments` (its files, whose `footer` is written in `thrift`), then `reader` and
`source` (who reads it), then `recorder`, which takes messages from an `inbox` into it. Beside the segments lie
`gaps` (what is missing, and why), `ages` (how old what is there is), `dead_letters` (what could not be decoded),
`snapshots` (what stateful codecs had learnt) and the `kept_session` with the broker; `contents` counts what is in
a spool. `durable` and `page_buffer` are how bytes reach the disk.
"""
