//! Real kubectls, of every version that is installed.

#![expect(clippy::disallowed_methods, reason = "tests run programs")]

use std::path::PathBuf;
use std::process::Command;

use crate::harness::Api;

/// Where kubectls of several versions lie, beside the one in `PATH`.
const SDK: &str = "/usr/lib/google-cloud-sdk/bin";

fn kubectls() -> Vec<PathBuf> {
    let versions = ["1.27", "1.33"].map(|version| PathBuf::from(format!("{SDK}/kubectl.{version}")));
    let found: Vec<PathBuf> = versions.into_iter().filter(|path| path.exists()).collect();
    if found.is_empty() { vec![PathBuf::from("kubectl")] } else { found }
}

/// Runs one command line; what it prints, errors included.
fn run(api: &Api, kubectl: &PathBuf, line: &str) -> String {
    let home = api.kubeconfig().with_file_name("home");
    let output = Command::new("timeout")
        .arg("30")
        .arg(kubectl)
        .args(line.split(' '))
        .env("KUBECONFIG", api.kubeconfig())
        .env("HOME", home)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn every_kubectl_finds_a_cluster() {
    let api = Api::start();
    let file = api.kubeconfig().with_file_name("pod.yaml");
    let manifest = |image: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{containers: [{{name: c, image: {image}}}]}}\n"
        )
    };
    for kubectl in kubectls() {
        let run = |line: &str| run(&api, &kubectl, line);
        let apply = format!("apply -f {}", file.display());
        std::fs::write(&file, manifest("busybox:1")).unwrap();
        let mut lines = vec![
            ("get ns default -o name".to_owned(), "namespace/default"),
            ("get all".to_owned(), "service/kubernetes"),
            (apply.clone(), "pod/web created"),
            (apply.clone(), "pod/web unchanged"),
            (format!("{apply} --server-side --force-conflicts"), "pod/web serverside-applied"),
            ("get pod web".to_owned(), "web    0/1     Pending   0          "),
            ("get pod web -o jsonpath={.spec.containers[0].image}".to_owned(), "busybox:1"),
            ("describe pod web".to_owned(), "Service Account:  default"),
            ("label pod web tier=front".to_owned(), "pod/web labeled"),
            ("annotate pod web note=1".to_owned(), "pod/web annotated"),
            ("get pods -l tier=front -o name".to_owned(), "pod/web"),
            ("set image pod/web c=busybox:2".to_owned(), "pod/web image updated"),
            ("expose pod web --port=80 --name=web-svc --selector=tier=front".to_owned(), "service/web-svc exposed"),
            ("create configmap cm --from-literal=a=b".to_owned(), "configmap/cm created"),
            ("create secret generic s --from-literal=p=q".to_owned(), "secret/s created"),
            ("create ns demo".to_owned(), "namespace/demo created"),
            ("create sa robot".to_owned(), "serviceaccount/robot created"),
            ("create quota q --hard=pods=100 -n demo".to_owned(), "resourcequota/q created"),
            ("create priorityclass pc --value=10".to_owned(), "priorityclass.scheduling.k8s.io/pc created"),
            ("create deployment d --image=x".to_owned(), "Monopod runs Pods, not Deployments"),
            ("run y --image=busybox --dry-run=server".to_owned(), "pod/y created (server dry run)"),
            ("auth can-i delete pods".to_owned(), "yes"),
            ("auth can-i delete pods --as=eve".to_owned(), "no"),
            ("explain pod.spec.containers.image".to_owned(), "<string>"),
            ("wait pod/web --for=jsonpath={.status.phase}=Pending --timeout=5s".to_owned(), "pod/web condition met"),
            ("delete pod web".to_owned(), "pod \"web\" deleted"),
            ("delete svc/web-svc cm/cm secret/s sa/robot ns/demo pc/pc".to_owned(), "namespace \"demo\" deleted"),
            ("get ns demo".to_owned(), "namespaces \"demo\" not found"),
        ];
        lines.push(("api-resources -o name".to_owned(), "pods.metrics.k8s.io"));
        for (line, expected) in lines {
            let got = run(&line);
            assert!(got.contains(expected), "{} {line}:\n{got}", kubectl.display());
        }
    }
}
