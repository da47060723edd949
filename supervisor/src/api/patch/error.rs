//! What is wrong with a patch, with the code and reason of the Status that tells it.

/// Why a patch is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is malformed.
    #[error("{0}")]
    Bad(String),
    /// The patch is well-formed and does not fit the object: `test` failed, a path is missing, a directive is unknown. The
    /// API server tells the client this one sentence; the cause is for the log.
    #[error("the server rejected our request due to an error in our request")]
    Unprocessable { cause: String },
    /// The result, or the patch, is larger than allowed.
    #[error("{0}")]
    TooLarge(String),
    /// Fields are owned by others.
    #[error("{}", conflict_message(.0))]
    Conflict(Vec<Conflict>),
}

/// A field that another manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// `"kubectl-client-side-apply" using v1`
    pub manager: String,
    /// `.data.key`
    pub path: String,
}

impl Conflict {
    /// The message of the Status' cause; its type is `FieldManagerConflict`, its field the path.
    pub fn message(&self) -> String {
        format!("conflict with {}", self.manager)
    }
}

impl PatchError {
    /// The HTTP status.
    pub fn code(&self) -> u16 {
        match self {
            Self::Bad(_) => 400,
            Self::Conflict(_) => 409,
            Self::TooLarge(_) => 413,
            Self::Unprocessable { .. } => 422,
        }
    }

    /// `reason` of the Status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Bad(_) => "BadRequest",
            Self::Conflict(_) => "Conflict",
            Self::TooLarge(_) => "RequestEntityTooLarge",
            Self::Unprocessable { .. } => "Invalid",
        }
    }
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [conflict] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", conflict.manager, conflict.path);
    }
    let mut lines = Vec::new();
    let mut manager = None;
    for conflict in conflicts {
        if manager != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager));
            manager = Some(&conflict.manager);
        }
        lines.push(format!("- {}", conflict.path));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}
