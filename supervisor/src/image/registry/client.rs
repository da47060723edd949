//! The distribution protocol: manifests and blobs of one repository, from its mirrors or itself.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, StatusCode, header};
use rustls::RootCertStore;
use serde::Deserialize;
use url::Url;

use super::challenge::{self, Challenge};
use super::connect::ConnectError;
use super::http::{Ask, Http, HttpError, Reply, shown};
use super::names::Names;
use super::wire::Facts;
use super::{Endpoint, Failure, Job, Login, Secret, tls};
use crate::image::digest::Digest;

/// How often a blob is taken up again without a new byte in between.
const MAX_RESUMES: u32 = 5;
/// Wait before a blob is taken up again; twice as long each time.
const RESUME_WAIT: Duration = Duration::from_millis(200);
/// Bytes of an error's document.
const MAX_ERROR_BYTES: u64 = 64 << 10;
/// Bytes of a token's document.
const MAX_TOKEN_BYTES: u64 = 1 << 20;
/// Characters of a registry's own words in an error of ours.
const MAX_DETAIL_CHARS: usize = 300;
/// Every kind of manifest that is understood.
const MANIFESTS: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Where content goes as it comes.
pub(super) trait Sink {
    async fn put(&mut self, content: &[u8]) -> std::io::Result<()>;
}

/// All endpoints of a repository.
pub(super) struct Client {
    hosts: Vec<Host>,
    /// The endpoint that had the manifest has the blobs, too.
    preferred: Cell<usize>,
}

struct Host {
    endpoint: Endpoint,
    http: Http,
    /// Plain HTTP was found to be all that it speaks.
    plain: Cell<bool>,
    login: RefCell<Option<Authorized>>,
}

/// A header that was accepted, and the place of its credential in the endpoint's list.
#[derive(Debug, Clone)]
struct Authorized {
    header: HeaderValue,
    credential: Option<usize>,
}

/// What of a repository.
#[derive(Debug, Clone)]
enum What<'a> {
    Manifest(&'a str),
    Blob(&'a Digest),
    Tags,
}

impl What<'_> {
    fn path(&self, repository: &str) -> String {
        match self {
            Self::Manifest(reference) => format!("/v2/{repository}/manifests/{reference}"),
            Self::Blob(digest) => format!("/v2/{repository}/blobs/{digest}"),
            Self::Tags => format!("/v2/{repository}/tags/list?n=1"),
        }
    }
}

impl Client {
    pub(super) fn new(job: Job, roots: &RootCertStore, resolv: &str, hosts: &str) -> Result<Self, String> {
        let made = job.endpoints.into_iter().map(|endpoint| {
            let tls = tls::config(&endpoint, roots).map_err(|error| format!("{}: {error}", endpoint.host))?;
            let http = Http::new(Names::new(resolv, hosts)?, tls, endpoint.insecure);
            Ok(Host { endpoint, http, plain: Cell::new(false), login: RefCell::default() })
        });
        Ok(Self { hosts: made.collect::<Result<_, String>>()?, preferred: Cell::new(0) })
    }

    /// A manifest or an index.
    pub(super) async fn manifest(&self, reference: &str, limit: u64, sink: &mut impl Sink) -> Result<Facts, Failure> {
        let by_digest = reference.contains(':');
        let mut failure = Failure::Fetcher("no endpoint".to_owned());
        for (number, host) in self.in_order() {
            if host.endpoint.digests_only && !by_digest {
                continue;
            }
            match host.manifest(reference, limit).await {
                Ok((bytes, facts)) => {
                    self.preferred.set(number);
                    sink.put(&bytes).await.map_err(gone)?;
                    return Ok(Facts { endpoint: number, ..facts });
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// A blob from `offset` on.
    pub(super) async fn blob(
        &self,
        digest: &Digest,
        size: u64,
        offset: u64,
        sink: &mut impl Sink,
    ) -> Result<Facts, Failure> {
        let mut state = Transfer { digest, size, at: offset, resumed: 0, failed: None };
        let mut failure = Failure::Fetcher("no endpoint".to_owned());
        for (number, host) in self.in_order() {
            match host.blob(&mut state, sink).await {
                Ok(()) => {
                    let credential = host.source();
                    return Ok(Facts { endpoint: number, credential, resumed: state.resumed, ..Facts::default() });
                }
                Err(Failure::Fetcher(text)) => return Err(Failure::Fetcher(text)),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn in_order(&self) -> impl Iterator<Item = (usize, &Host)> {
        let all = self.hosts.iter().enumerate();
        let first = self.preferred.get();
        let (before, after) = (all.clone().take(first), all.skip(first));
        after.chain(before)
    }
}

fn gone(error: std::io::Error) -> Failure {
    Failure::Fetcher(format!("the puller has gone: {error}"))
}

/// How far a blob has come.
struct Transfer<'a> {
    digest: &'a Digest,
    size: u64,
    at: u64,
    resumed: u32,
    failed: Option<Failure>,
}

impl Host {
    async fn manifest(&self, reference: &str, limit: u64) -> Result<(Vec<u8>, Facts), Failure> {
        let reply = self.get(&What::Manifest(reference), 0).await?;
        let header = |name: &str| reply.header(name).map(str::to_owned);
        let facts = Facts {
            content_type: header("content-type"),
            digest: header("docker-content-digest"),
            credential: self.source(),
            ..Facts::default()
        };
        let bytes = self.http.document(reply, limit).await.map_err(|error| self.failure(error))?;
        Ok((bytes, facts))
    }

    /// Fetches the rest of a blob; a broken connection is taken up where it broke.
    async fn blob(&self, state: &mut Transfer<'_>, sink: &mut impl Sink) -> Result<(), Failure> {
        let mut fruitless = 0;
        loop {
            let before = state.at;
            match self.blob_once(state, sink).await {
                Ok(()) => return Ok(()),
                Err(error) if !error.is_unavailable() => return Err(error),
                Err(error) => {
                    fruitless = if state.at > before { 0 } else { fruitless + 1 };
                    if fruitless >= MAX_RESUMES {
                        return Err(state.failed.take().unwrap_or(error));
                    }
                    state.failed = Some(error);
                    state.resumed += 1;
                    tokio::time::sleep(RESUME_WAIT * 2u32.pow(fruitless)).await;
                }
            }
        }
    }

    async fn blob_once(&self, state: &mut Transfer<'_>, sink: &mut impl Sink) -> Result<(), Failure> {
        if state.at == state.size {
            return Ok(());
        }
        let mut reply = self.get(&What::Blob(state.digest), state.at).await?;
        // A server that knows no ranges sends all of it again.
        let mut skip = if reply.status == StatusCode::PARTIAL_CONTENT { 0 } else { state.at };
        self.check_range(&reply, state.at)?;
        while let Some(piece) = reply.next().await.map_err(|error| self.failure(error))? {
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= known as u64;
            let new = piece.get(known..).unwrap_or_default();
            if new.len() as u64 > state.size - state.at {
                return Err(self.protocol(format!("blob {} is larger than its manifest says", state.digest)));
            }
            sink.put(new).await.map_err(gone)?;
            state.at += new.len() as u64;
        }
        if state.at < state.size {
            let detail = format!("blob {} ended after {} of {} bytes", state.digest, state.at, state.size);
            return Err(Failure::Unavailable { host: self.name(), detail });
        }
        self.http.done(reply);
        Ok(())
    }

    fn check_range(&self, reply: &Reply, at: u64) -> Result<(), Failure> {
        if reply.status != StatusCode::PARTIAL_CONTENT {
            return Ok(());
        }
        let range = reply.header(header::CONTENT_RANGE).unwrap_or_default();
        let start = range.strip_prefix("bytes ").and_then(|rest| rest.split('-').next());
        if start.and_then(|start| start.trim().parse::<u64>().ok()) == Some(at) {
            return Ok(());
        }
        Err(self.protocol(format!("answers bytes from {at} on with {:?}", clip(range))))
    }

    fn name(&self) -> String {
        self.endpoint.host.clone()
    }

    fn protocol(&self, detail: String) -> Failure {
        Failure::Protocol { host: self.name(), detail }
    }

    fn failure(&self, error: HttpError) -> Failure {
        let host = self.name();
        match error {
            HttpError::Connect(ConnectError::Unreachable(detail)) | HttpError::Broken(detail) => {
                Failure::Unavailable { host, detail }
            }
            HttpError::Connect(ConnectError::NotTls(detail)) => {
                let hint = "; for plain HTTP declare the registry insecure in /etc/containers/registries.conf";
                Failure::Untrusted { host, detail: detail + hint }
            }
            HttpError::Connect(ConnectError::Untrusted(detail)) => Failure::Untrusted { host, detail },
            HttpError::Connect(ConnectError::Forbidden(detail)) | HttpError::Protocol(detail) => {
                Failure::Protocol { host, detail }
            }
        }
    }

    /// [`Credential::source`] of the login that works.
    fn source(&self) -> Option<usize> {
        let number = self.login.borrow().as_ref()?.credential?;
        self.endpoint.credentials.get(number).map(|credential| credential.source)
    }

    /// A successful answer, logged in as far as needed.
    async fn get(&self, what: &What<'_>, offset: u64) -> Result<Reply, Failure> {
        let known = self.login.borrow().clone();
        let mut used = known.clone();
        let mut rest = self.candidates(known.as_ref().and_then(|known| known.credential));
        loop {
            let reply = self.ask(what, offset, used.as_ref()).await?;
            if matches!(reply.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
                *self.login.borrow_mut() = used;
                return Ok(reply);
            }
            let challenge = challenge::best(
                reply.headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()),
            );
            let refused = matches!(reply.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            let (Some(challenge), true) = (challenge, refused) else {
                return Err(self.refusal(what, reply, used.as_ref()).await);
            };
            let Some(candidate) = rest.next() else {
                return Err(self.refusal(what, reply, used.as_ref()).await);
            };
            used = self.authorize(&challenge, candidate).await?;
            if used.is_none() {
                return Err(self.refusal(what, reply, None).await);
            }
        }
    }

    /// Which logins to try: the one that worked first, then all in order; anonymous when there are none.
    fn candidates(&self, known: Option<usize>) -> std::vec::IntoIter<Option<usize>> {
        let all = 0..self.endpoint.credentials.len();
        let list: Vec<Option<usize>> = if all.is_empty() {
            vec![None]
        } else {
            known.into_iter().chain(all.filter(|number| Some(*number) != known)).map(Some).collect()
        };
        list.into_iter()
    }

    fn url(&self, path: &str, plain: bool) -> Result<Url, Failure> {
        let scheme = if plain { "http" } else { "https" };
        let text = format!("{scheme}://{}{path}", self.endpoint.host);
        Url::parse(&text).map_err(|error| self.protocol(format!("not an address: {error}")))
    }

    async fn ask(&self, what: &What<'_>, offset: u64, login: Option<&Authorized>) -> Result<Reply, Failure> {
        let path = what.path(&self.endpoint.repository);
        let accept = match what {
            What::Manifest(_) => MANIFESTS,
            What::Blob(_) | What::Tags => &["*/*"],
        };
        let authorization = login.map(|login| login.header.clone());
        let mut ask =
            Ask { url: self.url(&path, self.plain.get())?, accept, range_from: offset, authorization, form: None };
        match self.http.ask(&ask).await {
            Err(HttpError::Connect(ConnectError::NotTls(_) | ConnectError::Unreachable(_)))
                if self.endpoint.insecure && !self.plain.get() =>
            {
                ask.url = self.url(&path, true)?;
                let reply = self.http.ask(&ask).await.map_err(|error| self.failure(error))?;
                self.plain.set(true);
                Ok(reply)
            }
            result => result.map_err(|error| self.failure(error)),
        }
    }

    /// The header for a challenge; none when there is nothing to log in with.
    async fn authorize(&self, challenge: &Challenge, candidate: Option<usize>) -> Result<Option<Authorized>, Failure> {
        let credential = candidate.and_then(|number| self.endpoint.credentials.get(number));
        let header = match (challenge, credential.map(|credential| &credential.login)) {
            (_, Some(Login::RegistryToken(token))) => bearer(token),
            (Challenge::Basic, Some(Login::Password { user, password })) => basic(user, password),
            (Challenge::Basic, Some(Login::IdentityToken(_)) | None) => return Ok(None),
            (Challenge::Bearer { realm, service, scope }, login) => {
                let token = self.token(realm, service.as_deref(), scope.as_deref(), login).await?;
                bearer(&token)
            }
        };
        let mut header = header.ok_or_else(|| self.protocol("a token that no header can carry".to_owned()))?;
        header.set_sensitive(true);
        Ok(Some(Authorized { header, credential: candidate }))
    }

    /// Asks the registry's token service.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        login: Option<&Login>,
    ) -> Result<Secret, Failure> {
        let mut url = Url::parse(realm).map_err(|error| self.protocol(format!("its token service: {error}")))?;
        let home = self.url("/", self.plain.get())?;
        if url.scheme() != "https" && url.scheme() != home.scheme() {
            return Err(self.protocol(format!("its token service {} has no TLS", shown(&url))));
        }
        let own = format!("repository:{}:pull", self.endpoint.repository);
        let scope = scope.unwrap_or(&own);
        let trusted = is_of_registry(home.host_str().unwrap_or_default(), url.host_str().unwrap_or_default());
        if login.is_some() && !trusted {
            let detail = format!("sends logins to {}, which is not of its domain", shown(&url));
            return Err(self.protocol(detail));
        }
        let mut ask =
            Ask { url: url.clone(), accept: &["application/json"], range_from: 0, authorization: None, form: None };
        match login {
            Some(Login::IdentityToken(token)) => ask.form = Some(refresh_form(service, scope, token)),
            Some(Login::Password { user, password }) => {
                url.query_pairs_mut().extend_pairs(service.map(|service| ("service", service)));
                url.query_pairs_mut().append_pair("scope", scope).append_pair("account", user);
                ask.url = url;
                ask.authorization = basic(user, password);
            }
            Some(Login::RegistryToken(_)) | None => {
                url.query_pairs_mut().extend_pairs(service.map(|service| ("service", service)));
                url.query_pairs_mut().append_pair("scope", scope);
                ask.url = url;
            }
        }
        let reply = self.http.ask(&ask).await.map_err(|error| self.failure(error))?;
        self.read_token(reply, login.is_some()).await
    }

    async fn read_token(&self, reply: Reply, logged_in: bool) -> Result<Secret, Failure> {
        let status = reply.status;
        let bytes = self.http.document(reply, MAX_TOKEN_BYTES).await.map_err(|error| self.failure(error))?;
        if status.is_success() {
            let token: Token = serde_json::from_slice(&bytes)
                .map_err(|error| self.protocol(format!("its token service's answer: {error}")))?;
            let token = token.token.or(token.access_token).filter(|token| !token.is_empty());
            return token.map(Secret::new).ok_or_else(|| self.protocol("its token service gave no token".to_owned()));
        }
        let host = self.name();
        let detail = detail(&bytes);
        let repository = self.endpoint.repository.clone();
        Err(match (status, logged_in) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, true) => Failure::BadLogin { host, detail },
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, false) => Failure::NoLogin { host, repository, detail },
            (status, _) => self.broken(status, &detail),
        })
    }

    /// What an answer that is no success means.
    async fn refusal(&self, what: &What<'_>, reply: Reply, login: Option<&Authorized>) -> Failure {
        let status = reply.status;
        // When it is too long, or breaks off, the status says enough.
        let bytes = self.http.document(reply, MAX_ERROR_BYTES).await.unwrap_or_default();
        let (host, repository) = (self.name(), self.endpoint.repository.clone());
        let detail = detail(&bytes);
        let code = codes(&bytes).next().unwrap_or_default();
        match (status, what) {
            (StatusCode::NOT_FOUND, _) if code == "NAME_UNKNOWN" => Failure::NoRepository { host, repository },
            (StatusCode::NOT_FOUND, What::Manifest(tag)) => {
                let tag = (*tag).to_owned();
                match self.has_repository(login).await {
                    false => Failure::NoRepository { host, repository },
                    true => Failure::NoTag { host, repository, tag },
                }
            }
            (StatusCode::NOT_FOUND, What::Tags) => Failure::NoRepository { host, repository },
            (StatusCode::NOT_FOUND, What::Blob(digest)) => Failure::NoBlob { host, digest: digest.to_string() },
            (StatusCode::UNAUTHORIZED, _) => match login {
                None => Failure::NoLogin { host, repository, detail },
                Some(Authorized { credential: Some(_), .. }) => Failure::BadLogin { host, detail },
                Some(Authorized { credential: None, .. }) => Failure::Denied { host, repository, detail },
            },
            (StatusCode::FORBIDDEN, _) => Failure::Denied { host, repository, detail },
            (status, _) => self.broken(status, &detail),
        }
    }

    /// Registries say of a manifest only that it is missing; whether the repository is, its list of tags says.
    async fn has_repository(&self, login: Option<&Authorized>) -> bool {
        match self.ask(&What::Tags, 0, login).await {
            Ok(reply) => reply.status != StatusCode::NOT_FOUND,
            Err(_) => true,
        }
    }

    fn broken(&self, status: StatusCode, detail: &str) -> Failure {
        let host = self.name();
        let detail = format!("unexpected status {status}{detail}");
        if status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429) {
            return Failure::Unavailable { host, detail };
        }
        Failure::Protocol { host, detail }
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Default, Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

fn problems(bytes: &[u8]) -> Vec<Problem> {
    serde_json::from_slice::<Errors>(bytes).unwrap_or_default().errors
}

fn codes(bytes: &[u8]) -> impl Iterator<Item = String> {
    problems(bytes).into_iter().map(|problem| problem.code)
}

/// `: CODE: message` in the registry's own words, or nothing.
fn detail(bytes: &[u8]) -> String {
    let Some(problem) = problems(bytes).into_iter().next() else {
        return String::new();
    };
    let code = problem.code.to_ascii_lowercase().replace('_', " ");
    clip(&format!(": {code}: {}", problem.message))
}

/// No control characters reach a terminal (D20), and nothing endless.
fn clip(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(MAX_DETAIL_CHARS).collect()
}

fn basic(user: &str, password: &Secret) -> Option<HeaderValue> {
    let text = STANDARD.encode(format!("{user}:{}", password.reveal()));
    HeaderValue::try_from(format!("Basic {text}")).ok()
}

fn bearer(token: &Secret) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("Bearer {}", token.reveal())).ok()
}

fn refresh_form(service: Option<&str>, scope: &str, token: &Secret) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token").append_pair("client_id", "monopod");
    form.extend_pairs(service.map(|service| ("service", service)));
    form.append_pair("scope", scope).append_pair("refresh_token", token.reveal());
    form.finish()
}

/// May a login for the registry go to this token service? To the same host, or within the domain that holds the registry:
/// `registry.gitlab.com` and `gitlab.com`, `registry-1.docker.io` and `auth.docker.io` (D29).
fn is_of_registry(registry: &str, realm: &str) -> bool {
    if registry == realm {
        return true;
    }
    let Some((_, parent)) = registry.split_once('.') else { return false };
    let is_name = parent.contains('.') && parent.parse::<std::net::Ipv4Addr>().is_err() && !registry.starts_with('[');
    let is_name = is_name && registry.parse::<std::net::Ipv4Addr>().is_err();
    is_name && (realm == parent || realm.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')))
}

#[cfg(test)]
mod tests {
    use super::super::Credential;
    use super::*;

    // D29, P35
    #[test]
    fn logins_go_to_the_registry_and_its_domain_alone() {
        for (registry, realm, trusted) in [
            ("registry-1.docker.io", "auth.docker.io", true),
            ("registry.gitlab.com", "gitlab.com", true),
            ("ghcr.io", "ghcr.io", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "1.0.0.1", false),
            ("registry.example.com", "evil.com", false),
            ("registry.example.com", "evilexample.com", false),
            ("example.com", "evil.com", false),
            ("localhost", "evil.com", false),
        ] {
            assert_eq!(is_of_registry(registry, realm), trusted, "{registry} {realm}");
        }
    }

    #[test]
    fn a_registrys_words_are_clipped_and_harmless() {
        let text = format!(r#"{{"errors":[{{"code":"NAME_UNKNOWN","message":"\u001b[31m{}"}}]}}"#, "x".repeat(1000));
        let shown = detail(text.as_bytes());
        assert!(shown.starts_with(": name unknown: \u{fffd}[31mxxx"), "{shown}");
        assert_eq!(shown.chars().count(), MAX_DETAIL_CHARS);
        assert_eq!(detail(b"<html>"), "");
    }

    #[test]
    fn a_credential_is_not_shown() {
        let login = Login::Password { user: "u".to_owned(), password: Secret::new("hidden") };
        let shown = format!("{:?}", Credential { login, source: 0 });
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
