"""Two whole servers in one process over a simulated disk, network and clock: everything from one seed."""
