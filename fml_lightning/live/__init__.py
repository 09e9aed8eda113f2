"""What watches machines live: windows of a spool, scores, alarms, drift, health, and who is told.

Pure parts, which have no clock and need no torch: `duration`, `data_clock`, `event`, `alarm` (`alarm_state`),
`levels`, `drift`, `health`, `past`, `rules` (by which machines are judged), `attempt` (to make a new model of a
machine that drifts). What is durable: `log`, `journal` (of `records`), `outbox`; what follows from the records:
`state`. What follows spools and scores: `follower` (whose `follower_state` a snapshot keeps), `unread` (spools
that cannot be read), `silence` (of machines), `scoring`, `spectrum`. Who is told: `board` (what table and page
show), `messages`, `publisher`, `table`, `page`. `watcher` joins them; `commands_file` is how others ask it, as
`asking` does for `fml ack` and `fml shelve`; `shelves` end by the clock. `repersonalizer` makes new models, in a
`background_process`.
"""
