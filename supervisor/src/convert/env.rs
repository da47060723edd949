//! A container's environment (section 6): the image's, then `envFrom`, then `env`, then service variables.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, EnvVarSource, FileKeySelector, Pod, Service};

use super::ConfigError;
use super::expand::expand;
use super::facts::{EnvFiles, NodeFacts, Objects, PodFacts};
use super::{env_file, field};
use crate::runtime::program::DEFAULT_PATH;

/// One value per name.
pub type Environment = BTreeMap<String, String>;

/// Everything that the values may come from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    pub pod: &'a Pod,
    pub pod_facts: &'a PodFacts,
    pub node: &'a NodeFacts,
    pub objects: &'a dyn Objects,
    pub files: &'a dyn EnvFiles,
}

impl std::fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("pod", &self.pod.metadata.name).finish_non_exhaustive()
    }
}

/// The variables that the manifest gives (rule EN1), without the image's.
pub fn manifest_environment(sources: Sources<'_>, container: &Container) -> Result<Environment, ConfigError> {
    let services = service_variables(sources);
    let mut environment = Environment::new();
    for source in container.env_from.iter().flatten() {
        add_from(sources, source, &mut environment)?;
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(sources, container, variable, &environment, &services)? {
            environment.insert(variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        environment.entry(name).or_insert(value);
    }
    Ok(environment)
}

/// The whole environment as `NAME=value`, sorted by name. Image entries without `=` or with an empty name are dropped (D17).
pub fn process_environment(image: &[String], manifest: &Environment, hostname: &str, terminal: bool) -> Vec<String> {
    let mut all =
        Environment::from([("PATH".to_owned(), DEFAULT_PATH.to_owned()), ("HOSTNAME".to_owned(), hostname.to_owned())]);
    if terminal {
        all.insert("TERM".to_owned(), "xterm".to_owned());
    }
    let valid = image
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .filter(|(name, value)| !name.is_empty() && !name.contains('\0') && !value.contains('\0'));
    all.extend(valid.map(|(name, value)| (name.to_owned(), value.to_owned())));
    all.extend(manifest.iter().map(|(name, value)| (name.clone(), value.clone())));
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn add_from(sources: Sources<'_>, source: &EnvFromSource, into: &mut Environment) -> Result<(), ConfigError> {
    let prefix = source.prefix.as_deref().unwrap_or_default();
    if let Some(reference) = &source.config_map_ref {
        let Some(map) =
            present(sources.objects.config_map(namespace(sources.pod), &reference.name), reference.optional, || {
                format!("configmap {:?} not found", reference.name)
            })?
        else {
            return Ok(());
        };
        into.extend(map.data.iter().flatten().map(|(key, value)| (format!("{prefix}{key}"), value.clone())));
    }
    if let Some(reference) = &source.secret_ref {
        let Some(secret) =
            present(sources.objects.secret(namespace(sources.pod), &reference.name), reference.optional, || {
                format!("secret {:?} not found", reference.name)
            })?
        else {
            return Ok(());
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        into.extend(secret.data.iter().flatten().map(|(key, value)| (format!("{prefix}{key}"), text(&value.0))));
    }
    Ok(())
}

/// None when an optional reference leads nowhere.
fn value_of(
    sources: Sources<'_>,
    container: &Container,
    variable: &EnvVar,
    earlier: &Environment,
    services: &Environment,
) -> Result<Option<String>, ConfigError> {
    match &variable.value_from {
        Some(from) => referenced(sources, container, from),
        None => {
            let text = variable.value.as_deref().unwrap_or_default();
            let known = |name: &str| earlier.get(name).or_else(|| services.get(name)).cloned();
            Ok(Some(expand(text, known)))
        }
    }
}

fn referenced(sources: Sources<'_>, container: &Container, from: &EnvVarSource) -> Result<Option<String>, ConfigError> {
    let namespace = namespace(sources.pod);
    if let Some(selector) = &from.field_ref {
        return field::field(sources.pod, &selector.field_path, sources.pod_facts, sources.node).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        return field::resource(sources.pod, container, selector, sources.node).map(Some);
    }
    if let Some(selector) = &from.config_map_key_ref {
        let (name, key) = (&selector.name, &selector.key);
        let map = present(sources.objects.config_map(namespace, name), selector.optional, || {
            format!("configmap {name:?} not found")
        })?;
        let value = map.as_ref().and_then(|map| map.data.as_ref()).and_then(|data| data.get(key)).cloned();
        return present(value, selector.optional, || {
            format!("couldn't find key {key} in ConfigMap {namespace}/{name}")
        });
    }
    if let Some(selector) = &from.secret_key_ref {
        let (name, key) = (&selector.name, &selector.key);
        let secret = present(sources.objects.secret(namespace, name), selector.optional, || {
            format!("secret {name:?} not found")
        })?;
        let data = secret.as_ref().and_then(|secret| secret.data.as_ref());
        let value = data.and_then(|data| data.get(key));
        let value =
            present(value, selector.optional, || format!("couldn't find key {key} in Secret {namespace}/{name}"))?;
        return Ok(value.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()));
    }
    if let Some(selector) = &from.file_key_ref {
        return from_file(sources, selector);
    }
    Err(ConfigError::new("the source of an environment variable is not supported"))
}

/// `fileKeyRef`: an empty value is as good as none.
fn from_file(sources: Sources<'_>, selector: &FileKeySelector) -> Result<Option<String>, ConfigError> {
    let FileKeySelector { volume_name, path, key, optional } = selector;
    let content = sources.files.read(volume_name, path).map_err(ConfigError)?;
    let content = match present(content, *optional, || "couldn't parse env file".to_owned())? {
        None => return Ok(None),
        Some(content) => content,
    };
    let value = env_file::value(&content, key).map_err(|_| ConfigError::new("couldn't parse env file"))?;
    let value = value.filter(|value| !value.is_empty());
    present(value, *optional, || format!("environment variable key {key:?} not found in file {path:?}"))
}

/// A missing thing is an error unless its reference is optional (rule EN6).
fn present<T>(
    thing: Option<T>,
    optional: Option<bool>,
    message: impl FnOnce() -> String,
) -> Result<Option<T>, ConfigError> {
    match thing {
        None if optional != Some(true) => Err(ConfigError(message())),
        thing => Ok(thing),
    }
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// The variables of the services that the pod may see (rules SV1, SV2).
fn service_variables(sources: Sources<'_>) -> Environment {
    let links = sources.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let own = namespace(sources.pod);
    let mut all = Environment::new();
    for service in sources.objects.services(own) {
        let meta = &service.metadata;
        let is_api = meta.namespace.as_deref() == Some("default") && meta.name.as_deref() == Some("kubernetes");
        if is_api || (links && meta.namespace.as_deref() == Some(own)) {
            all.extend(variables_of(&service));
        }
    }
    all
}

fn variables_of(service: &Service) -> Vec<(String, String)> {
    let shell_name = |text: &str| text.to_uppercase().replace('-', "_");
    let Some(spec) = &service.spec else { return Vec::new() };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let (Some(first), false) = (ports.first(), ip.is_empty() || ip == "None") else { return Vec::new() };
    let name = shell_name(service.metadata.name.as_deref().unwrap_or_default());
    let url = |port: &k8s_openapi::api::core::v1::ServicePort| {
        format!("{}://{}:{}", port.protocol.as_deref().unwrap_or("TCP").to_lowercase(), ip, port.port)
    };
    let mut all = vec![
        (format!("{name}_SERVICE_HOST"), ip.to_owned()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
        (format!("{name}_PORT"), url(first)),
    ];
    for port in ports {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            all.push((format!("{name}_SERVICE_PORT_{}", shell_name(port_name)), port.port.to_string()));
        }
        all.push((format!("{prefix}_PROTO"), protocol.to_lowercase()));
        all.push((format!("{prefix}_PORT"), port.port.to_string()));
        all.push((format!("{prefix}_ADDR"), ip.to_owned()));
        all.push((prefix, url(port)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::facts::NoObjects;
    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use std::rc::Rc;

    struct OneMap(ConfigMap);

    impl Objects for OneMap {
        fn config_map(&self, _: &str, name: &str) -> Option<Rc<ConfigMap>> {
            (name == "settings").then(|| Rc::new(self.0.clone()))
        }
        fn secret(&self, _: &str, _: &str) -> Option<Rc<Secret>> {
            None
        }
        fn services(&self, _: &str) -> Vec<Rc<Service>> {
            Vec::new()
        }
    }

    struct OneFile;

    impl EnvFiles for OneFile {
        fn read(&self, _volume: &str, path: &str) -> Result<Option<Vec<u8>>, String> {
            Ok((path == "env").then(|| b"KEY='from file'\nEMPTY=''\n".to_vec()))
        }
    }

    /// The services of a namespace and the API's.
    struct Services;

    impl Objects for Services {
        fn config_map(&self, namespace: &str, name: &str) -> Option<Rc<ConfigMap>> {
            NoObjects.config_map(namespace, name)
        }
        fn secret(&self, namespace: &str, name: &str) -> Option<Rc<Secret>> {
            NoObjects.secret(namespace, name)
        }
        fn services(&self, _: &str) -> Vec<Rc<Service>> {
            let service = |text: &str| Rc::new(serde_json::from_str(text).unwrap());
            [
                r#"{"metadata":{"name":"kubernetes","namespace":"default"},
                    "spec":{"clusterIP":"10.96.0.1","ports":[{"name":"https","port":443}]}}"#,
                r#"{"metadata":{"name":"my-db","namespace":"ns"},
                    "spec":{"clusterIP":"10.96.0.7","ports":[{"port":5432},{"name":"m-x","port":9,"protocol":"UDP"}]}}"#,
                r#"{"metadata":{"name":"headless","namespace":"ns"},"spec":{"clusterIP":"None","ports":[{"port":1}]}}"#,
                r#"{"metadata":{"name":"other","namespace":"elsewhere"},"spec":{"clusterIP":"10.96.0.9","ports":[{"port":1}]}}"#,
            ]
            .map(service)
            .into()
        }
    }

    fn facts() -> (PodFacts, NodeFacts) {
        let pod = PodFacts { ips: vec!["10.0.0.5".parse().unwrap()], hostname: "p".into() };
        let node = NodeFacts {
            name: "node1".into(),
            ips: vec!["192.0.2.1".parse().unwrap()],
            allocatable_cpu_milli: 2000,
            allocatable_memory_bytes: 1 << 30,
            allocatable_ephemeral_bytes: 1 << 30,
            cpus: 2,
            nofile: (1024, 4096),
            apparmor: false,
            capabilities: 1,
        };
        (pod, node)
    }

    fn environment(container: &str, objects: &dyn Objects) -> Result<Environment, ConfigError> {
        let container: Container = serde_json::from_str(container).unwrap();
        let pod: Pod = serde_json::from_str(r#"{"metadata":{"name":"p","namespace":"ns"}}"#).unwrap();
        let (pod_facts, node) = facts();
        let sources = Sources { pod: &pod, pod_facts: &pod_facts, node: &node, objects, files: &OneFile };
        manifest_environment(sources, &container)
    }

    fn pairs(environment: &Environment) -> Vec<(&str, &str)> {
        environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()
    }

    /// EN7, EN8: the chain of section 11.2.
    #[test]
    fn a_value_sees_only_earlier_variables() {
        let got = environment(
            r#"{"name":"c","env":[{"name":"A","value":"1"},{"name":"B","value":"$(A)2"},{"name":"C","value":"$(D)"},
                {"name":"D","value":"x"},{"name":"E","value":"$$(A)"}]}"#,
            &NoObjects,
        )
        .unwrap();
        assert_eq!(pairs(&got), [("A", "1"), ("B", "12"), ("C", "$(D)"), ("D", "x"), ("E", "$(A)")]);
    }

    /// EN1, EN3, EN6
    #[test]
    fn env_wins_over_prefixed_env_from() {
        let map = ConfigMap { data: Some([("K".into(), "map".into())].into()), ..Default::default() };
        let got = environment(
            r#"{"name":"c","envFrom":[{"prefix":"X_","configMapRef":{"name":"settings"}},{"configMapRef":{"name":"no","optional":true}}],
                "env":[{"name":"Y","value":"$(X_K)"},{"name":"X_K","value":"own"},
                {"name":"Z","valueFrom":{"configMapKeyRef":{"name":"settings","key":"none","optional":true}}}]}"#,
            &OneMap(map),
        )
        .unwrap();
        assert_eq!(pairs(&got), [("X_K", "own"), ("Y", "map")]);
    }

    /// EN6
    #[test]
    fn a_missing_reference_names_what_is_missing() {
        for (env, expected) in [
            (r#"{"configMapKeyRef":{"name":"no","key":"k"}}"#, "configmap \"no\" not found"),
            (r#"{"configMapKeyRef":{"name":"settings","key":"k"}}"#, "couldn't find key k in ConfigMap ns/settings"),
            (r#"{"secretKeyRef":{"name":"no","key":"k"}}"#, "secret \"no\" not found"),
        ] {
            let container = format!(r#"{{"name":"c","env":[{{"name":"A","valueFrom":{env}}}]}}"#);
            let error = environment(&container, &OneMap(ConfigMap::default())).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn fields_of_pod_and_node_are_known() {
        let got = environment(
            r#"{"name":"c","resources":{"requests":{"cpu":"250m"}},"env":[
                {"name":"IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}},
                {"name":"LIMIT","valueFrom":{"resourceFieldRef":{"resource":"limits.cpu"}}},
                {"name":"NODE","valueFrom":{"fieldRef":{"fieldPath":"spec.nodeName"}}},
                {"name":"REQUEST","valueFrom":{"resourceFieldRef":{"resource":"requests.cpu"}}}]}"#,
            &NoObjects,
        )
        .unwrap();
        assert_eq!(pairs(&got), [("IP", "10.0.0.5"), ("LIMIT", "2"), ("NODE", "node1"), ("REQUEST", "1")]);
    }

    /// SV1
    #[test]
    fn services_become_variables() {
        let all = environment(r#"{"name":"c"}"#, &Services).unwrap();
        let got: Vec<_> = pairs(&all).into_iter().filter(|(name, _)| name.starts_with("MY_DB")).collect();
        let expected = [
            ("MY_DB_PORT", "tcp://10.96.0.7:5432"),
            ("MY_DB_PORT_5432_TCP", "tcp://10.96.0.7:5432"),
            ("MY_DB_PORT_5432_TCP_ADDR", "10.96.0.7"),
            ("MY_DB_PORT_5432_TCP_PORT", "5432"),
            ("MY_DB_PORT_5432_TCP_PROTO", "tcp"),
            ("MY_DB_PORT_9_UDP", "udp://10.96.0.7:9"),
            ("MY_DB_PORT_9_UDP_ADDR", "10.96.0.7"),
            ("MY_DB_PORT_9_UDP_PORT", "9"),
            ("MY_DB_PORT_9_UDP_PROTO", "udp"),
            ("MY_DB_SERVICE_HOST", "10.96.0.7"),
            ("MY_DB_SERVICE_PORT", "5432"),
            ("MY_DB_SERVICE_PORT_M_X", "9"),
        ];
        assert_eq!(got, expected);
        assert_eq!(all.get("KUBERNETES_SERVICE_HOST").map(String::as_str), Some("10.96.0.1"));
        assert!(!all.keys().any(|name| name.starts_with("HEADLESS") || name.starts_with("OTHER")), "{all:?}");
    }

    /// SV1, SV2: without links only the API's stay, without services there are none.
    #[test]
    fn a_pod_without_links_knows_the_api_alone() {
        let container: Container = serde_json::from_str(r#"{"name":"c"}"#).unwrap();
        let text = r#"{"metadata":{"name":"p","namespace":"ns"},"spec":{"enableServiceLinks":false,"containers":[]}}"#;
        let pod: Pod = serde_json::from_str(text).unwrap();
        let (pod_facts, node) = facts();
        let of = |objects: &dyn Objects| {
            let sources = Sources { pod: &pod, pod_facts: &pod_facts, node: &node, objects, files: &OneFile };
            manifest_environment(sources, &container).unwrap()
        };
        let all = of(&Services);
        assert!(!all.is_empty() && all.keys().all(|name| name.starts_with("KUBERNETES_")), "{all:?}");
        assert_eq!(of(&NoObjects), Environment::new());
    }

    /// EN5, EN7: keys are taken as they are, and what they hold is not expanded.
    #[test]
    fn keys_of_any_form_become_variables() {
        let data = [("a.b-c", "$(X)"), ("1", "x")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let map = ConfigMap { data: Some(data.into()), ..Default::default() };
        let container = r#"{"name":"c","envFrom":[{"configMapRef":{"name":"settings"}},{"prefix":"P-","configMapRef":{"name":"settings"}}]}"#;
        let got = environment(container, &OneMap(map)).unwrap();
        assert_eq!(pairs(&got), [("1", "x"), ("P-1", "x"), ("P-a.b-c", "$(X)"), ("a.b-c", "$(X)")]);
    }

    /// Section 6, `fileKeyRef`.
    #[test]
    fn a_file_gives_values_by_key() {
        let of = |path: &str, key: &str, optional: bool| {
            let env = format!(
                r#"{{"name":"c","env":[{{"name":"A","valueFrom":{{"fileKeyRef":
                   {{"volumeName":"v","path":"{path}","key":"{key}","optional":{optional}}}}}}}]}}"#
            );
            environment(&env, &NoObjects).map(|all| all.get("A").cloned()).map_err(|error| error.to_string())
        };
        assert_eq!(of("env", "KEY", false), Ok(Some("from file".into())));
        for key in ["EMPTY", "NONE"] {
            assert_eq!(of("env", key, true), Ok(None));
            let expected = format!("environment variable key \"{key}\" not found in file \"env\"");
            assert_eq!(of("env", key, false), Err(expected));
        }
        assert_eq!(of("none", "KEY", true), Ok(None));
        assert_eq!(of("none", "KEY", false), Err("couldn't parse env file".into()));
    }

    /// EN2, D17
    #[test]
    fn the_manifest_overrides_the_image_and_bad_entries_are_dropped() {
        let manifest = Environment::from([("A".to_owned(), "manifest".to_owned())]);
        let image = ["A=image", "PATH=/bin", "broken", "=x"].map(str::to_owned);
        let got = process_environment(&image, &manifest, "host", false);
        assert_eq!(got, ["A=manifest", "HOSTNAME=host", "PATH=/bin"]);
        assert_eq!(process_environment(&[], &Environment::new(), "h", true)[1], format!("PATH={DEFAULT_PATH}"));
    }
}
