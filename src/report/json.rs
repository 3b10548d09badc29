//! `run.json` and its schema.
