//! What a pod is called: the UTS node name and its domain (rules HN1-HN4).

use thiserror::Error;

/// Longest host name made from a pod's name, a DNS label (HN1).
pub const HOSTNAME_MAX: usize = 63;
/// Longest UTS node name, `__NEW_UTS_LEN` of the kernel (HN3).
pub const NODENAME_MAX: usize = 64;

/// What the rules look at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// `metadata.name`
    pub name: &'a str,
    pub namespace: &'a str,
    /// `spec.hostname`
    pub hostname: Option<&'a str>,
    /// `spec.subdomain`
    pub subdomain: Option<&'a str>,
    /// `spec.setHostnameAsFQDN`
    pub as_fqdn: bool,
    /// `spec.hostnameOverride`
    pub override_with: Option<&'a str>,
    /// For example `cluster.local`.
    pub cluster_domain: &'a str,
}

/// The names of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// For `sethostname(2)`, `/etc/hostname` and `$HOSTNAME`.
    pub nodename: String,
    /// The short name, for `/etc/hosts`.
    pub hostname: String,
    /// For `/etc/hosts`; none without a subdomain.
    pub domain: Option<String>,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum HostnameError {
    /// The pod stays Pending with this text (HN3).
    #[error(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long \
         ({NODENAME_MAX} characters is the max, {} characters requested)",
        fqdn.len()
    )]
    FqdnTooLong { fqdn: String },
}

/// The names of a pod with a network of its own; one with the host's has the node's (HN5).
///
/// # Errors
/// An FQDN that was asked for as node name and is longer than the kernel takes.
pub fn names(request: &Request<'_>) -> Result<Names, HostnameError> {
    if let Some(name) = request.override_with.filter(|name| !name.is_empty()) {
        return Ok(Names { nodename: name.to_owned(), hostname: name.to_owned(), domain: None });
    }
    let hostname = truncated(request.hostname.filter(|name| !name.is_empty()).unwrap_or(request.name));
    let domain = request
        .subdomain
        .filter(|name| !name.is_empty())
        .map(|subdomain| format!("{subdomain}.{}.svc.{}", request.namespace, request.cluster_domain));
    let nodename = match &domain {
        Some(domain) if request.as_fqdn => fits(format!("{hostname}.{domain}"))?,
        Some(_) | None => hostname.clone(),
    };
    Ok(Names { nodename, hostname, domain })
}

/// The content of `/etc/hostname`.
#[must_use]
pub fn render(names: &Names) -> String {
    format!("{}\n", names.nodename)
}

fn truncated(name: &str) -> String {
    let cut: String = name.chars().take(HOSTNAME_MAX).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

fn fits(fqdn: String) -> Result<String, HostnameError> {
    if fqdn.len() > NODENAME_MAX { Err(HostnameError::FqdnTooLong { fqdn }) } else { Ok(fqdn) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Request<'static> = Request {
        name: "web",
        namespace: "default",
        hostname: None,
        subdomain: None,
        as_fqdn: false,
        override_with: None,
        cluster_domain: "cluster.local",
    };

    /// HN1, HN2, HN3, HN4
    #[test]
    fn the_rules_give_these_names() {
        let fqdn = "db.default.svc.cluster.local";
        let table = [
            ("pod name", BASE, ("web", "web", None)),
            ("spec.hostname", Request { hostname: Some("h"), ..BASE }, ("h", "h", None)),
            ("empty is unset", Request { hostname: Some(""), subdomain: Some(""), ..BASE }, ("web", "web", None)),
            ("subdomain", Request { subdomain: Some("db"), ..BASE }, ("web", "web", Some(fqdn))),
            (
                "as FQDN",
                Request { subdomain: Some("db"), as_fqdn: true, ..BASE },
                ("web.db.default.svc.cluster.local", "web", Some(fqdn)),
            ),
            ("as FQDN without subdomain", Request { as_fqdn: true, ..BASE }, ("web", "web", None)),
            (
                "override has no domain",
                Request { override_with: Some("a.b"), subdomain: Some("db"), ..BASE },
                ("a.b", "a.b", None),
            ),
        ];
        for (case, request, (nodename, hostname, domain)) in table {
            let expected = Names {
                nodename: (*nodename).to_owned(),
                hostname: (*hostname).to_owned(),
                domain: domain.map(str::to_owned),
            };
            assert_eq!(names(&request), Ok(expected), "{case}");
        }
    }

    /// HN1
    #[test]
    fn a_long_name_is_cut_and_trimmed() {
        let long = format!("{}-.x", "a".repeat(HOSTNAME_MAX - 2));
        let got = names(&Request { name: &long, ..BASE }).unwrap();
        assert_eq!(got.hostname, "a".repeat(HOSTNAME_MAX - 2));
        let exact = "b".repeat(HOSTNAME_MAX + 1);
        assert_eq!(names(&Request { name: &exact, ..BASE }).unwrap().hostname.len(), HOSTNAME_MAX);
    }

    /// HN3
    #[test]
    fn an_fqdn_may_have_64_characters_and_no_more() {
        let rest = ".s.ns.svc.cluster.local";
        let request = |name| Request { name, namespace: "ns", subdomain: Some("s"), as_fqdn: true, ..BASE };
        let fits = "a".repeat(NODENAME_MAX - rest.len());
        assert_eq!(names(&request(&fits)).unwrap().nodename.len(), NODENAME_MAX);
        let long = "a".repeat(NODENAME_MAX - rest.len() + 1);
        let error = names(&request(&long)).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {long}{rest} is too long \
                 (64 characters is the max, 65 characters requested)"
            )
        );
    }

    #[test]
    fn the_file_is_the_name_and_a_newline() {
        assert_eq!(render(&names(&BASE).unwrap()), "web\n");
    }
}
