"""Control of a running process over a socket: `emudev ctl`, and programs with `control.client`.

`protocol` has the messages, `server` the end in `emudev run`, `client` the other end, `places`
where the sockets are.
"""
