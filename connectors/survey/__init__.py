"""A survey of what a broker, or a file of payloads, says: what is heard, and a proposal of topics that read it.

Read `survey` (what was heard), which a `listener` or a `payload_file` fills, then `formats` and `shape` (what
payloads are, and what stands in them) and `groups` (topics that are alike). Of one group `proposal` makes a topic,
by `levels` (of its topics), `roles` (of members), `plan` (which members a codec reads), `influx_tags` and
`states`; `judgement` tries it. `findings` is the whole, and `section` its YAML.
"""
