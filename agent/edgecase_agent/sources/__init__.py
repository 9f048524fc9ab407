"""One module for each kind of source; `edgecase_agent.source.open_source` chooses."""
