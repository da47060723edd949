//! The URLs that probes ask: built from a handler, or followed from a `Location`.

use super::tcp::join;
use super::text;

/// An `http` or `https` URL; path and query are as they go on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) https: bool,
    /// Without brackets.
    pub(super) host: String,
    /// None: the scheme's own, which is not shown.
    port: Option<u16>,
    /// Empty, or begins with a slash.
    path: String,
    query: Option<String>,
    fragment: Option<String>,
}

/// What a `Location` leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reference {
    /// The same host.
    To(Url),
    /// Another host, or none: not followed (HG3).
    Elsewhere,
    /// The same host by a scheme that isn't HTTP.
    Unsupported(String),
    /// The text of the error.
    Bad(String),
}

impl Url {
    /// HG1. `path` may carry a query and a fragment; a path with a broken `%` escape is taken as it stands.
    pub(super) fn new(https: bool, host: &str, port: u16, path: &str) -> Self {
        let (path, query, fragment) = split(path);
        let mut url =
            Self { https, host: host.to_owned(), port: Some(port), path: String::new(), query: None, fragment: None };
        url.path = rooted(path_text(path));
        url.query = query.map(query_text);
        url.fragment = fragment.map(str::to_owned);
        url
    }

    /// The port to connect to.
    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.https { 443 } else { 80 })
    }

    /// `host:port`, as in the `Host` header.
    pub(super) fn authority(&self) -> String {
        match self.port {
            Some(port) => join(&self.host, port),
            None if self.host.contains(':') => format!("[{}]", self.host),
            None => self.host.clone(),
        }
    }

    fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    /// The request's target.
    pub(super) fn origin_form(&self) -> String {
        let path = if self.path.is_empty() { "/" } else { &self.path };
        match &self.query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        }
    }

    /// The same over plain HTTP (LC3).
    pub(super) fn plain(&self) -> Self {
        Self { https: false, ..self.clone() }
    }

    /// Where `location`, received from this URL, leads (RFC 3986, 5.2).
    pub(super) fn follow(&self, location: &str) -> Reference {
        let bad = |why: &str| Reference::Bad(format!("parse {}: {why}", text::quote(location.as_bytes())));
        if location.bytes().any(|byte| byte.is_ascii_control()) {
            return bad("net/url: invalid control character in URL");
        }
        let (scheme, rest) = match scheme(location) {
            Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
            None if location.starts_with("//") => (self.scheme().to_owned(), location),
            None => return Reference::To(self.relative(location)),
        };
        let rest = rest.strip_prefix("//").unwrap_or_default();
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (host, port) = match host_and_port(authority) {
            (host, _) if host != self.host => return Reference::Elsewhere,
            (host, "") => (host, None),
            (host, port) => match port.parse() {
                Ok(number) => (host, Some(number)),
                Err(_) => {
                    return bad(&format!("invalid port {} after host", text::quote(format!(":{port}").as_bytes())));
                }
            },
        };
        match scheme.as_str() {
            "http" | "https" => Reference::To(self.absolute(scheme == "https", host, port, rest)),
            _ => Reference::Unsupported(scheme),
        }
    }

    fn absolute(&self, https: bool, host: &str, port: Option<u16>, rest: &str) -> Self {
        let (path, query, fragment) = split(rest);
        Self {
            https,
            host: host.to_owned(),
            port,
            path: without_dots(&path_text(path)),
            query: query.map(query_text),
            fragment: fragment.map(str::to_owned).or_else(|| self.fragment.clone()),
        }
    }

    fn relative(&self, location: &str) -> Self {
        let (path, query, fragment) = split(location);
        let path = path_text(path);
        let mut to = self.clone();
        if !path.is_empty() || query.is_some() {
            to.query = query.map(query_text);
        }
        if path.starts_with('/') {
            to.path = without_dots(&path);
        } else if !path.is_empty() {
            let directory = self.path.rfind('/').map_or("/", |slash| &self.path[..=slash]);
            to.path = without_dots(&format!("{directory}{path}"));
        }
        if let Some(fragment) = fragment {
            to.fragment = Some(fragment.to_owned());
        }
        to
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority(), self.path)?;
        if let Some(query) = &self.query {
            write!(f, "?{query}")?;
        }
        if let Some(fragment) = &self.fragment {
            write!(f, "#{fragment}")?;
        }
        Ok(())
    }
}

/// Is this a URL with a scheme of its own?
pub(super) fn is_absolute(location: &str) -> bool {
    scheme(location).is_some()
}

fn scheme(location: &str) -> Option<(&str, &str)> {
    let (name, rest) = location.split_once(':')?;
    let mut chars = name.chars();
    let valid = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    valid.then_some((name, rest))
}

/// Host and port as written. Credentials in front of the host are dropped: they are never sent (D36).
fn host_and_port(authority: &str) -> (&str, &str) {
    let authority = authority.rsplit('@').next().unwrap_or_default();
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').unwrap_or_default()),
        None => authority.split_once(':').unwrap_or((authority, "")),
    }
}

/// Path, query, fragment. A reference with a broken escape or a control character is all path.
fn split(reference: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, fragment) = match reference.split_once('#') {
        Some((rest, fragment)) => (rest, Some(fragment)),
        None => (reference, None),
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    if unescape(path).is_none() || reference.bytes().any(|byte| byte.is_ascii_control()) {
        return (reference, None, None);
    }
    (path, query, fragment)
}

fn rooted(path: String) -> String {
    if path.is_empty() || path.starts_with('/') { path } else { format!("/{path}") }
}

/// The path as written when it is valid, else escaped.
fn path_text(path: &str) -> String {
    let written = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@[]/%".contains(&byte);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte);
    match unescape(path) {
        Some(_) if path.bytes().all(written) => path.to_owned(),
        Some(bytes) => escape(&bytes, plain),
        None => escape(path.as_bytes(), plain),
    }
}

/// Queries are sent as written but for what would break the request line.
fn query_text(query: &str) -> String {
    escape(query.as_bytes(), |byte| byte.is_ascii_graphic() && !b"\"<>".contains(&byte))
}

fn escape(bytes: &[u8], keep: impl Fn(u8) -> bool) -> String {
    let mut escaped = String::with_capacity(bytes.len());
    for &byte in bytes {
        if keep(byte) { escaped.push(char::from(byte)) } else { escaped.push_str(&format!("%{byte:02X}")) }
    }
    escaped
}

/// None when a `%` is not followed by two hex digits.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut unescaped = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            unescaped.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        unescaped.push(digit()? * 16 + digit()?);
    }
    Some(unescaped)
}

/// RFC 3986, 5.2.4.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let segments = path.strip_prefix('/').unwrap_or(path).split('/');
    let mut ends_open = false;
    for segment in segments {
        ends_open = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    if path.is_empty() {
        return String::new();
    }
    let end = if ends_open && !kept.is_empty() { "/" } else { "" };
    format!("/{}{end}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HG1
    #[test]
    fn a_handler_becomes_a_url() {
        for (host, path, shown, sent) in [
            ("10.0.0.5", "/", "http://10.0.0.5:8080/", "/"),
            ("10.0.0.5", "", "http://10.0.0.5:8080", "/"),
            ("10.0.0.5", "healthz", "http://10.0.0.5:8080/healthz", "/healthz"),
            ("10.0.0.5", "/a?x=1&y=%20", "http://10.0.0.5:8080/a?x=1&y=%20", "/a?x=1&y=%20"),
            ("10.0.0.5", "?x=1", "http://10.0.0.5:8080?x=1", "/?x=1"),
            ("10.0.0.5", "/a b(c)", "http://10.0.0.5:8080/a%20b%28c%29", "/a%20b%28c%29"),
            ("10.0.0.5", "/a(c)%2Fd", "http://10.0.0.5:8080/a(c)%2Fd", "/a(c)%2Fd"),
            ("10.0.0.5", "/100%?x", "http://10.0.0.5:8080/100%25%3Fx", "/100%25%3Fx"),
            ("10.0.0.5", "/grün", "http://10.0.0.5:8080/gr%C3%BCn", "/gr%C3%BCn"),
            ("10.0.0.5", "/a#b", "http://10.0.0.5:8080/a#b", "/a"),
            ("10.0.0.5", "/a?b c\r\nX: y", "http://10.0.0.5:8080/a%3Fb%20c%0D%0AX:%20y", "/a%3Fb%20c%0D%0AX:%20y"),
            ("fd00::5", "/", "http://[fd00::5]:8080/", "/"),
            ("web", "/", "http://web:8080/", "/"),
        ] {
            let url = Url::new(false, host, 8080, path);
            assert_eq!((url.to_string().as_str(), url.origin_form().as_str()), (shown, sent));
        }
        assert_eq!(Url::new(true, "h", 443, "/").to_string(), "https://h:443/");
    }

    /// HG3
    #[test]
    fn a_location_is_followed_from_where_it_came() {
        let from = Url::new(false, "10.0.0.5", 8080, "/a/b?x=1");
        for (location, to) in [
            ("/login", "http://10.0.0.5:8080/login"),
            ("c", "http://10.0.0.5:8080/a/c"),
            ("../c/./d", "http://10.0.0.5:8080/c/d"),
            ("../../../..", "http://10.0.0.5:8080/"),
            (".", "http://10.0.0.5:8080/a/"),
            ("?y=2", "http://10.0.0.5:8080/a/b?y=2"),
            ("#top", "http://10.0.0.5:8080/a/b?x=1#top"),
            ("//10.0.0.5/x", "http://10.0.0.5/x"),
            ("//example.com/x", "Elsewhere"),
            ("https://10.0.0.5/x?y", "https://10.0.0.5/x?y"),
            ("HTTP://user:secret@10.0.0.5:81", "http://10.0.0.5:81"),
            ("http://10.0.0.5@example.com/", "Elsewhere"),
            ("http://[fd00::5]/", "Elsewhere"),
            ("http:///x", "Elsewhere"),
            ("mailto:a@10.0.0.5", "Elsewhere"),
            ("ftp://10.0.0.5/", r#"Unsupported("ftp")"#),
            ("http://10.0.0.5:x/", r#"Bad("parse \"http://10.0.0.5:x/\": invalid port \":x\" after host")"#),
            ("/a\tb", r#"Bad("parse \"/a\\tb\": net/url: invalid control character in URL")"#),
        ] {
            let shown = match from.follow(location) {
                Reference::To(url) => url.to_string(),
                other @ (Reference::Elsewhere | Reference::Unsupported(_) | Reference::Bad(_)) => format!("{other:?}"),
            };
            assert_eq!(shown, to, "{location}");
        }
    }

    #[test]
    fn the_scheme_gives_the_port_that_is_not_written() {
        let from = Url::new(false, "h", 8080, "/");
        for (location, port) in [("http://h/", 80), ("https://h/", 443), ("https://h:1/", 1)] {
            let Reference::To(url) = from.follow(location) else { panic!("{location}") };
            assert_eq!(url.port(), port);
        }
    }
}
