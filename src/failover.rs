//! One observed failover, which several cases look at from their own side.

/// What was seen.
#[derive(Debug)]
pub struct Failover {}
