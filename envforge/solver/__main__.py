"""``python -m envforge.solver``: one call in, one JSON document out, as conda would answer it.

stdout carries the document and nothing else; exit 0 done, 1 failed with the reason in ``message``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

import envforge
from envforge.errors import EnvforgeError
from envforge.process_end import leave


def main(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Answer one call on stdout and return the exit code."""
    if words and words[0] in {"--version", "-V"}:
        print(f"envforge-solver {envforge.__version__}")  # noqa: T201 - the answer
        return 0
    import json  # noqa: PLC0415 - conda-lock asks for the version before all else: that answer loads nothing
    import traceback  # noqa: PLC0415

    from envforge.solver import answers, arguments, calls  # noqa: PLC0415

    try:
        call = arguments.parse(words, environment)
        for note in call.notes:
            print(note, file=sys.stderr)  # noqa: T201 - talk goes to stderr
        text, code = json.dumps(calls.answer(call, environment)), 0
    except EnvforgeError as error:
        text, code = json.dumps(answers.failure(error), indent=2), 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - conda-lock reads JSON, whatever happened; the traceback is on stderr
        traceback.print_exc()
        reason = f"the solver of envforge failed with an internal error: {type(error).__name__}: {error}"
        text, code = json.dumps(answers.failure(EnvforgeError(reason, code="bug"))), 70
    print(text)  # noqa: T201 - the answer
    return code


if __name__ == "__main__":
    leave(main(sys.argv[1:], os.environ))
