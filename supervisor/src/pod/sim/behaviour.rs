//! How containers and the world around them behave.

use std::time::Duration;

use crate::pod::event::StartFailureKind;

/// How one instance of a container behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// Ends by itself after this time; none: never.
    pub lives: Option<Duration>,
    pub code: i32,
    pub oom: bool,
    /// Ends this long after the stop signal; none: ignores it.
    pub obeys: Option<Duration>,
    pub create: Start,
    pub start: Start,
}

/// How a create or start call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Works,
    Fails(StartFailureKind),
}

impl Behaviour {
    /// Runs until it is told to stop, and then ends at once with 143.
    pub const FOREVER: Self = Self {
        lives: None,
        code: 143,
        oom: false,
        obeys: Some(Duration::ZERO),
        create: Start::Works,
        start: Start::Works,
    };

    /// Ends by itself.
    pub const fn ends(lives: Duration, code: i32) -> Self {
        Self { lives: Some(lives), code, ..Self::FOREVER }
    }

    /// Ends by SIGKILL only.
    pub const STUBBORN: Self = Self { obeys: None, ..Self::FOREVER };
}

/// How the world treats what is asked of it. The default is perfect and takes no time.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Largest delay of an action and of its answer.
    pub delay_max: Duration,
    /// Out of 1000 answers.
    pub lost: u32,
    pub doubled: u32,
    /// Out of 1000 calls of the kinds that may fail.
    pub failing: u32,
}
