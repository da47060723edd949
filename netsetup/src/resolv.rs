//! `/etc/resolv.conf` of a pod (section 8.3, rules DN1-DN6).

/// Most nameservers that are kept after the merge (DN3); the C library reads no more.
pub const NAMESERVERS_MAX: usize = 3;
/// Most search paths that are kept after the merge (DN3).
pub const SEARCHES_MAX: usize = 32;
/// Longest search line, with the blanks between paths (DN3).
pub const SEARCH_CHARACTERS_MAX: usize = 2048;
/// Longest single search path, a DNS name (DN3).
pub const SEARCH_PATH_MAX: usize = 253;

/// One option; without a value it prints as its bare name (DN1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsOption {
    pub name: String,
    pub value: Option<String>,
}

/// A resolver configuration: the node's, `spec.dnsConfig`, or the result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolv {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<DnsOption>,
}

/// `spec.dnsPolicy`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsPolicy {
    ClusterFirst,
    ClusterFirstWithHostNet,
    Default,
    None,
}

/// What the cluster's DNS is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterDns {
    /// Empty when none is configured (DN5).
    pub servers: Vec<String>,
    /// For example `cluster.local`.
    pub domain: String,
}

/// What the rules look at.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub policy: DnsPolicy,
    pub host_network: bool,
    pub namespace: &'a str,
    /// As the kubelet names a pod in DN5: `<name>_<namespace>(<uid>)`.
    pub pod: &'a str,
    pub cluster: &'a ClusterDns,
    pub node: &'a Resolv,
    pub config: Option<&'a Resolv>,
}

/// An event that the pod gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The event's reason.
    pub reason: &'static str,
    pub message: String,
}

const FORMING: &str = "DNSConfigForming";
const MISSING: &str = "MissingClusterDNS";

/// Reads the node's file (DN6). Lines that no rule knows are left out.
#[must_use]
pub fn parse(file: &str) -> Resolv {
    let mut found = Resolv::default();
    for line in file.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => found.nameservers.extend(words.next().map(str::to_owned)),
            Some("search") => found.searches = words.filter_map(search_path).collect(),
            Some("options") => words.for_each(|word| set(&mut found.options, option(word))),
            Some(_) | None => {}
        }
    }
    found
}

/// The pod's configuration, and what its owner should hear about it.
#[must_use]
pub fn merge(request: &Request<'_>) -> (Resolv, Vec<Warning>) {
    let mut warnings = Vec::new();
    let mut merged = base(request, &mut warnings);
    if let Some(config) = request.config {
        merged.nameservers.extend(config.nameservers.iter().cloned());
        merged.searches.extend(config.searches.iter().cloned());
        for option in &config.options {
            set(&mut merged.options, option.clone());
        }
    }
    merged.nameservers = first_of_each(merged.nameservers);
    merged.searches = first_of_each(merged.searches);
    warnings.extend(limit_nameservers(&mut merged.nameservers));
    warnings.extend(limit_searches(&mut merged.searches));
    (merged, warnings)
}

/// The file (DN2).
#[must_use]
pub fn render(resolv: &Resolv) -> String {
    let mut file = String::new();
    if !resolv.searches.is_empty() {
        file.push_str(&format!("search {}\n", resolv.searches.join(" ")));
    }
    for server in &resolv.nameservers {
        file.push_str(&format!("nameserver {server}\n"));
    }
    if !resolv.options.is_empty() {
        let options: Vec<String> = resolv.options.iter().map(option_text).collect();
        file.push_str(&format!("options {}\n", options.join(" ")));
    }
    file
}

fn base(request: &Request<'_>, warnings: &mut Vec<Warning>) -> Resolv {
    let cluster_first = match request.policy {
        DnsPolicy::None => return Resolv::default(),
        DnsPolicy::Default => false,
        DnsPolicy::ClusterFirst => !request.host_network,
        DnsPolicy::ClusterFirstWithHostNet => true,
    };
    if !cluster_first {
        return request.node.clone();
    }
    if request.cluster.servers.is_empty() {
        warnings.push(missing(request));
        return request.node.clone();
    }
    of_the_cluster(request)
}

fn of_the_cluster(request: &Request<'_>) -> Resolv {
    let domain = &request.cluster.domain;
    let mut searches = Vec::new();
    if !domain.is_empty() {
        searches.push(format!("{}.svc.{domain}", request.namespace));
        searches.push(format!("svc.{domain}"));
        searches.push(domain.clone());
    }
    searches.extend(request.node.searches.iter().cloned());
    Resolv {
        nameservers: request.cluster.servers.clone(),
        searches,
        options: vec![DnsOption { name: "ndots".to_owned(), value: Some("5".to_owned()) }],
    }
}

fn missing(request: &Request<'_>) -> Warning {
    let policy = match request.policy {
        DnsPolicy::ClusterFirst => "ClusterFirst",
        DnsPolicy::ClusterFirstWithHostNet => "ClusterFirstWithHostNet",
        DnsPolicy::Default => "Default",
        DnsPolicy::None => "None",
    };
    Warning {
        reason: MISSING,
        message: format!(
            "pod: {:?}. kubelet does not have ClusterDNS IP configured and cannot create Pod using {policy:?} \
             policy. Falling back to \"Default\" policy.",
            request.pod
        ),
    }
}

fn limit_nameservers(servers: &mut Vec<String>) -> Option<Warning> {
    if servers.len() <= NAMESERVERS_MAX {
        return None;
    }
    servers.truncate(NAMESERVERS_MAX);
    let message = format!(
        "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
        servers.join(" ")
    );
    Some(Warning { reason: FORMING, message })
}

fn limit_searches(searches: &mut Vec<String>) -> Option<Warning> {
    let given = searches.len();
    searches.retain(|path| path.len() <= SEARCH_PATH_MAX);
    searches.truncate(SEARCHES_MAX);
    while searches.join(" ").len() > SEARCH_CHARACTERS_MAX {
        searches.pop();
    }
    (searches.len() < given).then(|| Warning {
        reason: FORMING,
        message: format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            searches.join(" ")
        ),
    })
}

/// Without the trailing dot; none for the root (DN6).
fn search_path(word: &str) -> Option<String> {
    let path = word.strip_suffix('.').unwrap_or(word);
    (!path.is_empty()).then(|| path.to_owned())
}

fn option(word: &str) -> DnsOption {
    match word.split_once(':') {
        Some((name, value)) => DnsOption { name: name.to_owned(), value: Some(value.to_owned()) },
        None => DnsOption { name: word.to_owned(), value: None },
    }
}

fn option_text(option: &DnsOption) -> String {
    match &option.value {
        Some(value) if !value.is_empty() => format!("{}:{value}", option.name),
        Some(_) | None => option.name.clone(),
    }
}

/// By name: a later one replaces an earlier one in its place (DN1, DN6).
fn set(options: &mut Vec<DnsOption>, new: DnsOption) {
    match options.iter_mut().find(|old| old.name == new.name) {
        Some(old) => *old = new,
        None => options.push(new),
    }
}

fn first_of_each(words: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::with_capacity(words.len());
    for word in words {
        if !kept.contains(&word) {
            kept.push(word);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODE: &str = "# made by hand\n\tnameserver 1.1.1.1 # first\nnameserver 2.2.2.2\ndomain ignored.example\n\
        search old.example\nsearch corp.example. . lan\noptions edns0 ndots:2\noptions ndots:3 trust-ad\nnameserver\n";

    fn cluster() -> ClusterDns {
        ClusterDns { servers: vec!["10.96.0.10".to_owned()], domain: "cluster.local".to_owned() }
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn file(
        policy: DnsPolicy,
        host_network: bool,
        cluster: &ClusterDns,
        config: Option<&Resolv>,
    ) -> (String, Vec<Warning>) {
        let node = parse(NODE);
        let request = Request { policy, host_network, namespace: "ns", pod: "web_ns(1)", cluster, node: &node, config };
        let (merged, warnings) = merge(&request);
        (render(&merged), warnings)
    }

    /// DN6
    #[test]
    fn the_nodes_file_is_read_by_its_rules() {
        let found = parse(NODE);
        assert_eq!(found.nameservers, ["1.1.1.1", "2.2.2.2"]);
        assert_eq!(found.searches, ["corp.example", "lan"]);
        let options: Vec<String> = found.options.iter().map(option_text).collect();
        assert_eq!(options, ["edns0", "ndots:3", "trust-ad"]);
    }

    /// The table of section 8.3, DN2
    #[test]
    fn each_policy_has_its_base() {
        let default =
            "search corp.example lan\nnameserver 1.1.1.1\nnameserver 2.2.2.2\noptions edns0 ndots:3 trust-ad\n";
        let first = "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example lan\n\
                     nameserver 10.96.0.10\noptions ndots:5\n";
        let table = [
            (DnsPolicy::ClusterFirst, false, first),
            (DnsPolicy::ClusterFirst, true, default),
            (DnsPolicy::ClusterFirstWithHostNet, true, first),
            (DnsPolicy::Default, false, default),
            (DnsPolicy::None, false, ""),
        ];
        for (policy, host_network, expected) in table {
            assert_eq!(
                file(policy, host_network, &cluster(), None),
                (expected.to_owned(), vec![]),
                "{policy:?} {host_network}"
            );
        }
    }

    /// DN1
    #[test]
    fn the_pods_configuration_is_appended_and_wins_in_options() {
        let config = Resolv {
            nameservers: words(&["9.9.9.9", "10.96.0.10"]),
            searches: words(&["lan", "mine.example"]),
            options: vec![
                DnsOption { name: "ndots".to_owned(), value: Some("1".to_owned()) },
                DnsOption { name: "edns0".to_owned(), value: None },
            ],
        };
        let (text, warnings) = file(DnsPolicy::ClusterFirst, false, &cluster(), Some(&config));
        assert_eq!(
            text,
            "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example lan mine.example\n\
             nameserver 10.96.0.10\nnameserver 9.9.9.9\noptions ndots:1 edns0\n"
        );
        assert_eq!(warnings, []);
    }

    /// DN5
    #[test]
    fn without_cluster_dns_the_nodes_configuration_is_used_and_said() {
        let (text, warnings) = file(DnsPolicy::ClusterFirst, false, &ClusterDns::default(), None);
        assert!(text.contains("nameserver 1.1.1.1\n"), "{text}");
        assert_eq!(warnings.len(), 1);
        assert_eq!(warnings[0].reason, "MissingClusterDNS");
        assert_eq!(
            warnings[0].message,
            "pod: \"web_ns(1)\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \
             \"ClusterFirst\" policy. Falling back to \"Default\" policy."
        );
    }

    /// DN3
    #[test]
    fn too_many_nameservers_are_cut_from_the_end_and_said() {
        let config = Resolv { nameservers: words(&["3.3.3.3", "4.4.4.4"]), ..Resolv::default() };
        let (text, warnings) = file(DnsPolicy::Default, false, &cluster(), Some(&config));
        assert_eq!(text.matches("nameserver").count(), NAMESERVERS_MAX);
        assert_eq!(
            warnings[0].message,
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: \
             1.1.1.1 2.2.2.2 3.3.3.3"
        );
    }

    /// DN3: number, whole length, and length of one path
    #[test]
    fn each_search_limit_is_reached_exactly() {
        let numbered = |count: usize| (0..count).map(|n| format!("s{n}")).collect::<Vec<_>>();
        let long = |count: usize| (0..count).map(|n| format!("{n:0>127}")).collect::<Vec<_>>();
        let table = [
            (numbered(SEARCHES_MAX), SEARCHES_MAX),
            (numbered(SEARCHES_MAX + 1), SEARCHES_MAX),
            (long(16), 16), // 16 * 127 + 15 = 2047
            (long(17), 16),
            (vec!["a".repeat(SEARCH_PATH_MAX)], 1),
            (vec!["a".repeat(SEARCH_PATH_MAX + 1)], 0),
        ];
        for (mut searches, kept) in table {
            let given = searches.len();
            let warning = limit_searches(&mut searches);
            assert_eq!(searches.len(), kept);
            assert_eq!(warning.is_some(), kept < given);
            if let Some(warning) = warning {
                let line = searches.join(" ");
                let text = "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: ";
                assert_eq!(warning.message, format!("{text}{line}"));
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_read_back(servers in prop::collection::vec("[0-9.]{1,9}", 0..5), searches in prop::collection::vec("[a-z]{1,9}", 0..5),
                                         options in prop::collection::btree_map("[a-z]{1,5}", prop::option::of("[0-9]{1,2}"), 0..4)) {
            let options = options.into_iter().map(|(name, value)| DnsOption { name, value }).collect();
            let resolv = Resolv { nameservers: servers, searches, options };
            prop_assert_eq!(parse(&render(&resolv)), resolv);
        }

        #[test]
        fn no_file_makes_the_reader_fail(file in "\\PC{0,200}") {
            prop_assert!(render(&parse(&file)).len() <= 2 * file.len() + 64);
        }
    }
}
