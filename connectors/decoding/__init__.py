"""Messages as frames of readings.

Read `template`, `naming` and `topics` (what a topic's name says, and how its payloads are read), `routes` (the
same for one topic, ready to use), `decoder`, `events` (labels), then `history` (what came before: repeated and
late readings). `columns` and `streams` are what they work on, `decoded` and `dead_letter` what comes of it,
`sessions` those of stateful codecs; `time_check` tells a wrong unit of times; `rows` are scalars side by side.
"""
