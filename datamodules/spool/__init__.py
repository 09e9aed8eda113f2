"""Sites whose data are streams.

Read `blocks` (readings as blocks of samples), `stream_windows` (windows cut from them as they arrive) and `labels`
(what state a machine was in, and when), then `stream` (what has come of one site so far), `site` and `fleet`;
`waiting` waits for sites that can work, `live_spool` is the contract of a connector that fills a spool.
"""
