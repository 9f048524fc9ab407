"""The half that runs on the device: watch, judge, keep, send, update."""
