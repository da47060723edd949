//! Who has which range: written into the pod's directory before it is used, so that it goes when the directory goes, which
//! is after the pod's sandboxes.

use std::collections::BTreeSet;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{IdRange, RANGES};
use crate::engine::record;

/// Name of the claim in a pod's directory.
const CLAIM: &str = "user-namespace.json";

#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    version: u16,
    first_id: IdRange,
}

/// Why a pod gets no ids.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(
        "all {RANGES} id ranges for user namespaces are taken: delete a pod that has hostUsers: false, or set hostUsers: true"
    )]
    Exhausted,
    #[error("write down the id range of the user namespace: {call}: {source}")]
    Io { call: &'static str, source: std::io::Error },
}

fn io(call: &'static str) -> impl FnOnce(std::io::Error) -> ClaimError {
    move |source| ClaimError::Io { call, source }
}

/// The range of the pod with this directory, if it has one.
pub fn load(pod: &Path) -> Option<IdRange> {
    record::load::<Claim>(&pod.join(CLAIM)).map(|claim| claim.first_id)
}

/// A range for the pod `uid`, whose directory is or will be below `pods`; the one that it has already when it has one.
/// `others` are ranges that are known from elsewhere to be in use. Other processes may claim at the same time.
///
/// # Errors
/// There is no free range, or it can't be written down.
pub fn claim(pods: &Path, uid: &str, others: BTreeSet<IdRange>) -> Result<IdRange, ClaimError> {
    let own = pods.join(uid);
    crate::engine::dirs::create_private(&own).map_err(io("mkdir"))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lock = rustix::fs::open(pods, flags, Mode::empty()).map_err(|errno| io("open")(errno.into()))?;
    // It ends with the descriptor, and with us.
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|errno| io("flock")(errno.into()))?;
    if let Some(range) = load(&own) {
        return Ok(range);
    }
    let mut taken = others;
    for entry in std::fs::read_dir(pods).map_err(io("readdir"))? {
        taken.extend(load(&entry.map_err(io("readdir"))?.path()));
    }
    let Some(range) = IdRange::free(&taken) else {
        // A pod that has a directory has begun; this one has not.
        let _holds_volumes = std::fs::remove_dir(&own);
        return Err(ClaimError::Exhausted);
    };
    let path = own.join(CLAIM);
    record::save(&path, &Claim { version: record::VERSION, first_id: range }).map_err(io("write"))?;
    record::sync(&path).map_err(io("fsync"))?;
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user_namespace::{FIRST_ID, IDS};

    #[test]
    fn a_claim_lasts_as_long_as_the_pods_directory() {
        let dir = tempfile::tempdir().unwrap();
        let pods = dir.path().join("pods");
        let first = |uid: &str| claim(&pods, uid, BTreeSet::new()).unwrap().first();
        assert_eq!([first("a"), first("b"), first("a")], [FIRST_ID, FIRST_ID + IDS, FIRST_ID]);
        assert_eq!(load(&pods.join("b")).map(IdRange::first), Some(FIRST_ID + IDS));
        std::fs::remove_dir_all(pods.join("a")).unwrap();
        assert_eq!((load(&pods.join("a")), first("c")), (None, FIRST_ID));
        // A sandbox whose pod has lost its directory.
        let others = BTreeSet::from([IdRange::try_from(FIRST_ID + 2 * IDS).unwrap()]);
        assert_eq!(claim(&pods, "d", others).unwrap().first(), FIRST_ID + 3 * IDS);
    }

    #[test]
    fn a_damaged_claim_is_none() {
        let dir = tempfile::tempdir().unwrap();
        claim(dir.path(), "a", BTreeSet::new()).unwrap();
        let path = dir.path().join("a").join(CLAIM);
        let moved = std::fs::read_to_string(&path).unwrap().replace("2013265920", "2013331456");
        for text in [moved.as_str(), "", r#"{"version":1,"first_id":0}"#] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(load(&dir.path().join("a")), None, "{text}");
        }
    }

    #[test]
    fn processes_that_claim_at_the_same_time_get_different_ranges() {
        let dir = tempfile::tempdir().unwrap();
        let taken = std::thread::scope(|scope| {
            let claims = |thread: u32| {
                let pods = dir.path();
                move || (0..8).map(|pod| claim(pods, &format!("{thread}-{pod}"), BTreeSet::new()).unwrap()).collect()
            };
            let threads: Vec<_> = (0..4).map(|thread| scope.spawn(claims(thread))).collect();
            threads.into_iter().flat_map(|thread| -> Vec<IdRange> { thread.join().unwrap() }).collect::<BTreeSet<_>>()
        });
        assert_eq!(taken.len(), 32);
    }

    #[test]
    fn who_gets_none_is_told_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = claim(dir.path(), "a", IdRange::all().collect()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "all 2046 id ranges for user namespaces are taken: delete a pod that has hostUsers: false, or set hostUsers: true"
        );
    }
}
