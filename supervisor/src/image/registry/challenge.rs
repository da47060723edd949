//! `WWW-Authenticate`: how a registry wants to be asked (RFC 9110, 11.6.1, and the distribution project's token protocol).

/// Parameters of one challenge that count; longer lists are cut.
const MAX_PARAMETERS: usize = 32;

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The best challenge among the values of all `WWW-Authenticate` headers.
pub(super) fn best<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let all: Vec<Challenge> = headers.flat_map(parse).collect();
    let bearer = all.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    bearer.or(all.first()).cloned()
}

fn parse(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = header.trim_start();
    while let Some((scheme, after)) = token(rest) {
        let (parameters, left) = parameters(after);
        let get = |key: &str| parameters.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = get("realm")
        {
            found.push(Challenge::Bearer { realm, service: get("service"), scope: get("scope") });
        }
        if left.len() == rest.len() {
            break;
        }
        rest = left;
    }
    found
}

/// `key=value` pairs up to the next scheme's name, and what follows.
fn parameters(text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while found.len() < MAX_PARAMETERS {
        let Some((key, after)) = token(rest) else { break };
        let Some(after) = after.trim_start().strip_prefix('=') else { break };
        let Some((value, after)) = value(after.trim_start()) else { break };
        found.push((key.to_ascii_lowercase(), value));
        rest = after.trim_start_matches([' ', '\t', ',']);
    }
    (found, rest)
}

fn token(text: &str) -> Option<(&str, &str)> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = token(text)?;
        return Some((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return quoted.get(at + 1..).map(|rest| (value, rest)),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull,push""#;
        let read = |headers: &[&str]| best(headers.iter().copied());
        assert_eq!(
            read(&[hub]),
            Some(bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:library/x:pull,push")
            ))
        );
        assert_eq!(read(&[r#"Basic realm="x", charset="UTF-8""#]), Some(Challenge::Basic));
        assert_eq!(read(&["basic realm=x"]), Some(Challenge::Basic));
        assert_eq!(read(&[r#"Basic realm="x", Bearer realm="https://a/t""#]), Some(bearer("https://a/t", None, None)));
        assert_eq!(
            read(&["Basic realm=x", r#"Bearer realm="https://a/\"t""#]),
            Some(bearer("https://a/\"t", None, None))
        );
        assert_eq!(read(&["Negotiate", "Basic"]), Some(Challenge::Basic));
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for header in
            ["", "Bearer", "Bearer realm=", r#"Bearer realm="unended"#, ",,,", "=", "\u{e4}", "Digest realm=\"x\""]
        {
            assert_eq!(best([header].into_iter()), None, "{header}");
        }
    }
}
