"""Labels of a stream: what somebody says of the state that a machine is in from some moment on."""

from __future__ import annotations

NO_LABEL = "unlabelled"
"""The label that ends the one before it: from then on nobody says what state the machine is in."""
