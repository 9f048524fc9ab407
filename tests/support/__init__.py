"""What the tests share: real servers on free ports, and waiting with a deadline."""
