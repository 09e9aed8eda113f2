"""Sites where they are: a federation over hosts, carried by NVFlare.

Read `messages` (what server and site say to each other) and `local_link` (how NVFlare's process and ours speak on
one host); then `executor` (in `fml fit`), `server_hub` and `site_hub` (our components in NVFlare's processes; no
other file imports NVFlare), `kit` (a host's certificates and addresses) and `parent` (how NVFlare's process
is started and watched).
"""
