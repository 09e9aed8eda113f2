"""What watches machines live: windows of a spool, scores, alarms, drift, health, and who is told.

Pure parts, which have no clock and need no torch: `data_clock`, `alarm`, `levels`, `drift`, `health`, `past`. What
is durable: `log`, `journal` (of `records`), `outbox`; what follows from the records: `state`. What follows spools
and scores: `follower` (which keeps a `cutter_state`), `scoring`, `spectrum`. Who is told: `board` (what table and
page show), `messages`, `publisher`, `table`. `watcher` joins them; `commands_file` is how others ask it.
"""
