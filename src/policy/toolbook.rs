//! The tools that the server has listed in this session, with their compiled schemas.

/// Learnt from `tools/list` results as they pass (or as cofferdam asks for them).
#[derive(Debug, Default)]
pub struct ToolBook {}
