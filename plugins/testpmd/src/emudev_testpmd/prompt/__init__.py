"""The prompt: a table of commands, from which parsing, help, completion and a page of docs come."""
