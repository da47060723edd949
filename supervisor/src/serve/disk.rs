//! The disk: images that nobody uses go when it fills up, and the node says when that is not enough (EV5).
//!
//! Looked at when something was written or given back: after a pull and after a pod. A node on which nothing happens does
//! not wake up for it.

use std::path::Path;

use tokio::task::JoinHandle;

use crate::image;
use crate::image::gc::{FileSystem, IMAGEFS_AVAILABLE_PERCENT, INODES_FREE_PERCENT, NODEFS_AVAILABLE_PERCENT, Policy};

/// Whether the disk has room for new pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskPressure {
    #[default]
    None,
    /// Less is free than the hard eviction thresholds leave.
    Pressure,
}

/// What a look found.
#[derive(Debug)]
pub struct Looked {
    pub pressure: DiskPressure,
    /// Images that were removed, as users know them.
    pub removed: Vec<String>,
}

/// At most one look at a time; another one that is asked for meanwhile comes after it.
#[derive(Debug, Default)]
pub struct Disk {
    looking: Option<JoinHandle<Result<Looked, String>>>,
    again: bool,
}

impl Disk {
    /// Something was written, or given back.
    pub fn changed(&mut self, images: &image::Store, data: &Path) {
        if self.looking.is_some() {
            self.again = true;
            return;
        }
        let (images, data) = (images.root().to_owned(), data.to_owned());
        self.looking = Some(tokio::task::spawn_blocking(move || look(&images, &data)));
    }

    /// The next finding; waits for ever while nobody looks.
    pub async fn looked(&mut self) -> Result<Looked, String> {
        let Some(looking) = &mut self.looking else { return std::future::pending().await };
        let found = looking.await.unwrap_or_else(|error| Err(error.to_string()));
        self.looking = None;
        found
    }

    /// Whether something happened since the last look began.
    pub fn take_again(&mut self) -> bool {
        std::mem::take(&mut self.again)
    }
}

fn look(images: &Path, data: &Path) -> Result<Looked, String> {
    let images = image::Store::open(images, image::Limits::default()).map_err(|error| error.to_string())?;
    let report = images.garbage_collect(&Policy::default()).map_err(|error| error.to_string())?;
    let free = |path: &Path| FileSystem::of(path).map_err(|error| format!("statvfs {}: {error}", path.display()));
    let (imagefs, nodefs) = (free(images.root())?, free(data)?);
    let full = imagefs.is_under_pressure(IMAGEFS_AVAILABLE_PERCENT, INODES_FREE_PERCENT)
        || nodefs.is_under_pressure(NODEFS_AVAILABLE_PERCENT, INODES_FREE_PERCENT);
    let pressure = if full { DiskPressure::Pressure } else { DiskPressure::None };
    Ok(Looked { pressure, removed: report.removed })
}
