//! Target kubernetes (to be written).
