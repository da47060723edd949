//! Who a container's process runs as (D15, rules US1-US4).
//!
//! The one place where a user or group is parsed: of manifests, image configurations, and the image's own passwd and group
//! files. What looks like a number is a number and never a name; what looks like an odd number is refused, so that
//! nothing reads it as 0.

use super::launch::{Identity, User};

/// Largest user or group id (rule US4).
pub const MAX_ID: u32 = 0x7fff_ffff;
/// Largest passwd or group file that is read.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// Most lines of a passwd or group file.
pub const MAX_FILE_LINES: usize = 10_000;

/// Why a user cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    #[error("is out of range: ids are 0 to {MAX_ID}")]
    OutOfRange,
    #[error("{0:?} is neither a number nor a name")]
    Malformed(String),
    #[error("no matching entries in passwd file")]
    NoSuchUser,
    #[error("no matching entries in group file")]
    NoSuchGroup,
    #[error("the entry of {0:?} has an unusable id")]
    BadEntry(String),
    #[error("runAsNonRoot is set and the user is root")]
    Root,
    #[error("{0} is larger than {MAX_FILE_BYTES} bytes")]
    FileTooLarge(&'static str),
    #[error("{0} has more than {MAX_FILE_LINES} lines")]
    TooManyLines(&'static str),
    #[error("{0} contains a NUL byte")]
    Nul(&'static str),
}

/// The user and the home directory that goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub identity: Identity,
    pub home: String,
}

/// The image's files; empty when they do not exist.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    users: Vec<UserEntry>,
    groups: Vec<GroupEntry>,
}

#[derive(Debug, Clone)]
struct UserEntry {
    name: String,
    uid: Option<u32>,
    gid: Option<u32>,
    home: String,
}

#[derive(Debug, Clone)]
struct GroupEntry {
    name: String,
    gid: Option<u32>,
    members: Vec<String>,
}

impl Accounts {
    /// From the contents of passwd(5) and group(5). Lines that are neither are skipped, as the C library does.
    pub fn parse(passwd: &[u8], group: &[u8]) -> Result<Self, UserError> {
        Ok(Self {
            users: lines(passwd, "/etc/passwd")?.iter().filter_map(|line| UserEntry::parse(line)).collect(),
            groups: lines(group, "/etc/group")?.iter().filter_map(|line| GroupEntry::parse(line)).collect(),
        })
    }

    fn user_named(&self, name: &str) -> Option<&UserEntry> {
        self.users.iter().find(|user| user.name == name)
    }

    fn user_with(&self, uid: u32) -> Option<&UserEntry> {
        self.users.iter().find(|user| user.uid == Some(uid))
    }
}

impl UserEntry {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?, fields.next()?);
        let home = fields.nth(1).unwrap_or_default();
        Some(Self { name: name.to_owned(), uid: id(uid), gid: id(gid), home: home.to_owned() })
    }

    fn usable_home(&self) -> &str {
        let usable = self.home.starts_with('/') && !self.home.chars().any(char::is_control);
        if usable { &self.home } else { NO_HOME }
    }
}

impl GroupEntry {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let gid = fields.next()?;
        let members = fields.next().unwrap_or_default();
        let members = members.split(',').map(|member| member.trim().to_owned()).collect();
        Some(Self { name: name.to_owned(), gid: id(gid), members })
    }
}

/// `HOME` of a user without a usable entry.
const NO_HOME: &str = "/";

fn lines<'a>(file: &'a [u8], name: &'static str) -> Result<Vec<std::borrow::Cow<'a, str>>, UserError> {
    if file.len() > MAX_FILE_BYTES {
        return Err(UserError::FileTooLarge(name));
    }
    if memchr::memchr(0, file).is_some() {
        return Err(UserError::Nul(name));
    }
    let lines: Vec<_> = file.split(|&byte| byte == b'\n').map(String::from_utf8_lossy).collect();
    if lines.len() > MAX_FILE_LINES + 1 {
        return Err(UserError::TooManyLines(name));
    }
    Ok(lines)
}

/// A decimal id in range.
fn id(text: &str) -> Option<u32> {
    match parse(text) {
        Ok(NameOrId::Id(id)) => Some(id),
        Ok(NameOrId::Name(_)) | Err(_) => None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NameOrId<'a> {
    Name(&'a str),
    Id(u32),
}

fn parse(text: &str) -> Result<NameOrId<'_>, UserError> {
    let malformed = || UserError::Malformed(text.to_owned());
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        let id = text.parse().map_err(|_| UserError::OutOfRange)?;
        return if id <= MAX_ID { Ok(NameOrId::Id(id)) } else { Err(UserError::OutOfRange) };
    }
    let hexadecimal = text.starts_with("0x") || text.starts_with("0X");
    let signed = text.starts_with(['+', '-']);
    let odd = text.chars().any(|character| character.is_whitespace() || character.is_control() || character == '\0');
    if text.is_empty() || hexadecimal || signed || odd {
        return Err(malformed());
    }
    Ok(NameOrId::Name(text))
}

/// `uid`, `name`, `uid:gid`, `name:group`; empty is uid 0.
pub fn resolve(wanted: &User, accounts: &Accounts) -> Result<Resolved, UserError> {
    let (user, group) = match wanted.name.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted.name.as_str(), None),
    };
    let (uid, entry) = find_user(user, accounts)?;
    if wanted.non_root && uid == 0 {
        return Err(UserError::Root);
    }
    let gid = match (wanted.group, group) {
        (Some(gid), _) if gid > MAX_ID => return Err(UserError::OutOfRange),
        (Some(gid), _) => gid,
        (None, Some(group)) => find_group(group, accounts)?,
        (None, None) => match entry {
            Some(entry) => entry.gid.ok_or_else(|| UserError::BadEntry(entry.name.clone()))?,
            None => 0,
        },
    };
    let groups = groups(wanted, gid, entry, accounts)?;
    let home = entry.map_or(NO_HOME, UserEntry::usable_home).to_owned();
    Ok(Resolved { identity: Identity { uid, gid, groups }, home })
}

fn find_user<'a>(user: &str, accounts: &'a Accounts) -> Result<(u32, Option<&'a UserEntry>), UserError> {
    let wanted = if user.is_empty() { NameOrId::Id(0) } else { parse(user)? };
    match wanted {
        NameOrId::Id(uid) => Ok((uid, accounts.user_with(uid))),
        NameOrId::Name(name) => {
            let entry = accounts.user_named(name).ok_or(UserError::NoSuchUser)?;
            let uid = entry.uid.ok_or_else(|| UserError::BadEntry(name.to_owned()))?;
            Ok((uid, Some(entry)))
        }
    }
}

fn find_group(group: &str, accounts: &Accounts) -> Result<u32, UserError> {
    match parse(group)? {
        NameOrId::Id(gid) => Ok(gid),
        NameOrId::Name(name) => {
            let entry = accounts.groups.iter().find(|entry| entry.name == name).ok_or(UserError::NoSuchGroup)?;
            entry.gid.ok_or_else(|| UserError::BadEntry(name.to_owned()))
        }
    }
}

/// The primary group first (D16), then what the Pod says, then (`Merge`) what the image says; each once.
fn groups(wanted: &User, gid: u32, entry: Option<&UserEntry>, accounts: &Accounts) -> Result<Vec<u32>, UserError> {
    if wanted.supplementary.iter().any(|&gid| gid > MAX_ID) {
        return Err(UserError::OutOfRange);
    }
    let mut all = vec![gid];
    all.extend(&wanted.supplementary);
    if let (true, Some(user)) = (wanted.merge_image_groups, entry) {
        let member = |group: &&GroupEntry| group.members.contains(&user.name);
        all.extend(accounts.groups.iter().filter(member).filter_map(|group| group.gid));
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|&gid| seen.insert(gid));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        web:x:101:102:web:/srv/web:/bin/false\n\
        0x0:x:0:0::/:/bin/sh\n\
        1000:x:0:0::/evil:/bin/sh\n\
        big:x:4294967296:5::/big:\n\
        homeless:x:7:7::/a\u{1b}[31m:\n\
        broken\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nextra:x:200:web, other\nstaff:x:50:other,web\nhuge:x:9999999999:web\n";

    fn user(name: &str) -> User {
        User { name: name.to_owned(), group: None, supplementary: vec![], merge_image_groups: true, non_root: false }
    }

    fn accounts() -> Accounts {
        Accounts::parse(PASSWD.as_bytes(), GROUP.as_bytes()).unwrap()
    }

    fn resolved(name: &str) -> Result<(u32, u32, Vec<u32>, String), UserError> {
        let found = resolve(&user(name), &accounts())?;
        Ok((found.identity.uid, found.identity.gid, found.identity.groups, found.home))
    }

    #[test]
    fn users_resolve_as_the_image_says() {
        for (name, uid, gid, groups, home) in [
            ("", 0, 0, vec![0], "/root"),
            ("0", 0, 0, vec![0], "/root"),
            ("web", 101, 102, vec![102, 200, 50], "/srv/web"),
            ("101", 101, 102, vec![102, 200, 50], "/srv/web"),
            ("web:staff", 101, 50, vec![50, 200], "/srv/web"),
            ("web:7", 101, 7, vec![7, 200, 50], "/srv/web"),
            ("4000", 4000, 0, vec![0], "/"),
            ("4000:4001", 4000, 4001, vec![4001], "/"),
            ("2147483647", 2_147_483_647, 0, vec![0], "/"),
            // P18: a name of digits is a number.
            ("1000", 1000, 0, vec![0], "/"),
            ("homeless", 7, 7, vec![7], "/"),
        ] {
            assert_eq!(resolved(name), Ok((uid, gid, groups, home.to_owned())), "{name:?}");
        }
    }

    /// P18
    #[test]
    fn odd_numbers_are_refused() {
        use UserError::{BadEntry, Malformed, NoSuchGroup, NoSuchUser, OutOfRange};
        let malformed = |text: &str| Malformed(text.to_owned());
        for (name, error) in [
            ("2147483648", OutOfRange),
            ("4294967296", OutOfRange),
            ("99999999999999999999999", OutOfRange),
            ("-1", malformed("-1")),
            ("+0", malformed("+0")),
            (" 0", malformed(" 0")),
            ("0 ", malformed("0 ")),
            ("0x0", malformed("0x0")),
            ("web:", malformed("")),
            ("web:+1", malformed("+1")),
            ("web:4294967296", OutOfRange),
            ("root\n", malformed("root\n")),
            ("nobody", NoSuchUser),
            ("web:nogroup", NoSuchGroup),
            ("web:huge", BadEntry("huge".to_owned())),
            ("big", BadEntry("big".to_owned())),
        ] {
            assert_eq!(resolved(name), Err(error), "{name:?}");
        }
    }

    #[test]
    fn non_root_is_checked_on_the_number() {
        for (name, refused) in [("", true), ("root", true), ("0:101", true), ("web", false), ("1000", false)] {
            let wanted = User { non_root: true, ..user(name) };
            assert_eq!(resolve(&wanted, &accounts()).is_err(), refused, "{name:?}");
        }
    }

    /// P20, D16
    #[test]
    fn strict_takes_no_group_of_the_image() {
        let wanted = User { merge_image_groups: false, supplementary: vec![3, 102, 3], ..user("web") };
        assert_eq!(resolve(&wanted, &accounts()).unwrap().identity.groups, [102, 3]);
        let grouped = User { group: Some(9), ..user("web:staff") };
        assert_eq!(resolve(&grouped, &accounts()).unwrap().identity.gid, 9);
        let beyond = User { supplementary: vec![MAX_ID + 1], ..user("web") };
        assert_eq!(resolve(&beyond, &accounts()), Err(UserError::OutOfRange));
    }

    /// P19
    #[test]
    fn files_have_limits() {
        let at = |bytes: &[u8]| Accounts::parse(bytes, b"").map(|_| ());
        assert_eq!(at(&vec![b'a'; MAX_FILE_BYTES]), Ok(()));
        assert_eq!(at(&vec![b'a'; MAX_FILE_BYTES + 1]), Err(UserError::FileTooLarge("/etc/passwd")));
        assert_eq!(at("a\n".repeat(MAX_FILE_LINES).as_bytes()), Ok(()));
        assert_eq!(at("a\n".repeat(MAX_FILE_LINES + 1).as_bytes()), Err(UserError::TooManyLines("/etc/passwd")));
        assert_eq!(at(b"root:x:0\0:0"), Err(UserError::Nul("/etc/passwd")));
    }
}
