//! `kubectl --as`: in whose name somebody asks, for those who may do everything anyway.

use http::HeaderMap;

use super::super::path;
use super::super::status::{Reason, Status};
use super::{ACCOUNT_PREFIX, AUTHENTICATED, MASTERS, UNAUTHENTICATED, User};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
/// The rest of the name is the key.
const EXTRA: &str = "impersonate-extra-";
/// Who has no credential.
const ANONYMOUS: &str = "system:anonymous";

/// The user that a request is made for: whom its headers name, or the one who makes it.
///
/// # Errors
/// The headers name groups, a uid or more of nobody, or he may not speak for others.
pub fn impersonate(user: User, headers: &HeaderMap) -> Result<User, Status> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let one = |name: &str| headers.get(name).map(text).filter(|text| !text.is_empty());
    let groups: Vec<String> = headers.get_all(GROUP).iter().map(text).collect();
    let mut extra = std::collections::BTreeMap::<String, Vec<String>>::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            let key = path::decode(key, false).unwrap_or_else(|| key.to_owned());
            extra.entry(key).or_default().push(text(value));
        }
    }
    let uid = one(UID);
    let Some(name) = one(USER) else {
        let wanted: Vec<&str> = [(GROUP, !groups.is_empty()), (UID, uid.is_some()), (EXTRA, !extra.is_empty())]
            .into_iter()
            .filter_map(|(name, is_there)| is_there.then_some(name))
            .collect();
        // Who asks to be less than he is must not be answered as who he is.
        return if wanted.is_empty() { Ok(user) } else { Err(of_nobody(&wanted)) };
    };
    if !user.is_in(MASTERS) {
        return Err(refused(&user, &name));
    }
    let groups = groups_of(&name, groups);
    Ok(User { name, uid: uid.unwrap_or_default(), groups, extra })
}

fn of_nobody(wanted: &[&str]) -> Status {
    Status::internal(format!("requested {wanted:?} without impersonating a user"))
}

fn refused(user: &User, name: &str) -> Status {
    let why =
        format!("User {:?} cannot impersonate resource \"users\" in API group \"\" at the cluster scope", user.name);
    Status::new(Reason::Forbidden, format!("users {name:?} is forbidden: {why}"))
}

/// A service account has the groups of its namespace, unless others are named; everybody is among those with a
/// credential, but who has none.
fn groups_of(name: &str, mut groups: Vec<String>) -> Vec<String> {
    let account = name.strip_prefix(ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':'));
    if let Some((namespace, _)) = account.filter(|_| groups.is_empty()) {
        groups = super::account_groups(namespace);
    }
    let has = |wanted: &str| groups.iter().any(|group| group == wanted);
    let further = match name {
        ANONYMOUS if !has(UNAUTHENTICATED) => Some(UNAUTHENTICATED),
        ANONYMOUS => None,
        _ if has(AUTHENTICATED) || has(UNAUTHENTICATED) => None,
        _ => Some(AUTHENTICATED),
    };
    groups.extend(further.map(str::to_owned));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(headers: &[(&'static str, &'static str)]) -> Result<User, Status> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, http::HeaderValue::from_static(value));
        }
        impersonate(User::new("admin", [MASTERS.to_owned()]), &map)
    }

    #[test]
    fn groups_of_nobody_are_refused() {
        for header in [(GROUP, "x"), (UID, "1"), ("impersonate-extra-scopes", "view")] {
            let status = asked(&[header]).unwrap_err();
            assert_eq!(status.reason, Reason::InternalError, "{header:?}");
            assert!(status.message.ends_with("without impersonating a user"), "{status}");
            assert!(asked(&[("impersonate-user", ""), header]).is_err(), "{header:?}");
        }
        assert!(asked(&[]).unwrap().is_in(MASTERS));
    }

    #[test]
    fn the_other_has_the_groups_that_he_would_have() {
        let of = |headers: &[(&'static str, &'static str)]| asked(headers).unwrap().groups;
        let account = (USER, "system:serviceaccount:web:robot");
        assert_eq!(of(&[(USER, "x")]), ["system:authenticated"]);
        assert_eq!(of(&[(USER, "x"), (GROUP, "g")]), ["g", "system:authenticated"]);
        let all = ["system:serviceaccounts", "system:serviceaccounts:web", "system:authenticated"];
        assert_eq!(of(&[account]), all);
        assert_eq!(of(&[account, (GROUP, "g")]), ["g", "system:authenticated"]);
        assert_eq!(of(&[(USER, "system:anonymous")]), ["system:unauthenticated"]);
    }

    #[test]
    fn uid_and_extra_are_kept() {
        let key = ("impersonate-extra-acme.com%2fproject", "p");
        let user = asked(&[(USER, "x"), (UID, "u1"), key, ("impersonate-extra-scopes", "a")]).unwrap();
        assert_eq!(user.uid, "u1");
        assert_eq!(user.extra["acme.com/project"], ["p"]);
        assert_eq!(user.extra["scopes"], ["a"]);
    }

    #[test]
    fn only_those_who_may_do_everything_speak_for_others() {
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static(USER), "x".parse().unwrap())]);
        assert_eq!(impersonate(User::new("eve", []), &headers).unwrap_err().reason, Reason::Forbidden);
    }
}
