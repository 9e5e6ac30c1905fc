"""The command line: it reads words, calls the rooms below, and shows what they say."""
