"""What watches machines live: windows of a spool, scores, alarms, drift, health, and who is told.

Pure parts, which have no clock and need no torch: `alarm`, `drift`, `health`. What is durable: `journal`. What
follows and scores: `follower`, `scoring`. Who is told: `board` (what table and page show), `publisher`, `table`.
`watcher` joins them.
"""
