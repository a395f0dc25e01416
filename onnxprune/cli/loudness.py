"""Whether the command was asked to be quiet; kept apart from `console`, which is slow to import."""

quiet = False  # set by the application, for each command anew
