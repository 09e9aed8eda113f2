"""A run on disk: its folder (`run_folder`), configuration (`run_config`), lock and checkpoints."""
