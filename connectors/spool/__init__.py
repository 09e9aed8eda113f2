"""The spool: a durable log of raw messages on a site's own disk.

Read `spool` (the writer) and `segments` (its files), then `reader` and `source` (who reads it), then `recorder`,
which takes messages from an `inbox` into it. `dead_letters` keeps what could not be decoded; `durable` and
`page_buffer` are how bytes reach the disk.
"""
