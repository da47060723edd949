//! The node's Lease says when the node was last heard of. Who asks for it hears of the node by that, so it is renewed for
//! those who ask and follow, and an idle machine is not woken for it (decision 0031).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::super::fields;
use super::super::registry::Resource;
use super::super::server::State;
use crate::store::{Change, Durability, Key};

/// The storage name of leases.
const LEASES: &str = "leases.coordination.k8s.io";
/// Where those of nodes are.
pub(crate) const NAMESPACE: &str = "kube-node-lease";
/// `nodeLeaseDurationSeconds` of the kubelet, which renews at every quarter of it.
pub(crate) const DURATION: Duration = Duration::from_secs(40);
/// How old the Lease is at most that somebody sees.
pub(crate) const RENEWAL: Duration = Duration::from_secs(10);

/// Whether who asks for objects of this resource may ask for the node's Lease.
pub(crate) fn is_seen_in(resource: &Resource) -> bool {
    (resource.plural, resource.group) == ("leases", "coordination.k8s.io")
}

/// Where the Lease of a node is stored.
pub(crate) fn key(node: &str) -> Key {
    Key::new(LEASES, NAMESPACE, node)
}

/// A time as a Lease has it: a `MicroTime`.
pub(crate) fn time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Renews the node's Lease if it is old.
pub(crate) async fn renew(state: &State) {
    let Some(object) = state.store.get(&key(&state.config.node_name)) else { return };
    let Some(value) = renewed(object.value(), Timestamp::now()) else { return };
    let change = Change::Update { key: object.key, expected: Some(object.version), value };
    // Somebody else wrote it meanwhile, or the disk is full, which is told elsewhere: a lease that grows old is right then.
    drop(state.store.commit(change, Durability::Kernel).await);
}

/// The Lease as of now, unless it is young.
fn renewed(mut lease: Value, now: Timestamp) -> Option<Value> {
    let last: Option<Timestamp> = fields::text(&lease, &["spec", "renewTime"]).parse().ok();
    let age = last.map(|last| now.duration_since(last));
    // One of a time to come was written before the clock was set.
    let is_young =
        age.is_some_and(|age| !age.is_negative() && age < SignedDuration::try_from(RENEWAL).unwrap_or_default());
    if is_young {
        return None;
    }
    lease.get_mut("spec")?.as_object_mut()?.insert("renewTime".to_owned(), time(now).into());
    Some(lease)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_lease_that_is_old_or_of_the_future_is_renewed() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let after = |last: &str| {
            let lease = json!({"spec": {"holderIdentity": "n", "renewTime": last}});
            renewed(lease, now).map(|lease| lease["spec"].clone())
        };
        let fresh = json!({"holderIdentity": "n", "renewTime": "2026-01-01T00:01:00.000000Z"});
        for (last, expected) in [
            ("2026-01-01T00:00:50.000000Z", Some(&fresh)),
            ("2026-01-01T00:00:50.000001Z", None),
            ("2026-01-01T00:01:00.000000Z", None),
            ("2026-01-01T00:01:00.000001Z", Some(&fresh)),
            ("never", Some(&fresh)),
        ] {
            assert_eq!(after(last).as_ref(), expected, "{last}");
        }
    }
}
