"""The live service: events in, recommendations out, over HTTP."""
