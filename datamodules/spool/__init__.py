"""Sites whose data are streams.

Read `blocks` (readings as blocks of samples), `stream_windows` (windows cut from them as they arrive), `labels`
(what state a machine was in, and when) and `left_out` (what is not trained on, and why), then `stream` (what has
come of one site so far), `site` and `fleet`; `aliases` are names that machines had before, `live_spool` is the
contract of a connector that fills a spool.
"""
