"""The agent channel: requests with streams of bytes, both ways, over any transport that keeps their order.

frames      what a frame is                    (bytes ↔ Frame)
hello       who speaks, and what they can do   (JSON ↔ Hello)
connection  the state machine, without I/O     (bytes ↔ events)
peer        it as an asyncio protocol          (`await peer.call("exec", argv=[…])`)
pieces      long streams, made or used up in a thread
relay       two streams joined                 (a hub between its callers and an agent)

`protocol/README.md` describes it for implementations in other languages.
"""
