//! Who has to leave when the node gets a `NoExecute` taint, and when: as the taint eviction controller decides it.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::clock;
use super::drain::DISRUPTION;
use super::schedule::{covers, put_condition};
use crate::api;
use crate::pod::timer::WallTime;
use crate::store::Key;

/// The effect of a taint that does not only keep pods out.
pub const NO_EXECUTE: &str = "NoExecute";

/// How long the pod may stay: none, as long as it likes.
pub fn stay(pod: &Pod, taints: &[Taint]) -> Option<Duration> {
    let tolerations: Vec<&Toleration> = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten()).collect();
    let bearable = |taint: &Taint| match tolerations.iter().find(|toleration| covers(toleration, taint)) {
        Some(Toleration { toleration_seconds: Some(seconds), .. }) => {
            Some(Duration::from_secs(u64::try_from(*seconds).unwrap_or(0)))
        }
        Some(Toleration { toleration_seconds: None, .. }) => None,
        None => Some(Duration::ZERO),
    };
    taints.iter().filter(|taint| taint.effect == NO_EXECUTE).filter_map(bearable).min()
}

/// What changes for a pod that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Nothing,
    /// It was to leave, and may stay now.
    Stays,
    Leaves,
}

/// Pods that may stay for a while, by uid.
#[derive(Debug, Default)]
pub struct Leaving(BTreeMap<String, (Key, Instant)>);

impl Leaving {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When the next one has to leave.
    pub fn next(&self) -> Option<Instant> {
        self.0.values().map(|(_, at)| *at).min()
    }

    /// Another look at a pod. The time of one that has to leave runs on, whatever its tolerations became.
    pub fn look(&mut self, uid: &str, key: &Key, stay: Option<Duration>, now: Instant) -> Verdict {
        match stay {
            None if self.0.remove(uid).is_some() => Verdict::Stays,
            None => Verdict::Nothing,
            Some(Duration::ZERO) => {
                self.0.remove(uid);
                Verdict::Leaves
            }
            Some(span) => {
                self.0.entry(uid.to_owned()).or_insert_with(|| (key.clone(), now + span));
                Verdict::Nothing
            }
        }
    }

    pub fn forget(&mut self, uid: &str) {
        self.0.remove(uid);
    }

    /// Those whose time is over.
    pub fn take_due(&mut self, now: Instant) -> Vec<(String, Key)> {
        let due = self.0.extract_if(.., |_, (_, at)| *at <= now);
        due.map(|(uid, (key, _))| (uid, key)).collect()
    }
}

/// Writes into a stored pod that it is deleted, and why (CO6, DE2); false for one that is being deleted already.
pub fn mark_leaving(value: &mut Value, (reason, message): (&str, &str), now: WallTime) -> bool {
    let mut told = value.clone();
    put_condition(&mut told, json!({"type": DISRUPTION, "status": "True", "reason": reason, "message": message}));
    let Some(ending) = api::ending(&told, clock::stamp(now)) else { return false };
    *value = ending;
    true
}

/// Reason and message of the condition.
pub const WHY: (&str, &str) = ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint");

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(tolerations: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [], "tolerations": tolerations}})).unwrap()
    }

    fn taint(key: &str, effect: &str) -> Taint {
        Taint { key: key.to_owned(), effect: effect.to_owned(), ..Taint::default() }
    }

    #[test]
    fn the_shortest_toleration_counts() {
        let taints = [taint("a", NO_EXECUTE), taint("b", NO_EXECUTE), taint("c", "NoSchedule")];
        let of =
            |key: &str, seconds: Option<i64>| json!({"key": key, "operator": "Exists", "tolerationSeconds": seconds});
        for (tolerations, expected) in [
            (json!([]), Some(0)),
            (json!([of("a", None)]), Some(0)),
            (json!([of("a", None), of("b", None)]), None),
            (json!([of("a", Some(30)), of("b", Some(20))]), Some(20)),
            (json!([of("a", Some(-1)), of("b", None)]), Some(0)),
            (json!([{"operator": "Exists", "effect": NO_EXECUTE}]), None),
        ] {
            let got = stay(&pod(tolerations.clone()), &taints);
            assert_eq!(got, expected.map(Duration::from_secs), "{tolerations}");
        }
        assert_eq!(stay(&pod(json!([])), &[taint("c", "NoSchedule")]), None);
    }

    #[test]
    fn the_time_of_a_pod_runs_from_the_first_look() {
        let (mut leaving, key, start) = (Leaving::default(), Key::new("pods", "ns", "p"), Instant::now());
        let span = Duration::from_secs;
        assert_eq!(leaving.look("u", &key, Some(span(10)), start), Verdict::Nothing);
        assert_eq!(leaving.look("u", &key, Some(span(10)), start + span(5)), Verdict::Nothing);
        assert_eq!(leaving.next(), Some(start + span(10)));
        assert!(leaving.take_due(start + span(9)).is_empty());
        assert_eq!(leaving.take_due(start + span(10)), [("u".to_owned(), key.clone())]);
        leaving.look("u", &key, Some(span(10)), start);
        assert_eq!(leaving.look("u", &key, None, start), Verdict::Stays);
        assert_eq!(leaving.look("u", &key, None, start), Verdict::Nothing);
        assert_eq!(leaving.look("u", &key, Some(span(0)), start), Verdict::Leaves);
        assert!(leaving.is_empty());
    }

    /// CO6, DE2, GE2
    #[test]
    fn a_pod_that_leaves_says_why() {
        let mut value = json!({"metadata": {"generation": 1}, "spec": {"terminationGracePeriodSeconds": 5}});
        assert!(mark_leaving(&mut value, WHY, WallTime(0)));
        assert_eq!(value["metadata"]["deletionTimestamp"], "1970-01-01T00:00:05Z");
        assert_eq!(
            (&value["metadata"]["generation"], &value["status"]["conditions"][0]["reason"]),
            (&json!(2), &json!(WHY.0))
        );
        assert!(!mark_leaving(&mut value, WHY, WallTime(0)), "once");
    }
}
