//! A node with pods and just enough of an API server for `kubectl exec`, `attach`, `cp`, `logs` and `port-forward`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use http::{Request, Response, StatusCode};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use supervisor::convert::facts::NoObjects;
use supervisor::convert::{machine, status};
use supervisor::engine::dirs::Dirs;
use supervisor::engine::{Config, Engine, record};
use supervisor::image::load::{self, Options, Source};
use supervisor::image::{Limits, Store};
use supervisor::monitor::protocol::WhenBrainDies;
use supervisor::node::session::http::Answer;
use supervisor::node::{LogPolicy, Node, Notice, Sessions, Settings, node_facts};
use supervisor::stream::PodPort;
use supervisor::stream::body::Body;
use supervisor::stream::received::Received;
use tokio::net::TcpListener;

/// Tells where the server keeps its things.
pub(crate) const DIRECTORY: &str = "STREAMS_TEST_DIRECTORY";
pub(crate) const ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 8001);

type Pods = Rc<std::cell::RefCell<BTreeMap<String, Pod>>>;

/// Serves the pods of `pods.json` until it is killed.
pub(crate) fn serve(dir: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (mut node, mut notices, images) = open(dir).await;
        let archive = std::fs::read(dir.join("image.tar")).unwrap();
        let options = Options { name: None, unpacker: Some(env!("CARGO_BIN_EXE_monopod").into()) };
        load::load(&images, Source::Stream(Box::new(std::io::Cursor::new(archive))), &options, &mut |_| {}).unwrap();
        let pods = Pods::default();
        for pod in serde_json::from_slice::<Vec<Value>>(&std::fs::read(dir.join("pods.json")).unwrap()).unwrap() {
            let mut pod: Pod = serde_json::from_value(pod).unwrap();
            supervisor::admission::defaults::object(&mut supervisor::manifest::Object::Pod(Box::new(pod.clone())));
            pod.metadata.uid = pod.metadata.name.clone().map(|name| format!("uid-{name}"));
            pod.metadata.namespace = Some("default".to_owned());
            let spec = pod.spec.as_mut().unwrap();
            supervisor::admission::defaults::pod_spec(spec);
            spec.node_name = Some("node".to_owned());
            pods.borrow_mut().insert(pod.metadata.name.clone().unwrap(), pod.clone());
            let spec = machine::spec(&pod);
            node.add(pod, spec);
        }
        let listener = TcpListener::bind(ADDRESS).await.unwrap();
        tokio::task::spawn_local(accept(listener, node.sessions(), pods.clone()));
        loop {
            node.step().await;
            while let Ok(notice) = notices.try_recv() {
                note(&pods, notice);
            }
        }
    });
}

fn note(pods: &Pods, notice: Notice) {
    match notice {
        Notice::Status { uid, status: shown } => {
            let mut pods = pods.borrow_mut();
            let Some(pod) = pods.values_mut().find(|pod| pod.metadata.uid.as_ref() == Some(&uid)) else { return };
            pod.status = Some(status::status(&shown, &status::Surroundings::default()));
        }
        Notice::Event { event, .. } => eprintln!("server: {event:?}"),
        Notice::Warning { text, .. } => eprintln!("server: {text}"),
        Notice::Removed { .. } => {}
    }
}

async fn open(dir: &Path) -> (Node, tokio::sync::mpsc::UnboundedReceiver<Notice>, Store) {
    let dirs = Dirs { data: dir.join("data"), run: dir.join("run"), log: dir.join("log") };
    let config = Config {
        owner: record::this_process(),
        cgroup_parent: cgroup(dir),
        network: netsetup::Config::new(dirs.leases()),
        dirs: dirs.clone(),
    };
    let (engine, events) = Engine::open(config).await.unwrap();
    let settings = Settings {
        images: Store::open(dirs.images(), Limits::default()).unwrap(),
        node: node_facts(Some("node".to_owned()), vec![IpAddr::from([192, 0, 2, 2])]),
        objects: Box::new(NoObjects),
        resolv: netsetup::resolv::parse(""),
        hosts: String::new(),
        when_brain_dies: WhenBrainDies::EndAfter { grace_ms: 0 },
        log: LogPolicy { max_bytes: 100_000, max_files: 5 },
        seccomp_dir: dir.join("seccomp"),
        resources: cgroupd::Policy::default(),
        snapshots: None,
        host_users: true,
        comes_back: None,
    };
    let (node, notices) = Node::new(engine, events, settings);
    (node, notices, Store::open(dirs.images(), Limits::default()).unwrap())
}

/// Of everything that a server runs.
pub(crate) fn cgroup(dir: &Path) -> PathBuf {
    let host = cgroupd::host::Host::detect().unwrap();
    let cgroup = host.mount_point.expect("a cgroup2").join(dir.file_name().unwrap());
    std::fs::create_dir_all(&cgroup).unwrap();
    cgroup
}

async fn accept(listener: TcpListener, sessions: Sessions, pods: Pods) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (sessions, pods) = (sessions.clone(), pods.clone());
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let (sessions, pods) = (sessions.clone(), pods.clone());
                async move { Ok::<_, std::convert::Infallible>(answer(request.map(Received::from), &sessions, &pods).await) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            let _left = http.serve_connection(TokioIo::new(socket), service).with_upgrades().await;
        });
    }
}

async fn answer(mut request: Request<Received>, sessions: &Sessions, pods: &Pods) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (name, sub) = match parts.as_slice() {
        ["api"] => return object(json!({"kind": "APIVersions", "versions": ["v1"]})),
        ["apis"] => return object(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})),
        ["api", "v1"] => return object(resources()),
        ["api", "v1", "namespaces", "default", "pods", name] => (*name, ""),
        ["api", "v1", "namespaces", "default", "pods", name, sub, ..] => (*name, *sub),
        _ => return failed(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource"),
    };
    let Some(pod) = pods.borrow().get(name).cloned() else {
        return failed(StatusCode::NOT_FOUND, "NotFound", &format!("pods {name:?} not found"));
    };
    if let Some(rest) = path.strip_prefix(&format!("/api/v1/namespaces/default/pods/{name}/proxy")) {
        let answer = sessions.proxy(&pod, &PodPort::default(), rest, request).await;
        return answer.unwrap_or_else(|refusal| failed(refusal.code, refusal.reason, &refusal.message));
    }
    let answer = stream(sessions, &pod, sub, &mut request).await;
    let answer = match answer {
        Some(answer) => answer,
        None => return object(serde_json::to_value(pod).unwrap()),
    };
    answer.unwrap_or_else(|refusal| failed(refusal.code, refusal.reason, &refusal.message))
}

async fn stream(sessions: &Sessions, pod: &Pod, sub: &str, request: &mut Request<Received>) -> Option<Answer> {
    Some(match sub {
        "log" => sessions.log_request(pod, request),
        "exec" => sessions.exec_request(pod, request),
        "attach" => sessions.attach_request(pod, request),
        "portforward" => sessions.port_forward_request(pod, request),
        "usage" => {
            let usage = sessions.usage(pod.metadata.uid.as_deref().unwrap()).await;
            let usage = usage.into_iter().map(|usage| json!({"name": usage.container, "cpu": usage.cpu_nanos}));
            Ok(object(usage.collect()))
        }
        _ => return None,
    })
}

fn resources() -> Value {
    let resource = |name: &str| json!({"name": name, "kind": "Pod", "namespaced": true, "verbs": ["get", "create"]});
    let names = ["pods", "pods/exec", "pods/attach", "pods/log", "pods/portforward"];
    json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": names.map(resource)})
}

fn object(value: Value) -> Response<Body> {
    let mut response = Response::new(Body::text(value.to_string()));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

fn failed(code: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let mut response = object(json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": reason, "message": message, "code": code.as_u16(),
    }));
    *response.status_mut() = code;
    response
}
