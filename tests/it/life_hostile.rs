//! Probes and hooks against who means them harm: the pod goes on as specified, and nothing is left behind.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::life_watch::{
    Line, OBEDIENT, STUBBORN, Watch, cgroups_of, measured, pod, processes_of, seconds, sh, uid, with,
};
use crate::run::with_images;
use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: a_target_that_never_answers_fails_in_time, a_flooding_body_is_cut_off, a_flooding_head_is_a_failure,
        a_redirect_to_another_host_is_a_warning, a_body_that_breaks_off_says_nothing, a_head_that_breaks_off_is_a_failure,
        a_hanging_exec_probe_is_killed_with_its_children, a_hook_that_outlives_the_grace_is_left_to_the_kill,
        a_hook_that_asks_a_silent_server_outlives_nothing, a_hook_without_end_ends_with_its_pod, a_probe_s_host_may_be_a_name]
}

/// The host's own address in [`crate::host::private_host`].
const HOST: &str = "192.0.2.2";

/// A server of the test's own, outside of any pod: probes come from the host.
struct Server {
    port: u16,
    open: Arc<AtomicUsize>,
}

impl Server {
    /// `behave` has each connection until the peer is gone.
    fn start(behave: fn(&mut TcpStream) -> std::io::Result<()>) -> Result<Self> {
        let listener = TcpListener::bind((HOST, 0)).context("listen")?;
        let port = listener.local_addr()?.port();
        let open = Arc::new(AtomicUsize::new(0));
        let count = open.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let count = count.clone();
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    // A peer that hangs up is what all of them wait for.
                    let _gone = behave(&mut stream);
                    drop(stream);
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Ok(Self { port, open })
    }

    fn get(&self) -> Value {
        json!({"host": HOST, "port": self.port})
    }

    /// The client's ends are closed before the pods are gone.
    fn is_left(&self) -> Result<()> {
        let started = Instant::now();
        while self.open.load(Ordering::SeqCst) > 0 {
            ensure!(
                started.elapsed() < Duration::from_secs(5),
                "{} connections are left",
                self.open.load(Ordering::SeqCst)
            );
            std::thread::yield_now();
        }
        Ok(())
    }
}

/// So that the end of the connection takes nothing of the answer with it.
fn read_request(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.read(&mut [0; 4096]).map(drop)
}

fn until_gone(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

fn flood(stream: &mut TcpStream, head: &str) -> std::io::Result<()> {
    stream.write_all(head.as_bytes())?;
    loop {
        stream.write_all(&[b'x'; 64 << 10])?;
    }
}

/// One container that is probed once a second.
fn probed(kind: &str, server: &Server) -> Value {
    let probe = json!({"httpGet": server.get(), "periodSeconds": 1, "failureThreshold": 1});
    pod("probed", json!({"containers": [with(sh("c", OBEDIENT), json!({kind: probe}))]}))
}

/// Deletes the pods; nothing of them may be left.
fn end(mut watch: Watch, server: Option<&Server>, shown: &Line) -> Result<()> {
    watch.delete()?;
    let uid = uid(shown)?;
    ensure!(processes_of(uid)?.is_empty(), "left behind: {:?}", processes_of(uid)?);
    ensure!(cgroups_of(uid).is_empty(), "left behind: {:?}", cgroups_of(uid));
    server.map_or(Ok(()), Server::is_left)
}

/// HG6, PR8
fn a_target_that_never_answers_fails_in_time() -> Result<()> {
    with_images(&["busybox"], || {
        let server = Server::start(until_gone)?;
        let mut watch = Watch::start(&[probed("livenessProbe", &server)])?;
        let up = watch.until("the start", |line| line.is_running("c"))?;
        let failed = watch.until("the failure", |line| line.is_event("Unhealthy"))?;
        let expected = format!(
            "Liveness probe failed: Get \"http://{HOST}:{}/\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            server.port
        );
        ensure!(failed.object["message"] == expected.as_str(), "{}", failed.object["message"]);
        measured("start to the time-out of 1 s", failed.at - up.at, seconds(0.95)..=seconds(1.3))?;
        watch.until("the restart", |line| line.is_running("c") && line.restarts("c") == Some(1))?;
        end(watch, Some(&server), &up)
    })
}

/// HG4
fn a_flooding_body_is_cut_off() -> Result<()> {
    with_images(&["busybox"], || {
        let server = Server::start(|stream| flood(stream, "HTTP/1.1 200 OK\r\n\r\n"))?;
        let mut watch = Watch::start(&[probed("readinessProbe", &server)])?;
        let ready = watch.until("readiness", |line| line.condition("Ready").as_deref() == Some("True"))?;
        server.is_left()?;
        end(watch, Some(&server), &ready)
    })
}

/// D36
fn a_flooding_head_is_a_failure() -> Result<()> {
    with_images(&["busybox"], || {
        let server = Server::start(|stream| flood(stream, "HTTP/1.1 200 OK\r\nX: "))?;
        let mut watch = Watch::start(&[probed("readinessProbe", &server)])?;
        let up = watch.until("the start", |line| line.is_running("c"))?;
        let failed = watch.until("the failure", |line| line.is_event("Unhealthy"))?;
        let text = failed.object["message"].as_str().unwrap_or_default();
        ensure!(text.starts_with("Readiness probe failed: Get \"http://"), "{text}");
        ensure!(failed.at - up.at < Duration::from_millis(900), "the deadline ended it, not the limit");
        end(watch, Some(&server), &up)
    })
}

/// HG3
fn a_redirect_to_another_host_is_a_warning() -> Result<()> {
    with_images(&["busybox"], || {
        let server = Server::start(|stream| {
            stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 4\r\n\r\naway")?;
            until_gone(stream)
        })?;
        let mut watch = Watch::start(&[probed("readinessProbe", &server)])?;
        let warning = watch.until("the warning", |line| line.is_event("ProbeWarning"))?;
        let expected = "Readiness probe warning: Probe terminated redirects, Response body: away";
        ensure!(warning.object["message"] == expected, "{}", warning.object["message"]);
        let ready = watch.until("readiness", |line| line.condition("Ready").as_deref() == Some("True"))?;
        end(watch, Some(&server), &ready)
    })
}

/// PR6: an error is no failure, so a container that is alive stays so.
fn a_body_that_breaks_off_says_nothing() -> Result<()> {
    with_images(&["busybox"], || {
        let server = Server::start(|stream| {
            read_request(stream)?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        })?;
        let mut watch = Watch::start(&[probed("livenessProbe", &server)])?;
        let up = watch.until("the start", |line| line.is_running("c"))?;
        for _ in 0..2 {
            let error = watch.until("the error", |line| line.is_event("Unhealthy"))?;
            let text = error.object["message"].as_str().unwrap_or_default();
            ensure!(text.starts_with("Liveness probe errored and resulted in "), "{text}");
        }
        ensure!(watch.count(|line| line.is_event("Killing")) == 0, "an error killed the container");
        end(watch, Some(&server), &up)
    })
}

/// HG6
fn a_head_that_breaks_off_is_a_failure() -> Result<()> {
    with_images(&["busybox"], || {
        let server = Server::start(|stream| {
            read_request(stream)?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nConte")
        })?;
        let mut watch = Watch::start(&[probed("livenessProbe", &server)])?;
        let up = watch.until("the start", |line| line.is_running("c"))?;
        let failed = watch.until("the failure", |line| line.is_event("Unhealthy"))?;
        let text = failed.object["message"].as_str().unwrap_or_default();
        ensure!(text.starts_with("Liveness probe failed: Get \"http://"), "{text}");
        watch.until("the restart", |line| line.is_running("c") && line.restarts("c") == Some(1))?;
        end(watch, Some(&server), &up)
    })
}

/// EX2: what one probe started is gone before the next has failed, even when it tried to hide.
fn a_hanging_exec_probe_is_killed_with_its_children() -> Result<()> {
    with_images(&["busybox"], || {
        let script = "sleep 2001 & setsid sleep 2002 & setsid setsid sleep 2003 & wait";
        let probe = json!({"exec": {"command": ["sh", "-c", script]}, "periodSeconds": 1, "failureThreshold": 100});
        let spec = json!({"containers": [with(sh("c", OBEDIENT), json!({"livenessProbe": probe}))]});
        let mut watch = Watch::start(&[pod("fork", spec)])?;
        let up = watch.until("the start", |line| line.is_running("c"))?;
        let expected = format!("Liveness probe failed: command timed out: \"sh -c {script}\" timed out after 1s");
        for _ in 0..3 {
            watch.until("the failure", |line| line.says("Unhealthy", &expected))?;
        }
        let sleeping = processes_of(uid(&up)?)?.into_iter().filter(|(_, name)| name == "sleep").count();
        println!(
            "measured: after three hanging probes of three children each, {sleeping} sleep (the container itself is one)"
        );
        // The container's own, and those of a probe that runs right now.
        ensure!(sleeping <= 1 + 3, "{sleeping} processes sleep: {:?}", processes_of(uid(&up)?)?);
        end(watch, None, &up)
    })
}

/// A pod that is deleted while its hook does not end.
fn hooked(hook: Value, script: &str, grace: u64) -> Value {
    let container = with(sh("c", script), json!({"lifecycle": {"preStop": hook}}));
    pod("hooked", json!({"containers": [container], "terminationGracePeriodSeconds": grace}))
}

/// LC10: after 2 s the stop signal, 2 s later SIGKILL.
fn a_hook_that_outlives_the_grace_is_left_to_the_kill() -> Result<()> {
    with_images(&["busybox"], || {
        let hook = json!({"exec": {"command": ["sh", "-c", "setsid sleep 2001 & sleep 2002"]}});
        let mut watch = Watch::start(&[hooked(hook, STUBBORN, 2)])?;
        let up = watch.until("the start", |line| line.is_running("c"))?;
        let asked = Instant::now();
        end_at(&mut watch, asked, 4.0)?;
        end(watch, None, &up)
    })
}

/// LC10, by HTTP.
fn a_hook_that_asks_a_silent_server_outlives_nothing() -> Result<()> {
    with_images(&["busybox"], || {
        let server = Server::start(until_gone)?;
        let mut watch = Watch::start(&[hooked(json!({"httpGet": server.get()}), OBEDIENT, 2)])?;
        let up = watch.until("the start", |line| line.is_running("c"))?;
        let asked = Instant::now();
        end_at(&mut watch, asked, 2.0)?;
        end(watch, Some(&server), &up)
    })
}

/// Asks for the end, which has to come after so many seconds.
fn end_at(watch: &mut Watch, asked: Instant, expected: f64) -> Result<()> {
    watch.signal(rustix::process::Signal::TERM)?;
    let ended = watch.until("the end", |line| line.is_terminated("c"))?;
    let bounds = seconds(expected - 0.1)..=seconds(expected + 0.4);
    measured("deletion to the end, grace 2, endless hook", ended.at - asked, bounds)
}

/// LC2, LC6: postStart has no time limit, and the pod shows that its container still starts.
fn a_hook_without_end_ends_with_its_pod() -> Result<()> {
    with_images(&["busybox"], || {
        let hook = json!({"postStart": {"exec": {"command": ["sleep", "2001"]}}});
        let container = with(sh("c", OBEDIENT), json!({"lifecycle": hook}));
        let spec = json!({"containers": [container], "terminationGracePeriodSeconds": 2});
        let mut watch = Watch::start(&[pod("hooked", spec)])?;
        let up = watch.until("the start", |line| line.is_event("Started"))?;
        ensure!(watch.count(|line| line.is_running("c")) == 0, "it runs before its hook is over");
        let uid = json!({"metadata": {"uid": up.object["involvedObject"]["uid"]}});
        end(watch, None, &Line { object: uid, ..up })
    })
}

const UNKNOWN: &str = "dial tcp: lookup nobody: no such host";

/// HG1: the host's name server says where the name leads.
fn a_probe_s_host_may_be_a_name() -> Result<()> {
    with_images(&["busybox"], || {
        std::fs::write("/tmp/resolv.conf", format!("nameserver {HOST}\nsearch example.test\n"))?;
        rustix::mount::mount_bind("/tmp/resolv.conf", "/etc/resolv.conf")?;
        name_server(b"\x03web\x07example\x04test\x00")?;
        let server = Server::start(|stream| {
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
            until_gone(stream)
        })?;
        let probe = |name: &str| {
            let get = json!({"host": name, "port": server.port});
            let probe = json!({"httpGet": get, "periodSeconds": 1, "failureThreshold": 1});
            with(sh(name, OBEDIENT), json!({"readinessProbe": probe}))
        };
        let mut watch = Watch::start(&[pod("named", json!({"containers": [probe("web"), probe("nobody")]}))])?;
        let is_ready = |line: &Line| line.container("web").is_some_and(|status| status["ready"] == true);
        let is_unknown = |line: &Line| {
            line.is_event("Unhealthy") && line.object["message"].as_str().is_some_and(|text| text.ends_with(UNKNOWN))
        };
        watch.until("the unknown name", is_unknown)?;
        let ready = match watch.seen.iter().find(|line| is_ready(line)) {
            Some(ready) => ready.clone(),
            None => watch.until("readiness", is_ready)?,
        };
        end(watch, Some(&server), &ready)?;
        rustix::mount::unmount("/etc/resolv.conf", rustix::mount::UnmountFlags::DETACH)?;
        Ok(())
    })
}

/// Says that this name (RFC 1035, section 3.1) has the address [`HOST`], and that there are no others.
fn name_server(name: &'static [u8]) -> Result<()> {
    let socket = UdpSocket::bind((HOST, 53)).context("listen for names")?;
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let answer = buffer.get(..length).and_then(|question| named(question, name));
            if let Some(answer) = answer {
                // The client may have gone.
                let _gone = socket.send_to(&answer, from);
            }
        }
    });
    Ok(())
}

/// The answer to a question (RFC 1035, section 4).
fn named(question: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let body = question.get(12..)?;
    let end = body.iter().position(|byte| *byte == 0)? + 1;
    let ours = body.get(..end)?.eq_ignore_ascii_case(name);
    let address = ours && body.get(end..end + 2)? == [0, 1];
    let mut answer = question.get(..2)?.to_vec();
    answer.extend([0x81, if ours { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(address), 0, 0, 0, 0]);
    answer.extend(body.get(..end + 4)?);
    if address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 2]);
    }
    Some(answer)
}
