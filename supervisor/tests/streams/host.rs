//! A host of a test's own: network and mounts, an image, a server, and `kubectl`.

use std::io::{BufRead as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::server::{ADDRESS, DIRECTORY};

const BUSYBOX: &str = "/bin/busybox";
/// Longest that something may take that takes a moment.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Where machines have them.
const KUBECTL_DIRECTORIES: &[&str] = &["/usr/lib/google-cloud-sdk/bin", "/opt/google-cloud-sdk/bin"];

/// A server that runs, inside namespaces of the calling thread.
#[derive(Debug)]
pub(crate) struct Host {
    server: Child,
    pub(crate) dir: PathBuf,
}

/// Runs `body` on a thread with its own network and mounts, beside a server with `pods`.
pub(crate) fn with_pods(pods: &[Value], body: impl FnOnce(&Host) + Send) {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter();
            let host = Host::start(pods);
            body(&host);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn enter() {
    use nix::sched::CloneFlags;
    nix::sched::unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    for arguments in [
        "link set lo up",
        "link add uplink type bridge",
        "address add 192.0.2.2/24 dev uplink",
        "link set uplink up",
        "route add default via 192.0.2.1",
    ] {
        assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
    }
}

impl Host {
    fn start(pods: &[Value]) -> Self {
        let dir = tempfile::Builder::new().prefix("streams-").tempdir().unwrap().keep();
        std::fs::write(dir.join("pods.json"), json!(pods).to_string()).unwrap();
        std::fs::write(dir.join("image.tar"), image()).unwrap();
        let programs = dir.join("programs");
        std::fs::create_dir(&programs).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_monitor"), programs.join("monitor")).unwrap();
        super::pause::write(&programs.join("pause"));
        let (host, port) = ADDRESS;
        std::fs::write(
            dir.join("config"),
            json!({
                "kind": "Config", "apiVersion": "v1", "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": format!("http://{host}:{port}")}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "users": [{"name": "u", "user": {}}],
            })
            .to_string(),
        )
        .unwrap();
        let server = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server_for_the_other_tests", "--ignored", "--nocapture"])
            .env(DIRECTORY, &dir)
            .env("MONOPOD_LIBEXEC", &programs)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let host = Self { server, dir };
        for pod in pods {
            host.wait_for_pod(pod["metadata"]["name"].as_str().unwrap());
        }
        host
    }

    fn wait_for_pod(&self, name: &str) {
        let started = Instant::now();
        loop {
            if let Some(pod) = get(&format!("/api/v1/namespaces/default/pods/{name}"))
                && matches!(pod["status"]["phase"].as_str(), Some("Running" | "Succeeded" | "Failed"))
            {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "pod {name} does not run");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `kubectl` of a version, or none where the machine has none.
    pub(crate) fn kubectl(&self, version: &str, arguments: &[&str]) -> Option<Command> {
        let program = KUBECTL_DIRECTORIES.iter().map(|dir| Path::new(dir).join(format!("kubectl.{version}")));
        let Some(program) = program.into_iter().find(|path| path.exists()) else {
            eprintln!("kubectl {version} is not on this machine: left out");
            return None;
        };
        let mut command = Command::new(program);
        command.args(["--kubeconfig"]).arg(self.dir.join("config")).args(["--cache-dir"]).arg(self.dir.join("cache"));
        command.args(arguments).stdin(Stdio::null()).current_dir(&self.dir);
        Some(command)
    }

    /// Runs on pipes.
    pub(crate) fn attach(&self, version: &str, arguments: &[&str]) -> Terminal {
        let mut command = self.kubectl(version, arguments).unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = std::os::fd::OwnedFd::from(child.stdin.take().unwrap());
        let output = std::os::fd::OwnedFd::from(child.stdout.take().unwrap());
        Terminal::over(child, input.into(), output.into())
    }

    /// Runs it to its end: code, output, errors.
    pub(crate) fn run(&self, version: &str, arguments: &[&str]) -> Option<(i32, String, String)> {
        self.kubectl(version, arguments).map(|command| finish(command, b""))
    }

    /// With something to read.
    pub(crate) fn feed(&self, version: &str, arguments: &[&str], input: &[u8]) -> Option<(i32, String, String)> {
        self.kubectl(version, arguments).map(|command| finish(command, input))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
        let _kept = std::fs::remove_dir_all(&self.dir);
    }
}

fn finish(mut command: Command, input: &[u8]) -> (i32, String, String) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let (send, receive) = std::sync::mpsc::channel();
    let pid = rustix::process::Pid::from_child(&child);
    std::thread::spawn(move || send.send(child.wait_with_output()));
    let output: Output = match receive.recv_timeout(PATIENCE) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            let output = receive.recv().unwrap().unwrap();
            panic!("{command:?} does not end: {output:?}");
        }
    };
    feeding.join().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// A GET whose answer is JSON.
pub(crate) fn get(path: &str) -> Option<Value> {
    serde_json::from_str(&get_text(path)?).ok()
}

/// The body of a GET's answer.
pub(crate) fn get_text(path: &str) -> Option<String> {
    let mut socket = std::net::TcpStream::connect(ADDRESS).ok()?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut reader = std::io::BufReader::new(socket);
    let mut line = String::new();
    while reader.read_line(&mut line).ok()? > 2 {
        line.clear();
    }
    let mut body = String::new();
    reader.read_to_string(&mut body).ok()?;
    Some(body)
}

/// A program on a terminal, or on pipes, whose output a test waits for.
#[derive(Debug)]
pub(crate) struct Terminal {
    child: Child,
    input: std::fs::File,
    output: std::sync::mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    /// On a new terminal of this size.
    pub(crate) fn start(mut command: Command, rows: u16, columns: u16) -> Self {
        use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size).unwrap();
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let copy = || Stdio::from(slave.try_clone().unwrap());
        let child = command.stdin(copy()).stdout(copy()).stderr(copy()).spawn().unwrap();
        let master = std::fs::File::from(master);
        Self::over(child, master.try_clone().unwrap(), master)
    }

    fn over(child: Child, input: std::fs::File, mut output: std::fs::File) -> Self {
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if send.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, input, output: receive, seen: String::new() }
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.input.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn wait_for(&mut self, text: &str) {
        while !self.seen.contains(text) {
            match self.output.recv_timeout(PATIENCE) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("never saw {text:?} but:\n{}", self.seen),
            }
        }
    }

    pub(crate) fn finish(&mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        self.child.wait().unwrap();
    }
}

/// A docker archive with busybox and what a root needs.
fn image() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    for dir in ["bin/", "etc/", "tmp/", "root/", "proc/", "sys/", "dev/", "data/"] {
        append(&mut layer, dir, tar::EntryType::Directory, 0o777, b"");
    }
    append(&mut layer, "bin/busybox", tar::EntryType::Regular, 0o755, &std::fs::read(BUSYBOX).unwrap());
    append(&mut layer, "etc/passwd", tar::EntryType::Regular, 0o644, b"root:x:0:0::/root:/bin/sh\n");
    for name in [
        "sh", "cat", "tar", "sleep", "stty", "wc", "head", "seq", "id", "nc", "ls", "tee", "env", "md5sum", "httpd",
        "yes", "test", "echo",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    let layer = layer.into_inner().unwrap();
    let diff = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &layer);
    let diff: String = diff.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": ["box:1"], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in [
        ("layer.tar", layer),
        ("config.json", config.to_string().into_bytes()),
        ("manifest.json", manifest.to_string().into_bytes()),
    ] {
        append(&mut archive, name, tar::EntryType::Regular, 0o644, &bytes);
    }
    archive.into_inner().unwrap()
}

fn append(archive: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, mode: u32, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, name, bytes).unwrap();
}

/// A pod of one container that runs a script.
pub(crate) fn pod(name: &str, script: &str, more: Value) -> Value {
    let mut container =
        json!({"name": "app", "image": "box:1", "imagePullPolicy": "Never", "command": ["sh", "-c", script]});
    container.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}
