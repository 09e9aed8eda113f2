"""Where the work of a site runs."""

from fml_lightning.executors.executor import Executor
from fml_lightning.executors.serial import SerialExecutor
from fml_lightning.executors.site_memory import SiteMemory

__all__ = ["Executor", "SerialExecutor", "SiteMemory"]
