"""The service definitions that ship with the program, as package data."""  # noqa: N999 - the folder is named for people
