//! The one request that probes and hooks send (HG1, HG2).

use http::Request;
use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, REFERER};
use http::header::{TRAILER, TRANSFER_ENCODING, USER_AGENT};

use super::text;
use super::url::Url;

/// The body of a GET.
pub(super) type NoBody = http_body_util::Empty<bytes::Bytes>;

/// Headers that describe the message itself, which has no body whatever the manifest says, and those set apart.
const NOT_COPIED: [HeaderName; 5] = [HOST, USER_AGENT, CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER];

/// The headers of a handler, ready to send; otherwise the text of the error.
///
/// `User-Agent` is `agent` unless the handler has one, and an empty one is not sent. `Accept` is `*/*` unless the handler has
/// one; an empty one removes it. The rest is sent as given, repeats kept.
pub(super) fn headers(given: &[(String, String)], agent: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let chosen = first(given, &USER_AGENT).unwrap_or(agent).trim();
    if !chosen.is_empty() {
        headers.insert(USER_AGENT, value(USER_AGENT.as_str(), chosen)?);
    }
    let accept = first(given, &ACCEPT);
    if accept.is_none() {
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    }
    for (name, text) in given {
        let parsed = parse_name(name)?;
        let dropped = parsed == ACCEPT && accept == Some("");
        if !dropped && !NOT_COPIED.contains(&parsed) {
            headers.append(parsed, value(name, text)?);
        }
    }
    headers.append(CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

/// The host that the handler's headers claim (HG2).
pub(super) fn host(given: &[(String, String)]) -> Option<&str> {
    first(given, &HOST).filter(|host| !host.is_empty())
}

/// A GET of `url`; `from` is the URL that redirected to it.
pub(super) fn get(
    url: &Url,
    host: Option<&str>,
    headers: &HeaderMap,
    from: Option<&Url>,
) -> Result<Request<NoBody>, String> {
    let mut request = Request::new(NoBody::new());
    *request.uri_mut() = url.origin_form().parse().map_err(|error| format!("net/url: {error}"))?;
    let host = host.map_or_else(|| url.authority(), str::to_owned);
    let host = HeaderValue::try_from(host).map_err(|_| "http: invalid Host header".to_owned())?;
    request.headers_mut().insert(HOST, host);
    request.headers_mut().extend(headers.clone());
    // A page of a secure site is not told to an insecure one.
    if let Some(from) = from
        && (url.https || !from.https)
        && !headers.contains_key(REFERER)
        && let Ok(from) = HeaderValue::try_from(from.to_string())
    {
        request.headers_mut().insert(REFERER, from);
    }
    Ok(request)
}

fn first<'a>(given: &'a [(String, String)], name: &HeaderName) -> Option<&'a str> {
    given.iter().find(|(given, _)| given.eq_ignore_ascii_case(name.as_str())).map(|(_, value)| value.as_str())
}

fn parse_name(name: &str) -> Result<HeaderName, String> {
    let invalid = |_| format!("net/http: invalid header field name {}", text::quote(name.as_bytes()));
    HeaderName::try_from(name).map_err(invalid)
}

fn value(name: &str, value: &str) -> Result<HeaderValue, String> {
    let invalid = |_| format!("net/http: invalid header field value for {}", text::quote(name.as_bytes()));
    HeaderValue::try_from(value.trim_matches([' ', '\t'])).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    /// HG2
    #[test]
    fn headers_of_a_handler_and_their_defaults() {
        let agent = "kube-probe/1.36";
        for (pairs, sent) in [
            (&[][..], &["user-agent: kube-probe/1.36", "accept: */*", "connection: close"][..]),
            (&[("Accept", ""), ("Accept", "text/html")], &["user-agent: kube-probe/1.36", "connection: close"]),
            (&[("accept", "text/html")], &["user-agent: kube-probe/1.36", "accept: text/html", "connection: close"]),
            (&[("User-Agent", "")], &["accept: */*", "connection: close"]),
            (&[("user-agent", "mine")], &["user-agent: mine", "accept: */*", "connection: close"]),
            (
                &[("X-A", "1"), ("x-a", " 2"), ("Host", "web"), ("Content-Length", "5")],
                &["user-agent: kube-probe/1.36", "accept: */*", "x-a: 1", "x-a: 2", "connection: close"],
            ),
        ] {
            assert_eq!(shown(&headers(&given(pairs), agent).unwrap()), sent);
        }
    }

    #[test]
    fn a_header_that_cannot_be_sent_is_refused() {
        for (pair, text) in [
            (("a b", ""), r#"net/http: invalid header field name "a b""#),
            (("X-A", "1\r\nX-B: 2"), r#"net/http: invalid header field value for "X-A""#),
        ] {
            assert_eq!(headers(&given(&[pair]), "").unwrap_err(), text);
        }
    }

    #[test]
    fn a_secure_page_is_no_referer_of_an_insecure_one() {
        let (secure, plain) = (Url::new(true, "h", 1, "/"), Url::new(false, "h", 2, "/"));
        let referer = |url: &Url, from: &Url| {
            get(url, None, &HeaderMap::new(), Some(from)).unwrap().headers().get(REFERER).cloned()
        };
        assert_eq!(referer(&plain, &secure), None);
        assert_eq!(referer(&secure, &plain).unwrap(), "http://h:2/");
    }
}
