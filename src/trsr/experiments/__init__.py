"""What asks many runs or checks one: compare, sweep, audit, summarizer tuning."""
