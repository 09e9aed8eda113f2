"""Messages as frames of readings.

Read `template` and `topics` (what a topic's name says), `decoder`, then `history` (what came before: repeated and
late readings); `columns` and `streams` are what they work on; `time_check` tells a wrong unit of times.
"""
