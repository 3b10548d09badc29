//! Target processes (to be written).
