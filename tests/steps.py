"""The names through which `vmctl.durable` changes files, and makes them durable: what tests stand before, or behind."""

STEPS = (
    "_open", "_write", "_truncate", "_fsync", "_rename", "_rename_free", "_swap", "_link", "_unlink", "_mkdir", "_rmdir", "_sync",
    "_syncfs",
)  # fmt: skip
