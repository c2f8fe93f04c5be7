"""How a report is shown: terminal, JSON, JUnit, Markdown, HTML."""
