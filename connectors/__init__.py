"""Connectors: sources of live readings. Import them as `fml_lightning.connectors`."""

if __name__ != "fml_lightning.connectors":
    raise ImportError(
        f"'{__name__}' is part of fml_lightning: import it as 'fml_lightning.connectors'"
        " (you are probably running Python from the project's root folder)"
    )
