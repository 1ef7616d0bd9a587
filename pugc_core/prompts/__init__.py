"""One file per prompt: its wordings, its slots, its parser, and what an answer that does not parse means."""
