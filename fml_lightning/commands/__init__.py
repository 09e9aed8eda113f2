"""The verbs of `fml`: one file each, but those of learning, which are Lightning's, in `learning`.

`record`, `replay`, `plant` and `broker` move data: they run for hours beside the machines, so they import no
torch and start fast; `live_line` is what they show, and `check` what `record` does with `--check`. What
commands that are not Lightning's share, from their settings to the signal that ends them, is in `process`
(`allocator` bounds the memory of those that run for long).

`learning` builds Federation, Fleet and Trainer (`trainer`) from YAML; `report`, `progress` and `quiet` are what
a user sees of it. `personal_models` keeps what `fml personalize` makes, of the server's own fleet or `at_site`.
`site_config` is a site's configuration; `release` what a server lets sites fetch, by `requests`;
`demo_federation` a federation on one computer. `machine_picture` draws what `inspect` finds. `parsing/` reads
the command line, and `run/` is a run on disk.
"""

COMMANDS = {
    "record": "record what a broker's sensors send into a spool, for ever",
    "replay": "publish a spool's messages again, at the pace at which they were received or faster",
    "plant": "simulate plants that publish what their machines' sensors measure",
    "inspect": "look at the data of a config, at files or at a spool, before training on them",
    "spool": "print what is in a spool: machines, channels, rates, gaps, and what could not be read",
    "watch": "say which machines are sick: score live data with their own models, and raise alarms",
    "ack": "say that somebody knows of a machine's alarm",
    "shelve": "keep a machine's alarms from being told for a while",
    "broker": "run a local MQTT broker (mosquitto) with secure defaults",
    "rollback": "make an earlier version of a machine's model the current one",
    "export": "write machines' own models as files that run elsewhere, ONNX without torch, or PT2",
    "server": "run the server of a federation: it carries messages, and holds no data",
    "fetch": "at a site: fetch what the server has released to sites",
    "site": "take part in a federation with this host's data, which stay here",
    "provision": "make the certificates and kits with which hosts join a federation",
}
"""Name and purpose of each; `fml_lightning.commands.NAME` has a function `run`."""
