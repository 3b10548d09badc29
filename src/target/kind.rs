//! Target kind (to be written).
