"""``verify``: does this machine really train? Three questions: the machine, the environment, the training.

The flow: ``observe`` (effects: ``machine``, ``environment``, ``training``) → ``Record`` → ``judge`` (pure) →
``Report`` → ``reports`` (terminal, JSON, JUnit, Markdown, HTML) and ``compare``.
"""
