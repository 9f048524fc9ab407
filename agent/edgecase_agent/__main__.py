"""`python -m edgecase_agent`: the same as the command `edgecase-agent`."""

from edgecase_agent.cli import app

if __name__ == "__main__":
    app()
