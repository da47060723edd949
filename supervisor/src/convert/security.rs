//! What a container may do and who it runs as (section 9).

use k8s_openapi::api::core::v1::{
    Container, PodSecurityContext, PodSpec, SeccompProfile as ApiSeccomp, SecurityContext,
};

use super::ConfigError;
use super::slots::SeccompProfile;
use crate::runtime::launch::User;

/// Which AppArmor profile a manifest asks for (PV7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppArmor {
    /// None, or none but the node's choice.
    Unasked,
    RuntimeDefault,
    /// One that is loaded on the node.
    Localhost(String),
}

/// The security settings that hold for one container: its own, else the pod's, field by field (rule SC1).
#[derive(Debug, Clone, Copy)]
pub struct Security<'a> {
    pod: Option<&'a PodSecurityContext>,
    own: Option<&'a SecurityContext>,
}

impl<'a> Security<'a> {
    pub fn of(spec: &'a PodSpec, container: &'a Container) -> Self {
        Self { pod: spec.security_context.as_ref(), own: container.security_context.as_ref() }
    }

    pub fn privileged(self) -> bool {
        self.own.and_then(|own| own.privileged).unwrap_or(false)
    }

    pub fn read_only_root(self) -> bool {
        self.own.and_then(|own| own.read_only_root_filesystem).unwrap_or(false)
    }

    /// Rule PV3: only an explicit `false` sets `no_new_privs`.
    pub fn no_new_privs(self) -> bool {
        self.own.and_then(|own| own.allow_privilege_escalation) == Some(false)
    }

    /// Rule PV5: nothing is masked.
    pub fn unmasked(self) -> bool {
        self.privileged() || self.own.and_then(|own| own.proc_mount.as_deref()) == Some("Unmasked")
    }

    /// Names as in the manifest: added, dropped.
    pub fn capabilities(self) -> (&'a [String], &'a [String]) {
        let capabilities = self.own.and_then(|own| own.capabilities.as_ref());
        let list = |names: Option<&'a Vec<String>>| names.map(Vec::as_slice).unwrap_or_default();
        (list(capabilities.and_then(|c| c.add.as_ref())), list(capabilities.and_then(|c| c.drop.as_ref())))
    }

    /// None means unconfined. Unset is `RuntimeDefault` (D21).
    pub fn seccomp(self) -> Option<SeccompProfile> {
        let profile: Option<&ApiSeccomp> = self
            .own
            .and_then(|own| own.seccomp_profile.as_ref())
            .or_else(|| self.pod.and_then(|pod| pod.seccomp_profile.as_ref()));
        if self.privileged() {
            return None;
        }
        match profile.map(|profile| profile.type_.as_str()) {
            Some("Unconfined") => None,
            Some("Localhost") => {
                let path = profile.and_then(|profile| profile.localhost_profile.clone()).unwrap_or_default();
                Some(SeccompProfile::Localhost(path))
            }
            _ => Some(SeccompProfile::RuntimeDefault),
        }
    }

    /// Who confines the process; privileged ones nobody (PV1, PV7).
    pub fn apparmor(self) -> AppArmor {
        let own = self.own.and_then(|own| own.app_armor_profile.as_ref());
        let profile = own.or_else(|| self.pod.and_then(|pod| pod.app_armor_profile.as_ref()));
        if self.privileged() {
            return AppArmor::Unasked;
        }
        match profile.map(|profile| profile.type_.as_str()) {
            Some("Localhost") => {
                AppArmor::Localhost(profile.and_then(|profile| profile.localhost_profile.clone()).unwrap_or_default())
            }
            Some("RuntimeDefault") => AppArmor::RuntimeDefault,
            _ => AppArmor::Unasked,
        }
    }

    fn run_as_user(self) -> Option<i64> {
        self.own.and_then(|own| own.run_as_user).or_else(|| self.pod?.run_as_user)
    }

    fn run_as_group(self) -> Option<i64> {
        self.own.and_then(|own| own.run_as_group).or_else(|| self.pod?.run_as_group)
    }

    fn run_as_non_root(self) -> bool {
        self.own.and_then(|own| own.run_as_non_root).or_else(|| self.pod?.run_as_non_root).unwrap_or(false)
    }

    /// Who the process runs as; `image_user` is the image's `USER` (rules US1-US4).
    pub fn user(self, image_user: &str, container: &str, pod_description: &str) -> Result<User, ConfigError> {
        let non_root = self.run_as_non_root();
        if non_root {
            self.check_non_root(image_user, container, pod_description)?;
        }
        let name = self.run_as_user().map_or_else(|| image_user.to_owned(), |uid| uid.to_string());
        let pod = self.pod;
        let mut supplementary = pod.and_then(|pod| pod.fs_group).map(id).into_iter().collect::<Result<Vec<_>, _>>()?;
        for gid in pod.and_then(|pod| pod.supplemental_groups.as_ref()).into_iter().flatten() {
            supplementary.push(id(*gid)?);
        }
        Ok(User {
            name,
            group: self.run_as_group().map(id).transpose()?,
            supplementary,
            merge_image_groups: pod.and_then(|pod| pod.supplemental_groups_policy.as_deref()) != Some("Strict"),
            non_root,
        })
    }

    /// Rule US2, with its texts. The final number is checked once more right before it is set (D15).
    fn check_non_root(self, image_user: &str, container: &str, pod_description: &str) -> Result<(), ConfigError> {
        let place = format!("(pod: \"{pod_description}\", container: {container})");
        let image_name = image_user.split(':').next().unwrap_or_default();
        match (self.run_as_user(), image_name.parse::<i64>()) {
            (Some(0), _) => Err(ConfigError(format!("container's runAsUser breaks non-root policy {place}"))),
            (Some(_), _) => Ok(()),
            (None, Ok(0)) => Err(ConfigError(format!("container has runAsNonRoot and image will run as root {place}"))),
            (None, Ok(_)) => Ok(()),
            (None, Err(_)) if image_name.is_empty() => {
                Err(ConfigError(format!("container has runAsNonRoot and image will run as root {place}")))
            }
            (None, Err(_)) => Err(ConfigError(format!(
                "container has runAsNonRoot and image has non-numeric user ({image_name}), \
                 cannot verify user is non-root {place}"
            ))),
        }
    }
}

/// Rule US4.
fn id(number: i64) -> Result<u32, ConfigError> {
    match u32::try_from(number) {
        Ok(id) if id <= i32::MAX as u32 => Ok(id),
        _ => Err(ConfigError(format!("id {number}: must be between 0 and 2147483647, inclusive"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(pod: &str, own: &str, test: impl FnOnce(Security<'_>) -> T) -> T {
        let spec: PodSpec = serde_json::from_str(&format!(r#"{{"containers":[],"securityContext":{pod}}}"#)).unwrap();
        let container: Container = serde_json::from_str(&format!(r#"{{"name":"c","securityContext":{own}}}"#)).unwrap();
        test(Security::of(&spec, &container))
    }

    /// US2
    #[test]
    fn non_root_is_decided_by_user_then_image() {
        let place = "(pod: \"p_ns(u)\", container: c)";
        for (pod, own, image, expected) in [
            (
                r#"{"runAsNonRoot":true}"#,
                r#"{"runAsUser":0}"#,
                "1",
                Some("container's runAsUser breaks non-root policy"),
            ),
            (r#"{"runAsNonRoot":true,"runAsUser":0}"#, r#"{"runAsUser":5}"#, "", None),
            (r#"{"runAsNonRoot":true}"#, "{}", "", Some("container has runAsNonRoot and image will run as root")),
            (r#"{"runAsNonRoot":true}"#, "{}", "0:0", Some("container has runAsNonRoot and image will run as root")),
            (r#"{"runAsNonRoot":true}"#, "{}", "101:101", None),
            (
                r#"{"runAsNonRoot":true}"#,
                "{}",
                "nginx",
                Some(
                    "container has runAsNonRoot and image has non-numeric user (nginx), cannot verify user is non-root",
                ),
            ),
            (r#"{"runAsNonRoot":true}"#, r#"{"runAsNonRoot":false}"#, "", None),
        ] {
            let got = with(pod, own, |security| security.user(image, "c", "p_ns(u)"));
            let message = got.err().map(|error| error.to_string());
            assert_eq!(message, expected.map(|text| format!("{text} {place}")), "{pod} {own} {image}");
        }
    }

    /// US1, US3
    #[test]
    fn groups_come_from_pod_and_policy() {
        let pod = r#"{"runAsUser":1000,"runAsGroup":3000,"fsGroup":2000,"supplementalGroups":[5],"supplementalGroupsPolicy":"Strict"}"#;
        let user = with(pod, "{}", |security| security.user("nginx", "c", "p")).unwrap();
        assert_eq!(
            user,
            User {
                name: "1000".into(),
                group: Some(3000),
                supplementary: vec![2000, 5],
                merge_image_groups: false,
                non_root: false
            }
        );
    }

    /// PV1, PV7, SC1
    #[test]
    fn a_profile_is_the_container_s_then_the_pod_s() {
        let local = r#"{"appArmorProfile":{"type":"Localhost","localhostProfile":"mine"}}"#;
        let default = r#"{"appArmorProfile":{"type":"RuntimeDefault"}}"#;
        for (pod, own, expected) in [
            ("{}", "{}", AppArmor::Unasked),
            (local, "{}", AppArmor::Localhost("mine".into())),
            (local, default, AppArmor::RuntimeDefault),
            (local, r#"{"appArmorProfile":{"type":"Unconfined"}}"#, AppArmor::Unasked),
            (local, r#"{"privileged":true}"#, AppArmor::Unasked),
        ] {
            assert_eq!(with(pod, own, |security| security.apparmor()), expected, "{pod} {own}");
        }
    }

    /// PV1, PV6, D21
    #[test]
    fn seccomp_is_the_default_unless_said_otherwise() {
        for (pod, own, expected) in [
            ("{}", "{}", Some(SeccompProfile::RuntimeDefault)),
            (r#"{"seccompProfile":{"type":"Unconfined"}}"#, "{}", None),
            (
                r#"{"seccompProfile":{"type":"Unconfined"}}"#,
                r#"{"seccompProfile":{"type":"Localhost","localhostProfile":"a.json"}}"#,
                Some(SeccompProfile::Localhost("a.json".into())),
            ),
            ("{}", r#"{"privileged":true,"seccompProfile":{"type":"RuntimeDefault"}}"#, None),
        ] {
            assert_eq!(with(pod, own, |security| security.seccomp()), expected, "{pod} {own}");
        }
    }
}
