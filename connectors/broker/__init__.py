"""A local broker (mosquitto) with secure defaults: `broker`, its users (`accounts`) and its `certificates`."""
