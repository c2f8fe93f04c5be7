"""Answer the first question: the machine compared with the lockfile, without torch, in about two seconds."""
