//! The table.

use k8s_openapi::api;

use super::codec::{self, of};
use super::{Class, Resource, Subresource};

type Names = &'static [&'static str];

const ALL: Names = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const NO_COLLECTION: Names = &["create", "delete", "get", "list", "patch", "update", "watch"];
const WORKLOAD: Names = &["create", "delete", "get", "list", "patch", "update", "watch"];
const CREATE: Names = &["create"];
const READ: Names = &["get", "list"];
const STATUS: Names = &["get", "patch", "update"];
const EVERYTHING: Names = &["all"];
const NONE: Names = &[];

/// A stored resource with the verbs of most.
const fn stored(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Resource {
    Resource {
        group,
        version,
        kind,
        plural,
        singular: "",
        short: NONE,
        categories: NONE,
        is_namespaced: true,
        verbs: ALL,
        subresources: &[],
        class: Class::Stored,
        codec: codec::untyped,
    }
}

const fn core(kind: &'static str, plural: &'static str) -> Resource {
    stored("", "v1", kind, plural)
}

const fn workload(group: &'static str, kind: &'static str, plural: &'static str, short: Names) -> Resource {
    let base = stored(group, "v1", kind, plural);
    Resource { class: Class::Workload, verbs: WORKLOAD, categories: EVERYTHING, short, ..base }
}

const fn review(group: &'static str, kind: &'static str, plural: &'static str) -> Resource {
    Resource { class: Class::Review, verbs: CREATE, is_namespaced: false, ..stored(group, "v1", kind, plural) }
}

const fn sub(name: &'static str, kind: &'static str, verbs: Names) -> Subresource {
    Subresource { name, of: None, kind, verbs }
}

const fn foreign(
    name: &'static str,
    of: (&'static str, &'static str),
    kind: &'static str,
    verbs: Names,
) -> Subresource {
    Subresource { name, of: Some(of), kind, verbs }
}

const PROXY_VERBS: Names = &["create", "delete", "get", "patch", "update"];
const UPGRADE: Names = &["create", "get"];

const POD_SUBRESOURCES: &[Subresource] = &[
    sub("attach", "PodAttachOptions", UPGRADE),
    sub("binding", "Binding", CREATE),
    sub("ephemeralcontainers", "Pod", STATUS),
    foreign("eviction", ("policy", "v1"), "Eviction", CREATE),
    sub("exec", "PodExecOptions", UPGRADE),
    sub("log", "Pod", &["get"]),
    sub("portforward", "PodPortForwardOptions", UPGRADE),
    sub("proxy", "PodProxyOptions", PROXY_VERBS),
    sub("resize", "Pod", STATUS),
    sub("status", "Pod", STATUS),
];

/// Everything that is served. The first version of a group is the preferred one.
pub static RESOURCES: &[Resource] = &[
    Resource { verbs: CREATE, class: Class::Review, singular: "binding", ..core("Binding", "bindings") },
    Resource {
        singular: "componentstatus",
        is_namespaced: false,
        verbs: READ,
        categories: NONE,
        ..workload("", "ComponentStatus", "componentstatuses", &["cs"])
    },
    Resource {
        singular: "configmap",
        short: &["cm"],
        codec: of::<api::core::v1::ConfigMap>,
        ..core("ConfigMap", "configmaps")
    },
    Resource {
        singular: "endpoints",
        short: &["ep"],
        codec: of::<api::core::v1::Endpoints>,
        ..core("Endpoints", "endpoints")
    },
    Resource { singular: "event", short: &["ev"], codec: of::<api::core::v1::Event>, ..core("Event", "events") },
    Resource {
        singular: "limitrange",
        short: &["limits"],
        codec: of::<api::core::v1::LimitRange>,
        ..core("LimitRange", "limitranges")
    },
    Resource {
        singular: "namespace",
        short: &["ns"],
        is_namespaced: false,
        verbs: NO_COLLECTION,
        subresources: &[sub("finalize", "Namespace", &["update"]), sub("status", "Namespace", STATUS)],
        codec: of::<api::core::v1::Namespace>,
        ..core("Namespace", "namespaces")
    },
    Resource {
        singular: "node",
        short: &["no"],
        is_namespaced: false,
        subresources: &[sub("proxy", "NodeProxyOptions", PROXY_VERBS), sub("status", "Node", STATUS)],
        codec: of::<api::core::v1::Node>,
        ..core("Node", "nodes")
    },
    Resource {
        singular: "persistentvolumeclaim",
        short: &["pvc"],
        subresources: &[sub("status", "PersistentVolumeClaim", STATUS)],
        codec: of::<api::core::v1::PersistentVolumeClaim>,
        ..core("PersistentVolumeClaim", "persistentvolumeclaims")
    },
    Resource {
        singular: "persistentvolume",
        short: &["pv"],
        is_namespaced: false,
        subresources: &[sub("status", "PersistentVolume", STATUS)],
        codec: of::<api::core::v1::PersistentVolume>,
        ..core("PersistentVolume", "persistentvolumes")
    },
    Resource {
        singular: "pod",
        short: &["po"],
        categories: EVERYTHING,
        subresources: POD_SUBRESOURCES,
        codec: of::<api::core::v1::Pod>,
        ..core("Pod", "pods")
    },
    Resource {
        singular: "podtemplate",
        codec: of::<api::core::v1::PodTemplate>,
        ..core("PodTemplate", "podtemplates")
    },
    Resource {
        singular: "replicationcontroller",
        codec: of::<api::core::v1::ReplicationController>,
        ..workload("", "ReplicationController", "replicationcontrollers", &["rc"])
    },
    Resource {
        singular: "resourcequota",
        short: &["quota"],
        subresources: &[sub("status", "ResourceQuota", STATUS)],
        codec: of::<api::core::v1::ResourceQuota>,
        ..core("ResourceQuota", "resourcequotas")
    },
    Resource { singular: "secret", codec: of::<api::core::v1::Secret>, ..core("Secret", "secrets") },
    Resource {
        singular: "serviceaccount",
        short: &["sa"],
        subresources: &[foreign("token", ("authentication.k8s.io", "v1"), "TokenRequest", CREATE)],
        codec: of::<api::core::v1::ServiceAccount>,
        ..core("ServiceAccount", "serviceaccounts")
    },
    Resource {
        singular: "service",
        short: &["svc"],
        categories: EVERYTHING,
        subresources: &[sub("proxy", "ServiceProxyOptions", PROXY_VERBS), sub("status", "Service", STATUS)],
        codec: of::<api::core::v1::Service>,
        ..core("Service", "services")
    },
    Resource {
        singular: "controllerrevision",
        categories: NONE,
        codec: of::<api::apps::v1::ControllerRevision>,
        ..workload("apps", "ControllerRevision", "controllerrevisions", NONE)
    },
    Resource {
        singular: "daemonset",
        codec: of::<api::apps::v1::DaemonSet>,
        ..workload("apps", "DaemonSet", "daemonsets", &["ds"])
    },
    Resource {
        singular: "deployment",
        codec: of::<api::apps::v1::Deployment>,
        ..workload("apps", "Deployment", "deployments", &["deploy"])
    },
    Resource {
        singular: "replicaset",
        codec: of::<api::apps::v1::ReplicaSet>,
        ..workload("apps", "ReplicaSet", "replicasets", &["rs"])
    },
    Resource {
        singular: "statefulset",
        codec: of::<api::apps::v1::StatefulSet>,
        ..workload("apps", "StatefulSet", "statefulsets", &["sts"])
    },
    Resource {
        singular: "selfsubjectreview",
        ..review("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews")
    },
    // kubectl 1.27 knows no other for `auth whoami`.
    Resource {
        singular: "selfsubjectreview",
        version: "v1beta1",
        ..review("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews")
    },
    Resource { singular: "tokenreview", ..review("authentication.k8s.io", "TokenReview", "tokenreviews") },
    Resource {
        singular: "localsubjectaccessreview",
        is_namespaced: true,
        ..review("authorization.k8s.io", "LocalSubjectAccessReview", "localsubjectaccessreviews")
    },
    Resource {
        singular: "selfsubjectaccessreview",
        ..review("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews")
    },
    Resource {
        singular: "selfsubjectrulesreview",
        ..review("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews")
    },
    Resource {
        singular: "subjectaccessreview",
        ..review("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews")
    },
    Resource {
        singular: "horizontalpodautoscaler",
        version: "v2",
        codec: of::<api::autoscaling::v2::HorizontalPodAutoscaler>,
        ..workload("autoscaling", "HorizontalPodAutoscaler", "horizontalpodautoscalers", &["hpa"])
    },
    Resource {
        singular: "horizontalpodautoscaler",
        codec: of::<api::autoscaling::v1::HorizontalPodAutoscaler>,
        ..workload("autoscaling", "HorizontalPodAutoscaler", "horizontalpodautoscalers", &["hpa"])
    },
    Resource {
        singular: "cronjob",
        codec: of::<api::batch::v1::CronJob>,
        ..workload("batch", "CronJob", "cronjobs", &["cj"])
    },
    Resource { singular: "job", codec: of::<api::batch::v1::Job>, ..workload("batch", "Job", "jobs", NONE) },
    Resource {
        singular: "lease",
        codec: of::<api::coordination::v1::Lease>,
        ..stored("coordination.k8s.io", "v1", "Lease", "leases")
    },
    Resource {
        singular: "endpointslice",
        codec: of::<api::discovery::v1::EndpointSlice>,
        ..stored("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
    },
    Resource {
        singular: "event",
        short: &["ev"],
        class: Class::EventView,
        codec: of::<api::events::v1::Event>,
        ..stored("events.k8s.io", "v1", "Event", "events")
    },
    Resource {
        class: Class::Metrics,
        verbs: READ,
        is_namespaced: false,
        ..stored("metrics.k8s.io", "v1beta1", "NodeMetrics", "nodes")
    },
    Resource { class: Class::Metrics, verbs: READ, ..stored("metrics.k8s.io", "v1beta1", "PodMetrics", "pods") },
    Resource {
        singular: "ingressclass",
        is_namespaced: false,
        categories: NONE,
        codec: of::<api::networking::v1::IngressClass>,
        ..workload("networking.k8s.io", "IngressClass", "ingressclasses", NONE)
    },
    Resource {
        singular: "ingress",
        categories: NONE,
        codec: of::<api::networking::v1::Ingress>,
        ..workload("networking.k8s.io", "Ingress", "ingresses", &["ing"])
    },
    Resource {
        singular: "networkpolicy",
        categories: NONE,
        codec: of::<api::networking::v1::NetworkPolicy>,
        ..workload("networking.k8s.io", "NetworkPolicy", "networkpolicies", &["netpol"])
    },
    Resource {
        singular: "runtimeclass",
        is_namespaced: false,
        codec: of::<api::node::v1::RuntimeClass>,
        ..stored("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses")
    },
    Resource {
        singular: "poddisruptionbudget",
        categories: NONE,
        codec: of::<api::policy::v1::PodDisruptionBudget>,
        ..workload("policy", "PodDisruptionBudget", "poddisruptionbudgets", &["pdb"])
    },
    Resource {
        singular: "priorityclass",
        short: &["pc"],
        is_namespaced: false,
        codec: of::<api::scheduling::v1::PriorityClass>,
        ..stored("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses")
    },
    Resource {
        singular: "storageclass",
        short: &["sc"],
        is_namespaced: false,
        codec: of::<api::storage::v1::StorageClass>,
        ..stored("storage.k8s.io", "v1", "StorageClass", "storageclasses")
    },
];
