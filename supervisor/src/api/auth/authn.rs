//! From a credential to a user: client certificate, bearer token, or the kernel's word about a local peer (D31).

use std::collections::BTreeMap;
use std::fs;

use http::{HeaderMap, header};

use super::super::status::Status;
use super::super::streams::Tokens;
use super::authz::Groups;
use super::{ACCOUNT_PREFIX, MASTERS, READERS, User, account_groups};

/// Bytes of a bearer token.
const TOKEN_MAX: usize = 8 * 1024;

/// What a connection itself says about who is at its other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A client certificate of our CA.
    Certificate(User),
    /// The kernel's word (SO_PEERCRED).
    Local(User),
    /// Only what each request brings.
    Unknown,
}

/// Who asks; none when there is no credential at all.
///
/// # Errors
/// A credential that is not valid.
pub fn authenticate(peer: &Peer, headers: &HeaderMap, tokens: Option<&dyn Tokens>) -> Result<Option<User>, Status> {
    if let Peer::Certificate(user) = peer {
        return Ok(Some(user.clone()));
    }
    if let Some(token) = bearer(headers)? {
        let owner = tokens.and_then(|tokens| tokens.verify(token, &[])).ok_or_else(Status::unauthorized)?;
        return Ok(Some(of_token(&owner)));
    }
    match peer {
        Peer::Local(user) => Ok(Some(user.clone())),
        Peer::Certificate(_) | Peer::Unknown => Ok(None),
    }
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Status> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().map_err(|_| Status::unauthorized())?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && token.len() <= TOKEN_MAX => {
            Ok(Some(token.trim()))
        }
        Some(_) | None => Err(Status::unauthorized()),
    }
}

/// The user that a service account's token stands for.
pub fn of_token(owner: &super::super::streams::TokenOwner) -> User {
    let name = format!("{ACCOUNT_PREFIX}{}:{}", owner.namespace, owner.account);
    let mut user = User::new(name, account_groups(&owner.namespace));
    user.uid.clone_from(&owner.account_uid);
    if let Some((name, uid)) = &owner.pod {
        let extra = |key: &str, value: &str| (format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        user.extra = BTreeMap::from([extra("pod-name", name), extra("pod-uid", uid)]);
    }
    user
}

/// The user at the other end of a Unix socket: root and members of the administrators' group may do everything, members
/// of the readers' group may look. None for everybody else.
pub fn local_peer(uid: u32, gid: u32, groups: &Groups) -> Option<User> {
    if uid == 0 {
        return Some(User::new("root", [MASTERS.to_owned()]));
    }
    let name = user_name(uid).unwrap_or_else(|| uid.to_string());
    let is_in = |wanted: &Option<String>| wanted.as_deref().is_some_and(|group| is_member(&name, gid, group));
    if is_in(&groups.administrators) {
        Some(User::new(name, [MASTERS.to_owned()]))
    } else if is_in(&groups.readers) {
        Some(User::new(name, [READERS.to_owned()]))
    } else {
        None
    }
}

fn user_name(uid: u32) -> Option<String> {
    let table = fs::read_to_string("/etc/passwd").ok()?;
    let line = table.lines().find(|line| line.split(':').nth(2) == Some(uid.to_string().as_str()))?;
    line.split(':').next().map(str::to_owned)
}

fn is_member(user: &str, gid: u32, group: &str) -> bool {
    fs::read_to_string("/etc/group").is_ok_and(|table| is_member_of(&table, user, gid, group))
}

/// Whether a line of group(5) makes the user, whose primary group is `gid`, a member of the group.
fn is_member_of(table: &str, user: &str, gid: u32, group: &str) -> bool {
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, id, members] = fields.as_slice() else { return false };
        *name == group && (*id == gid.to_string() || members.split(',').any(|member| member == user))
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::streams::{IssuedToken, TokenOrder, TokenOwner};
    use super::*;

    struct One;
    impl Tokens for One {
        fn issue(&self, _: &TokenOrder) -> Result<IssuedToken, String> {
            Err(String::new())
        }
        fn configuration(&self) -> serde_json::Value {
            serde_json::Value::Null
        }
        fn keys(&self) -> serde_json::Value {
            serde_json::Value::Null
        }
        fn verify(&self, token: &str, _: &[String]) -> Option<TokenOwner> {
            (token == "good").then(|| TokenOwner {
                namespace: "web".to_owned(),
                account: "robot".to_owned(),
                ..TokenOwner::default()
            })
        }
    }

    fn headers(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, text.parse().unwrap())])
    }

    #[test]
    fn a_token_is_a_service_account() {
        let user = authenticate(&Peer::Unknown, &headers("Bearer good"), Some(&One)).unwrap().unwrap();
        assert_eq!(user.name, "system:serviceaccount:web:robot");
        assert_eq!(user.account_namespace(), Some("web"));
        assert!(user.is_in("system:serviceaccounts:web") && user.is_in("system:authenticated"));
    }

    #[test]
    fn a_bad_credential_is_worse_than_none() {
        for text in ["Bearer bad", "Basic eDp5", "nonsense"] {
            assert_eq!(authenticate(&Peer::Unknown, &headers(text), Some(&One)), Err(Status::unauthorized()));
        }
        assert_eq!(authenticate(&Peer::Unknown, &headers("Bearer good"), None), Err(Status::unauthorized()));
        assert_eq!(authenticate(&Peer::Unknown, &HeaderMap::new(), Some(&One)), Ok(None));
    }

    #[test]
    fn groups_are_primary_or_listed() {
        let table = "root:x:0:\npods:x:990:ann,bob\n";
        assert!(is_member_of(table, "bob", 1000, "pods"));
        assert!(is_member_of(table, "eve", 990, "pods"));
        assert!(!is_member_of(table, "eve", 1000, "pods"));
        assert!(!is_member_of(table, "bo", 1000, "pods"));
    }
}
