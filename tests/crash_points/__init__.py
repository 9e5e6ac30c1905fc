"""Every durable step of a process is numbered; a real process is killed right before each, and started again."""
