"""What both halves of edgecase agree on about a model, a message and a picture."""
