"""The cloud in a browser and over HTTP: pages, JSON, pictures and the signed releases."""
