//! Pulls from Debian's `docker-registry` on a private host's loopback: HTTP, HTTPS with an authority of its own, logins; every form in
//! which images are pushed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::mount::MountFlags;

use crate::host::{self, private_host};
use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: every_form_of_an_image_is_pulled_and_runs, an_own_authority_and_a_login_open_a_registry,
        what_is_wrong_is_said_and_recovery_is_by_itself, a_pull_secret_opens_an_image_for_its_pods_alone,
        an_image_volume_is_pulled_as_its_policy_says]
}

/// `user` with the password `secret`, as `htpasswd -B` writes it.
pub const HTPASSWD: &str = "user:$2y$05$zH.POX7wGsVIrMLkhgQUSuAebjY1yPkgUjnfb8jJKc./4u/Tf5.2K\n";
const CONFIG: &str = "/run/registry.yml";

/// A registry that runs as long as this does.
pub struct Registry {
    child: Child,
    pub address: &'static str,
}

impl Registry {
    /// Starts one; `more` is YAML of its configuration.
    pub fn start(address: &'static str, more: &str) -> Result<Self> {
        let directory = format!("/run/registry-{}", address.replace(':', "-"));
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {directory}}}}}\n{more}"
        );
        std::fs::write(CONFIG, config.replace("ADDRESS", address))?;
        let child = Command::new("docker-registry")
            .args(["serve", CONFIG])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start docker-registry (Debian has a package of that name)")?;
        let registry = Self { child, address };
        registry.wait_until_it_answers()?;
        Ok(registry)
    }

    pub fn plain() -> Result<Self> {
        Self::start("127.0.0.1:5000", "http: {addr: \"ADDRESS\"}\n")
    }

    /// There is no event for it: connecting is what tells.
    fn wait_until_it_answers(&self) -> Result<()> {
        let started = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            ensure!(started.elapsed() < host::PATIENCE, "docker-registry does not listen at {}", self.address);
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(())
    }

    /// `skopeo copy` of a test image.
    pub fn push(&self, image: &str, name: &str, options: &[&str]) -> Result<()> {
        self.push_from(&format!("oci-archive:{}", crate::run::image(image)?.display()), name, options)
    }

    /// `skopeo copy` from wherever skopeo can.
    pub fn push_from(&self, from: &str, name: &str, options: &[&str]) -> Result<()> {
        let to = format!("docker://{}/{name}", self.address);
        let mut arguments = vec!["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"];
        arguments.extend(options);
        arguments.extend([from, to.as_str()]);
        host::run("skopeo", &arguments).map(|_| ())
    }

    /// Puts a manifest, or says what manifest is there.
    pub fn http(&self, method: &str, path: &str, content_type: &str, body: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAccept: {content_type}\r\n\
             Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
        Ok(answer)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Fails when it has ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A private host whose `/etc/containers` and `/etc/docker` are its own.
pub fn with_own_configuration(body: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    private_host(move || {
        for directory in ["/etc/containers", "/etc/docker"] {
            if Path::new(directory).is_dir() {
                rustix::mount::mount("tmpfs", directory, "tmpfs", MountFlags::empty(), c"mode=755")
                    .with_context(|| format!("mount {directory}"))?;
            }
        }
        body()
    })
}

/// Without the logins of whoever runs the tests.
pub fn monopod() -> Result<Command> {
    let mut command = host::binary("monopod")?;
    command
        .env("HOME", "/run")
        .env_remove("REGISTRY_AUTH_FILE")
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("DOCKER_CONFIG");
    Ok(command)
}

fn pull(name: &str) -> Result<Output> {
    Ok(monopod()?.args(["image", "pull", name]).output()?)
}

fn pulled(name: &str) -> Result<String> {
    let output = pull(name)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn refused(name: &str, want: &str) -> Result<()> {
    let output = pull(name)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains(want), "want {want:?} for {name}, got {said}");
    Ok(())
}

fn manifest(name: &str, policy: &str, secret: Option<&str>) -> String {
    let secrets = secret.map(|name| format!("  imagePullSecrets: [{{name: {name}}}]\n")).unwrap_or_default();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: one}}\nspec:\n  restartPolicy: Never\n{secrets}  containers:\n  - name: app\n    \
         image: {name}\n    imagePullPolicy: {policy}\n    command: [sh, -c, echo it runs]\n"
    )
}

fn run_pod(text: &str, limit: &str) -> Result<Output> {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    std::fs::write(file.path(), text)?;
    Ok(monopod()?.args(["run", "--for", limit]).arg(file.path()).output()?)
}

fn runs(text: &str) -> Result<()> {
    let output = run_pod(text, "60s")?;
    let shown = String::from_utf8_lossy(&output.stdout);
    ensure!(shown.contains("it runs"), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Docker schema 2 and OCI, gzip and zstd, a name for several platforms (P17, IP7).
fn every_form_of_an_image_is_pulled_and_runs() -> Result<()> {
    with_own_configuration(|| {
        let registry = Registry::plain()?;
        // First, or skopeo takes the layer that is there.
        let zstd = ["--format", "oci", "--dest-compress-format", "zstd", "--dest-compress"];
        registry.push("busybox", "zstd/busybox:zstd", &zstd)?;
        for (tag, format) in [("docker", "v2s2"), ("oci", "oci")] {
            registry.push("busybox", &format!("busybox:{tag}"), &["--format", format])?;
        }
        registry.push("nginx", "busybox:other", &["--format", "oci"])?;
        put_index(&registry, "busybox", "multi", "other", "oci")?;
        for name in ["busybox:docker", "busybox:oci", "zstd/busybox:zstd", "busybox:multi"] {
            let name = format!("127.0.0.1:5000/{name}");
            runs(&manifest(&name, "Always", None))?;
            let shown = pulled(&name)?;
            ensure!(shown.contains("busybox@sha256:"), "{shown}");
        }
        // The one for this machine, and by the digest of the whole.
        let list = monopod()?.args(["image", "ls", "-o", "json"]).output()?.stdout;
        let list: serde_json::Value = serde_json::from_slice(&list)?;
        ensure!(list.as_array().is_some_and(|list| list.len() == 3), "docker, oci = multi, zstd: {list}");
        registry.push("nginx", "nginx", &[])?;
        pulled("127.0.0.1:5000/nginx").map(|_| ())
    })
}

/// Makes TAG an index: another architecture's manifest first, this machine's second.
pub fn put_index(registry: &Registry, repository: &str, tag: &str, foreign: &str, own: &str) -> Result<()> {
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let arch = if cfg!(target_arch = "x86_64") { ("arm64", "amd64") } else { ("amd64", "arm64") };
    let describe = |tag: &str, arch: &str| -> Result<serde_json::Value> {
        let answer = registry.http("GET", &format!("/v2/{repository}/manifests/{tag}"), MANIFEST, "")?;
        let (head, body) = answer.split_once("\r\n\r\n").context("head")?;
        let digest = head.lines().find_map(|line| line.strip_prefix("Docker-Content-Digest: ")).context("digest")?;
        Ok(serde_json::json!({
            "mediaType": MANIFEST, "digest": digest, "size": body.len(), "platform": { "os": "linux", "architecture": arch },
        }))
    };
    let manifests = [describe(foreign, arch.0)?, describe(own, arch.1)?];
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }).to_string();
    registry.http("PUT", &format!("/v2/{repository}/manifests/{tag}"), INDEX, &index).map(|_| ())
}

/// TLS with `certs.d`, basic logins from `auth.json` (D29). The host's other address is no loopback, so that it counts.
fn an_own_authority_and_a_login_open_a_registry() -> Result<()> {
    with_own_configuration(|| {
        let authority = certificates()?;
        std::fs::write("/run/htpasswd", HTPASSWD)?;
        let tls = "http: {addr: \"ADDRESS\", tls: {certificate: /run/server.crt, key: /run/server.key}}\n\
                   auth: {htpasswd: {realm: r, path: /run/htpasswd}}\n";
        let registry = Registry::start("192.0.2.2:5443", tls)?;
        registry.push("busybox", "busybox", &["--dest-creds", "user:secret"])?;
        let name = "192.0.2.2:5443/busybox";
        refused(name, "failed to verify certificate")?;
        std::fs::create_dir_all("/etc/containers/certs.d/192.0.2.2:5443")?;
        std::fs::write("/etc/containers/certs.d/192.0.2.2:5443/ca.crt", authority)?;
        refused(name, "wants a login")?;
        login("192.0.2.2:5443", "wrong")?;
        refused(name, "refuses the user name or password")?;
        login("192.0.2.2:5443", "secret")?;
        pulled(name)?;
        runs(&manifest(name, "Always", None))
    })
}

pub fn login(host: &str, password: &str) -> Result<()> {
    std::fs::create_dir_all("/run/containers/0")?;
    let auths = serde_json::json!({ "auths": { host: { "username": "user", "password": password } } });
    std::fs::write("/run/containers/0/auth.json", auths.to_string()).context("auth.json")
}

/// `/run/server.crt`, its key, and the PEM of the authority that signed it.
fn certificates() -> Result<String> {
    let openssl = |arguments: &str| host::run("openssl", &arguments.split(' ').collect::<Vec<_>>());
    openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority -keyout /run/ca.key -out /run/ca.crt",
    )?;
    openssl(
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=registry -addext subjectAltName=IP:192.0.2.2 -keyout /run/server.key -out /run/server.csr",
    )?;
    openssl(
        "x509 -req -in /run/server.csr -CA /run/ca.crt -CAkey /run/ca.key -CAcreateserial -days 2 -copy_extensions copy -out /run/server.crt",
    )?;
    std::fs::read_to_string("/run/ca.crt").context("ca.crt")
}

/// Wrong name, missing tag, unreachable host, blocked registry: message and pod say which, and when the cause goes, the pod runs.
fn what_is_wrong_is_said_and_recovery_is_by_itself() -> Result<()> {
    with_own_configuration(|| {
        let registry = Registry::plain()?;
        registry.push("busybox", "busybox", &[])?;
        refused("127.0.0.1:5000/busybox:none", "has no none in repository busybox: check the tag")?;
        refused("127.0.0.1:5000/busibox", "has no repository busibox: check the name")?;
        refused("127.0.0.1:5001/busybox", "connection refused")?;
        std::fs::write("/etc/containers/registries.conf", "[[registry]]\nlocation = \"bad.test\"\nblocked = true\n")?;
        refused("bad.test/x", "registry bad.test is blocked in /etc/containers/registries.conf")?;
        let output = run_pod(&manifest("127.0.0.1:5001/busybox", "Always", None), "2s")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains("RegistryUnavailable: image pull failed for 127.0.0.1:5001/busybox"), "{said}");
        let output = run_pod(&manifest("127.0.0.1:5000/busybox:later", "Always", None), "1s")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains("ErrImagePull: 127.0.0.1:5000 has no later"), "{said}");
        recovers(&registry)
    })
}

/// The first attempt fails, the second comes 10 s later (IP5) and finds the tag.
fn recovers(registry: &Registry) -> Result<()> {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    std::fs::write(file.path(), manifest("127.0.0.1:5000/busybox:later", "IfNotPresent", None))?;
    let mut command = monopod()?;
    command.arg("run").arg(file.path()).stderr(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stderr = std::io::BufReader::new(child.stderr.take().context("stderr")?);
    let mut line = String::new();
    while !line.contains("ErrImagePull") {
        line.clear();
        ensure!(std::io::BufRead::read_line(&mut stderr, &mut line)? > 0, "the pod ended without an error");
    }
    registry.push("busybox", "busybox:later", &[])?;
    std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    let output = child.wait_with_output()?;
    ensure!(String::from_utf8_lossy(&output.stdout).contains("it runs"), "{output:?}");
    Ok(())
}

/// IP4, IP8.
fn a_pull_secret_opens_an_image_for_its_pods_alone() -> Result<()> {
    with_own_configuration(|| {
        std::fs::write("/run/htpasswd", HTPASSWD)?;
        let basic = "http: {addr: \"ADDRESS\"}\nauth: {htpasswd: {realm: r, path: /run/htpasswd}}\n";
        let registry = Registry::start("127.0.0.1:5002", basic)?;
        registry.push("busybox", "busybox", &["--dest-creds", "user:secret"])?;
        let name = "127.0.0.1:5002/busybox";
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: pull}\ntype: kubernetes.io/dockerconfigjson\nstringData:\n  \
                      .dockerconfigjson: '{\"auths\":{\"127.0.0.1:5002\":{\"username\":\"user\",\"password\":\"secret\"}}}'\n---\n";
        runs(&format!("{secret}{}", manifest(name, "IfNotPresent", Some("pull"))))?;
        for (policy, want) in [("IfNotPresent", "wants a login"), ("Never", "ErrImageNeverPull")] {
            let output = run_pod(&manifest(name, policy, None), "2s")?;
            let said = String::from_utf8_lossy(&output.stderr);
            if !said.contains(want) {
                bail!("want {want:?} with {policy}, got {said}");
            }
        }
        // The same login in another secret may have it without asking anew, though the registry has gone.
        drop(registry);
        runs(&format!("{}{}", secret.replace("name: pull", "name: copy"), manifest(name, "IfNotPresent", Some("copy"))))
    })
}

/// VO36, IP1: the image of a volume is pulled for the container that mounts it, whose reason tells when that fails.
fn an_image_volume_is_pulled_as_its_policy_says() -> Result<()> {
    with_own_configuration(|| {
        let registry = Registry::plain()?;
        registry.push("busybox", "busybox", &[])?;
        registry.push("nginx", "data", &[])?;
        let pod = |reference: &str, policy: &str, mount: &str| {
            let base = manifest("127.0.0.1:5000/busybox", "IfNotPresent", None);
            let base = base.replace("echo it runs", "test -f /data/index.html && echo it runs");
            format!(
                "{base}    volumeMounts: [{{name: v, mountPath: /data{mount}}}]\n  volumes:\n  \
                 - {{name: v, image: {{reference: '{reference}', pullPolicy: {policy}}}}}\n"
            )
        };
        let sub = ", subPath: usr/share/nginx/html";
        for (reference, policy, want) in [
            ("127.0.0.1:5000/data", "Never", "ErrImageNeverPull"),
            ("127.0.0.1:5000/none", "IfNotPresent", "ErrImagePull: image \"127.0.0.1:5000/none\" of volume \"v\""),
            ("127.0.0.1:5001/data", "Always", "RegistryUnavailable"),
        ] {
            let output = run_pod(&pod(reference, policy, sub), "2s")?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(said.contains(want) && output.stdout.is_empty(), "want {want:?}, got {said}");
        }
        runs(&pod("127.0.0.1:5000/data", "IfNotPresent", sub))?;
        drop(registry);
        // It is here now.
        runs(&pod("127.0.0.1:5000/data", "IfNotPresent", sub))?;
        runs(&pod("127.0.0.1:5000/data", "Never", sub))
    })
}
