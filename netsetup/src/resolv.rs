//! `/etc/resolv.conf` (section 8.3).

/// What a resolver is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolv {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<DnsOption>,
}

/// `ndots:5`, or a bare name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsOption {
    pub name: String,
    pub value: Option<String>,
}

/// Rule DN3.
pub const NAMESERVERS_MAX: usize = 3;
/// Rule DN3.
pub const SEARCHES_MAX: usize = 32;
/// Rule DN3: of the search line, spaces counted.
pub const SEARCH_CHARACTERS_MAX: usize = 2048;

/// `dnsPolicy`, as it takes effect: `ClusterFirst` with the host's network is [`Policy::Default`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    Default,
    ClusterFirst(Cluster),
    None,
}

/// The cluster's resolver as a pod uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub nameservers: Vec<String>,
    pub domain: String,
    pub namespace: String,
}

/// Reads the node's file (rule DN6).
pub fn parse(text: &str) -> Resolv {
    let mut resolv = Resolv::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => resolv.nameservers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                let searches = words.map(|word| word.strip_suffix('.').unwrap_or(word));
                resolv.searches = searches.filter(|word| !word.is_empty()).map(str::to_owned).collect();
            }
            Some("options") => {
                for word in words {
                    set_option(&mut resolv.options, option(word));
                }
            }
            _ => {}
        }
    }
    resolv
}

fn option(word: &str) -> DnsOption {
    match word.split_once(':') {
        Some((name, value)) => DnsOption { name: name.to_owned(), value: Some(value.to_owned()) },
        None => DnsOption { name: word.to_owned(), value: None },
    }
}

/// By name, the later one wins (rule DN1).
fn set_option(options: &mut Vec<DnsOption>, option: DnsOption) {
    match options.iter_mut().find(|known| known.name == option.name) {
        Some(known) => *known = option,
        None => options.push(option),
    }
}

/// A pod's file: the base that the policy says, then `dnsConfig`, within the limits. The second value has the warnings
/// (`DNSConfigForming`).
pub fn for_pod(policy: &Policy, node: &Resolv, config: &Resolv) -> (Resolv, Vec<String>) {
    let mut resolv = match policy {
        Policy::Default => node.clone(),
        Policy::None => Resolv::default(),
        Policy::ClusterFirst(cluster) => cluster_base(cluster, node),
    };
    resolv.nameservers.extend(config.nameservers.iter().cloned());
    resolv.searches.extend(config.searches.iter().cloned());
    dedupe(&mut resolv.nameservers);
    dedupe(&mut resolv.searches);
    for option in &config.options {
        set_option(&mut resolv.options, option.clone());
    }
    let warnings = limit(&mut resolv);
    (resolv, warnings)
}

fn cluster_base(cluster: &Cluster, node: &Resolv) -> Resolv {
    let domain = &cluster.domain;
    let own = [format!("{}.svc.{domain}", cluster.namespace), format!("svc.{domain}"), domain.clone()];
    Resolv {
        nameservers: cluster.nameservers.clone(),
        searches: own.into_iter().chain(node.searches.iter().cloned()).collect(),
        options: vec![DnsOption { name: "ndots".to_owned(), value: Some("5".to_owned()) }],
    }
}

/// The first of equal entries stays.
fn dedupe(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|entry| seen.insert(entry.clone()));
}

fn limit(resolv: &mut Resolv) -> Vec<String> {
    let mut warnings = Vec::new();
    if resolv.nameservers.len() > NAMESERVERS_MAX {
        resolv.nameservers.truncate(NAMESERVERS_MAX);
        warnings.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            resolv.nameservers.join(" ")
        ));
    }
    let before = resolv.searches.len();
    resolv.searches.truncate(SEARCHES_MAX);
    while resolv.searches.join(" ").len() > SEARCH_CHARACTERS_MAX {
        resolv.searches.pop();
    }
    if resolv.searches.len() < before {
        warnings.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            resolv.searches.join(" ")
        ));
    }
    warnings
}

/// The file's text (rule DN2).
pub fn render(resolv: &Resolv) -> String {
    let mut out = String::new();
    if !resolv.searches.is_empty() {
        out.push_str(&format!("search {}\n", resolv.searches.join(" ")));
    }
    for nameserver in &resolv.nameservers {
        out.push_str(&format!("nameserver {nameserver}\n"));
    }
    let options: Vec<String> = resolv
        .options
        .iter()
        .map(|option| match &option.value {
            Some(value) => format!("{}:{value}", option.name),
            None => option.name.clone(),
        })
        .collect();
    if !options.is_empty() {
        out.push_str(&format!("options {}\n", options.join(" ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "# comment\nnameserver 192.0.2.53\nnameserver 192.0.2.54\nsearch old.test\nsearch example.test. .\noptions edns0 ndots:2\ndomain ignored.test\n";

    fn cluster() -> Policy {
        Policy::ClusterFirst(Cluster {
            nameservers: vec!["10.96.0.10".into()],
            domain: "cluster.local".into(),
            namespace: "ns".into(),
        })
    }

    /// DN2, DN6, section 8.3: byte for byte for each policy.
    #[test]
    fn each_policy_has_its_file() {
        let node = parse(NODE);
        let config = Resolv { nameservers: vec!["192.0.2.9".into()], ..Resolv::default() };
        for (policy, config, expected) in [
            (
                Policy::Default,
                Resolv::default(),
                "search example.test\nnameserver 192.0.2.53\nnameserver 192.0.2.54\noptions edns0 ndots:2\n",
            ),
            (
                cluster(),
                Resolv::default(),
                "search ns.svc.cluster.local svc.cluster.local cluster.local example.test\nnameserver 10.96.0.10\noptions ndots:5\n",
            ),
            (Policy::None, config, "nameserver 192.0.2.9\n"),
        ] {
            assert_eq!(render(&for_pod(&policy, &node, &config).0), expected, "{policy:?}");
        }
    }

    /// DN1
    #[test]
    fn dns_config_adds_and_its_options_win() {
        let config = Resolv {
            nameservers: vec!["192.0.2.53".into(), "192.0.2.9".into()],
            searches: vec!["more.test".into(), "example.test".into()],
            options: vec![option("ndots:3"), option("rotate")],
        };
        let got = render(&for_pod(&Policy::Default, &parse(NODE), &config).0);
        assert_eq!(
            got,
            "search example.test more.test\nnameserver 192.0.2.53\nnameserver 192.0.2.54\nnameserver 192.0.2.9\noptions edns0 ndots:3 rotate\n"
        );
    }

    /// DN3
    #[test]
    fn what_exceeds_the_limits_is_cut_with_a_warning() {
        let config = Resolv {
            nameservers: ["1", "2", "3", "4"].map(|n| format!("192.0.2.{n}")).into(),
            searches: (0..40).map(|n| format!("s{n}.test")).collect(),
            options: Vec::new(),
        };
        let (resolv, warnings) = for_pod(&Policy::None, &Resolv::default(), &config);
        assert_eq!((resolv.nameservers.len(), resolv.searches.len()), (NAMESERVERS_MAX, SEARCHES_MAX));
        assert!(warnings[0].ends_with("is: 192.0.2.1 192.0.2.2 192.0.2.3"), "{warnings:?}");
        assert!(warnings[1].starts_with("Search Line limits"), "{warnings:?}");
        let long =
            Resolv { searches: (0..12).map(|n| format!("{n}{}", "x".repeat(200))).collect(), ..Resolv::default() };
        let (resolv, _) = for_pod(&Policy::None, &Resolv::default(), &long);
        assert!(resolv.searches.join(" ").len() <= SEARCH_CHARACTERS_MAX);
    }
}
