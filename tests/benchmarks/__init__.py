"""What vmctl costs beside rsync, unison and lsyncd at their own work: whole processes, in turn, on the same machine."""
