"""Sites where they are: a federation over hosts, carried by NVFlare.

What server and site say to each other is in `executors/messages.py`. Read `envelope` (what is around it on the
way) and `local_link` (how NVFlare's process and ours speak on one host); then `executor` (in `fml fit`),
`server_hub` and `site_hub` (our components in NVFlare's processes; no other file imports NVFlare) with
`namesakes` (two hosts under one name). A host's certificates and addresses are a `kit`, which `provisioning`
makes; `handshake` asks a server what is wrong with it, `parent` starts and watches NVFlare's process, and
`turned_away` says whom that has refused.
"""
