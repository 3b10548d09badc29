//! Target descriptor (to be written).
