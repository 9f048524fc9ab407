"""`python -m edgecase_cloud` is `edgecase-cloud`."""

from edgecase_cloud.cli import app

app(prog_name="edgecase-cloud")
