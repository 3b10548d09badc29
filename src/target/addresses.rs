//! Target addresses (to be written).
