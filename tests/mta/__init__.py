"""Real mail servers on loopback for tests: private instances with directories of their own, on ports of their own."""
