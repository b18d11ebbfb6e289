"""The template of a plugin: provider `emu_null`, transport `inproc`, backends `null` and `echo`."""
