"""Run ``python -m envforge.lock.solver``: answer one call with one JSON document, as conda does.

stdout contains only the document. Exits with 0 if the call succeeds, and with 1 if it fails; ``message`` is the reason.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

import envforge
from envforge.base.process import exit_process
from envforge.errors import EnvforgeError


def main(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Answer one call on stdout and return the exit code."""
    if words and words[0] in {"--version", "-V"}:
        print(f"envforge-solver {envforge.__version__}")  # noqa: T201 - the answer
        return 0
    import json  # noqa: PLC0415 - conda-lock first requests the version, which needs no import
    import traceback  # noqa: PLC0415

    from envforge.lock.solver import answers  # noqa: PLC0415
    from envforge.lock.solver.call import parse_call  # noqa: PLC0415

    try:
        call = parse_call(words, environment)
        for note in call.notes:
            print(note, file=sys.stderr)  # noqa: T201 - messages go to stderr
        text, code = json.dumps(answers.answer_call(call, environment)), 0
    except EnvforgeError as error:
        text, code = json.dumps(answers.failure(error), indent=2), 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - conda-lock expects JSON for any failure; the traceback is on stderr
        traceback.print_exc()
        reason = f"the solver of envforge failed with an internal error: {type(error).__name__}: {error}"
        text, code = json.dumps(answers.failure(EnvforgeError(reason, code="bug"))), 70
    print(text)  # noqa: T201 - the answer
    return code


if __name__ == "__main__":
    exit_process(main(sys.argv[1:], os.environ))
