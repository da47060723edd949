//! From a set of manifests to pods that may run, or to everything that is wrong with the set.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::admission::defaults;
use crate::admission::validate::{self, FieldError};
use crate::convert::facts::{Objects, PodToken};
use crate::identity::{Issuer, ObjectClaim, Token, TokenRequest};
use crate::manifest::{Fault, Manifest, Object, Refused};
use crate::volume::claims::{self, NodeLabels, Waiting, World};

/// What a set of manifests holds, with defaults and valid.
#[derive(Debug, Default)]
pub struct Admitted {
    pub pods: Vec<Pod>,
    pub objects: Given,
    /// Kinds that have no effect here, each once.
    pub ignored: Vec<&'static str>,
    /// Rule VA13.
    pub warnings: Vec<String>,
}

/// Namespace and name.
type Key = (String, String);

/// The objects that pods may refer to.
#[derive(Debug, Default)]
pub struct Given {
    config_maps: BTreeMap<Key, Rc<ConfigMap>>,
    secrets: BTreeMap<Key, Rc<Secret>>,
    services: BTreeMap<Key, Rc<Service>>,
    accounts: BTreeMap<Key, ServiceAccount>,
    classes: Vec<PriorityClass>,
    claims: Vec<PersistentVolumeClaim>,
    volumes: Vec<PersistentVolume>,
    bound_claims: BTreeMap<Key, Rc<PersistentVolumeClaim>>,
    bound_volumes: BTreeMap<String, Rc<PersistentVolume>>,
    issuer: Option<Issuer>,
}

impl Given {
    /// Binds the claims of the set, for `pods` with their uids. Claims keep their directories below `directory` from one
    /// run to the next.
    pub fn bind(&mut self, pods: Vec<Pod>, node: &str, directory: PathBuf) -> Vec<Waiting> {
        let node = NodeLabels { name: node.to_owned(), ..NodeLabels::default() };
        let (claims, volumes) = (std::mem::take(&mut self.claims), std::mem::take(&mut self.volumes));
        let mut world = World { claims, volumes, pods, node, directory, ..World::default() };
        let waiting = claims::settle(&mut world);
        let named = |meta: &ObjectMeta| {
            key(meta.namespace.as_deref().unwrap_or("default"), meta.name.as_deref().unwrap_or_default())
        };
        self.bound_claims = world.claims.into_iter().map(|claim| (named(&claim.metadata), Rc::new(claim))).collect();
        self.bound_volumes =
            world.volumes.into_iter().map(|volume| (named(&volume.metadata).1, Rc::new(volume))).collect();
        waiting
    }

    /// From now on pods get tokens.
    pub fn issue(&mut self, issuer: Issuer) {
        self.issuer = Some(issuer);
    }
}

impl Objects for Given {
    fn config_map(&self, namespace: &str, name: &str) -> Option<Rc<ConfigMap>> {
        self.config_maps.get(&key(namespace, name)).cloned()
    }

    fn secret(&self, namespace: &str, name: &str) -> Option<Rc<Secret>> {
        self.secrets.get(&key(namespace, name)).cloned()
    }

    fn services(&self, namespace: &str) -> Vec<Rc<Service>> {
        let wanted = |(of, name): &&Key| of == namespace || (of == "default" && name == "kubernetes");
        self.services.iter().filter(|(key, _)| wanted(key)).map(|(_, service)| service.clone()).collect()
    }

    fn claim(&self, namespace: &str, name: &str) -> Option<Rc<PersistentVolumeClaim>> {
        self.bound_claims.get(&key(namespace, name)).cloned()
    }

    fn persistent_volume(&self, name: &str) -> Option<Rc<PersistentVolume>> {
        self.bound_volumes.get(name).cloned()
    }

    fn token(&self, request: &PodToken<'_>) -> Result<Token, String> {
        let issuer = self.issuer.as_ref().ok_or("there is no key to sign it with")?;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let meta = &request.pod.metadata;
        let account = request.pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let wanted = TokenRequest {
            namespace: text(&meta.namespace),
            service_account: ObjectClaim { name: account.unwrap_or("default".to_owned()), uid: String::new() },
            audiences: request.audience.map(str::to_owned).into_iter().collect(),
            life: request.life,
            pod: Some(ObjectClaim { name: text(&meta.name), uid: text(&meta.uid) }),
            secret: None,
            node: None,
        };
        issuer.mint(&wanted, crate::identity::now()).map_err(|error| error.to_string())
    }
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

/// All or nothing: one fault refuses the set.
pub fn admit(manifests: Vec<Manifest>) -> Result<Admitted, Refused> {
    let mut admitted = Admitted::default();
    let mut faults = Vec::new();
    let mut pods = Vec::new();
    for mut manifest in manifests {
        defaults::object(&mut manifest.object);
        // A pod is validated once its service account is known.
        if !matches!(manifest.object, Object::Pod(_)) {
            faults.extend(faults_of(&manifest, validate::validate(&manifest.object).err().map(|invalid| invalid.0)));
        }
        sort(manifest, &mut admitted, &mut pods);
    }
    let mut names = BTreeMap::new();
    for manifest in pods {
        let Object::Pod(pod) = &manifest.object else { continue };
        let mut pod = (**pod).clone();
        faults.extend(admit_pod(&manifest, &mut pod, &admitted.objects));
        let metadata = &pod.metadata;
        let name = key(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default());
        if names.insert(name.clone(), ()).is_some() {
            faults.push(
                manifest.fault("metadata.name", format!("another Pod of the set is called {}/{}", name.0, name.1)),
            );
        }
        admitted.warnings.extend(validate::warnings(&pod));
        admitted.pods.push(pod);
    }
    if faults.is_empty() { Ok(admitted) } else { Err(Refused { faults }) }
}

fn admit_pod(manifest: &Manifest, pod: &mut Pod, objects: &Given) -> Vec<Fault> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let mut faults = Vec::new();
    if let Some(spec) = pod.spec.as_mut() {
        // Every namespace has one.
        let default = ServiceAccount::default();
        let find = |name: &str| {
            let given = objects.accounts.get(&key(&namespace, name));
            given.or_else(|| (name == "default").then_some(&default))
        };
        if let Err(error) = defaults::set_service_account(spec, &namespace, find) {
            faults.push(manifest.fault("spec.serviceAccountName", error.to_string()));
        }
        if let Err(error) = defaults::set_priority(spec, &objects.classes) {
            faults.push(manifest.fault("spec.priorityClassName", error.to_string()));
        }
    }
    faults.extend(faults_of(manifest, validate::validate_pod(pod).err().map(|invalid| invalid.0)));
    faults
}

fn faults_of(manifest: &Manifest, errors: Option<Vec<FieldError>>) -> Vec<Fault> {
    let errors = errors.into_iter().flatten();
    errors.map(|error| manifest.fault(&error.path.to_string(), error.body())).collect()
}

fn sort(manifest: Manifest, admitted: &mut Admitted, pods: &mut Vec<Manifest>) {
    let metadata = manifest.object.metadata();
    let key = key(metadata.namespace.as_deref().unwrap_or("default"), metadata.name.as_deref().unwrap_or_default());
    let kind = manifest.object.kind();
    let objects = &mut admitted.objects;
    match manifest.object {
        Object::Pod(_) => pods.push(manifest),
        Object::ConfigMap(object) => drop(objects.config_maps.insert(key, Rc::new(*object))),
        Object::Secret(object) => drop(objects.secrets.insert(key, Rc::new(*object))),
        Object::Service(object) => drop(objects.services.insert(key, Rc::new(*object))),
        Object::ServiceAccount(object) => drop(objects.accounts.insert(key, *object)),
        Object::PriorityClass(object) => objects.classes.push(*object),
        Object::PersistentVolume(object) => objects.volumes.push(*object),
        Object::PersistentVolumeClaim(object) => objects.claims.push(*object),
        Object::Namespace(_) | Object::LimitRange(_) => {
            if !admitted.ignored.contains(&kind) {
                admitted.ignored.push(kind);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::decode;

    fn refused(text: &str) -> String {
        admit(decode("a.yaml", text).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn a_fault_of_validation_has_its_place_in_the_file() {
        let text =
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: UPPER\n    image: x\n";
        assert!(
            refused(text).starts_with("a.yaml:6:11: spec.containers[0].name: Invalid value: \"UPPER\""),
            "{}",
            refused(text)
        );
    }

    #[test]
    fn two_pods_of_one_name_are_refused() {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: x}]}\n";
        let got = refused(&format!("{pod}---\n{pod}"));
        assert!(got.contains("another Pod of the set is called default/p"), "{got}");
    }

    /// VA14, VA15
    #[test]
    fn what_a_pod_refers_to_must_be_given() {
        let pod = |line: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  {line}\n  containers: [{{name: c, image: x}}]\n"
            )
        };
        assert!(refused(&pod("serviceAccountName: ghost")).starts_with("a.yaml:5:23: spec.serviceAccountName: "));
        assert!(refused(&pod("priorityClassName: ghost")).starts_with("a.yaml:5:22: spec.priorityClassName: "));
    }
}
