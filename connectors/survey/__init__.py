"""A survey of what a broker, or a file of payloads, says: what is heard, and a proposal of topics that read it."""
