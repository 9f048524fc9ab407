"""The half that runs in the cloud: ingest, review, label, learn, release."""
