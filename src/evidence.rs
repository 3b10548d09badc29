//! (being written on a branch)

use crate::cluster::view::{ClusterView, Shape};
use crate::report::CaseResult;
use crate::target::{Deployment, Target};
use std::path::Path;

/// (being written on a branch)
#[derive(Debug, Default)]
pub struct PlatformHints {}

/// (being written on a branch)
pub async fn hints(_target: &dyn Target) -> PlatformHints {
    PlatformHints {}
}

/// (being written on a branch)
pub async fn hints_of(_deployment: &dyn Deployment) -> PlatformHints {
    PlatformHints {}
}

/// (being written on a branch)
pub fn cause(_view: Option<&ClusterView>, _shape: Shape, _hints: &PlatformHints, _failure: &str) -> Option<String> {
    None
}

/// (being written on a branch)
pub async fn gather(_t: &dyn Target, _v: Option<&ClusterView>, _folder: &Path, _r: &CaseResult, _tl: &[(f64, String)]) {
}
