//! Streams into real containers: by real `kubectl` clients, one that speaks SPDY and one that speaks WebSocket.
//!
//! Needs root. Each test has a network of its own, where a server from this program runs the pods.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "tests start programs, and ask until something runs")]

#[path = "streams/host.rs"]
mod host;
#[path = "streams/pause.rs"]
mod pause;
#[path = "streams/server.rs"]
mod server;

use std::io::{BufRead as _, BufReader, Read as _};

use host::{Terminal, pod, with_pods};
use serde_json::json;

/// SPDY, and WebSocket.
const VERSIONS: [&str; 2] = ["1.27", "1.33"];

#[test]
#[ignore = "is run by the others"]
fn server_for_the_other_tests() {
    let dir = std::env::var_os(server::DIRECTORY).expect("is run by the others");
    server::serve(std::path::Path::new(&dir));
}

/// XE2, XE3, XE5
#[test]
fn commands_run_in_containers() {
    with_pods(&[pod("a", "sleep 1000", json!({})), pod("over", "exit 0", json!({}))], |host| {
        for version in VERSIONS {
            let run = |arguments: &[&str]| host.run(version, arguments);
            let Some((code, out, err)) = run(&["exec", "a", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]) else {
                continue;
            };
            assert_eq!((code, out.as_str()), (7, "out\n"), "{version}: {err}");
            assert_eq!(err, "err\ncommand terminated with exit code 7\n", "{version}");
            let (code, out, err) = run(&["exec", "a", "--", "sh", "-c", "seq 200000; exit 0"]).unwrap();
            assert_eq!(
                (code, out.len(), out.ends_with("200000\n"), err.as_str()),
                (0, 1_288_895, true, ""),
                "{version}"
            );
            let fed = host.feed(version, &["exec", "-i", "a", "--", "sh", "-c", "cat; echo end"], b"some input\n");
            assert_eq!(fed.unwrap(), (0, "some input\nend\n".to_owned(), String::new()), "{version}");
            let input = vec![b'x'; 3_000_000];
            let fed = host.feed(version, &["exec", "-i", "a", "--", "wc", "-c"], &input);
            assert_eq!(fed.unwrap(), (0, "3000000\n".to_owned(), String::new()), "{version}");
            let (code, _, err) = run(&["exec", "a", "--", "nothing-of-that-name"]).unwrap();
            assert_eq!(code, 1, "{version}: {err}");
            assert!(err.contains("executable file not found in $PATH"), "{version}: {err}");
            let (code, _, err) = run(&["exec", "over", "--", "true"]).unwrap();
            assert_eq!(code, 1, "{version}");
            assert!(
                err.contains("cannot exec into a container in a completed pod; current phase is Succeeded"),
                "{err}"
            );
        }
    });
}

/// LG1
#[test]
fn logs_are_shown_and_followed() {
    let script = "for i in 1 2 3; do echo line $i; echo error $i >&2; done; while test ! -e /tmp/go; do sleep 0.02; done; seq 6000; echo last";
    with_pods(&[pod("a", script, json!({}))], |host| {
        for version in VERSIONS {
            let run = |arguments: &[&str]| host.run(version, arguments);
            let Some((code, out, err)) = run(&["logs", "a"]) else { continue };
            assert_eq!((code, err.as_str()), (0, ""), "{version}");
            // Two pipes: what was written to one of them has an order.
            let lines =
                |prefix: &str| out.lines().filter(|line| line.starts_with(prefix)).collect::<Vec<_>>().join(",");
            assert_eq!(lines("line"), "line 1,line 2,line 3", "{version}: {out}");
            assert_eq!(lines("error"), "error 1,error 2,error 3", "{version}: {out}");
            let (_, out, _) = run(&["logs", "a", "--limit-bytes=9"]).unwrap();
            assert_eq!(out.len(), 9, "{version}");
            let (_, out, _) = run(&["logs", "a", "--tail=1", "--timestamps"]).unwrap();
            assert_eq!(out.split_once(' ').map(|(time, _)| time.len()), Some(30), "{version}: {out}");
            let (code, _, err) = run(&["logs", "a", "--previous"]).unwrap();
            let expected =
                "Error from server (BadRequest): previous terminated container \"app\" in pod \"a\" not found\n";
            assert_eq!((code, err.as_str()), (1, expected), "{version}");
            let (code, _, err) = run(&["logs", "a", "-c", "b"]).unwrap();
            assert_eq!(code, 1, "{version}: {err}");
        }
        let follow = |version| host.kubectl(version, &["logs", "-f", "a", "--tail=1"]);
        let following = VERSIONS.into_iter().filter_map(follow).map(|mut command| {
            let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
            let mut output = BufReader::new(child.stdout.take().unwrap());
            // Who shows the last line so far follows from there on.
            output.read_line(&mut String::new()).unwrap();
            (child, output)
        });
        let following: Vec<_> = following.collect();
        let all = std::thread::spawn(move || {
            let rest = following.into_iter().map(|(mut child, mut output)| {
                let mut text = String::new();
                output.read_to_string(&mut text).unwrap();
                child.wait().unwrap();
                text
            });
            rest.collect::<Vec<_>>()
        });
        host.run("1.27", &["exec", "a", "--", "sh", "-c", "echo > /tmp/go"]);
        for text in all.join().unwrap() {
            // Over several rotations: the log is limited to 100 kB a file.
            assert!(text.ends_with("\n6000\nlast\n"), "{}", &text[text.len().saturating_sub(100)..]);
            assert!(text.starts_with("1\n2\n3\n") && text.contains("\n3000\n3001\n"));
        }
    });
}

/// XE4
#[test]
fn a_terminal_is_a_terminal() {
    with_pods(&[pod("a", "sleep 1000", json!({}))], |host| {
        for version in VERSIONS {
            let Some(command) = host.kubectl(version, &["exec", "-it", "a", "--", "sh"]) else { continue };
            let mut terminal = Terminal::start(command, 37, 91);
            // A shell throws away what was typed before it had its terminal.
            terminal.wait_for("# ");
            terminal.send("stty size; test -t 1 && echo is-a-$((6*7))-tty\n");
            terminal.wait_for("37 91");
            terminal.wait_for("is-a-42-tty");
            terminal.send("\x03exit 5\n");
            assert_eq!(terminal.finish(), 5, "{version}");
        }
    });
}

#[test]
fn files_are_copied_both_ways() {
    with_pods(&[pod("a", "sleep 1000", json!({}))], |host| {
        let bytes: Vec<u8> = (0..2_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let here = host.dir.join("here");
        std::fs::create_dir(&here).unwrap();
        std::fs::write(here.join("file"), &bytes).unwrap();
        for version in VERSIONS {
            let there = format!("a:/data/{version}");
            let Some((code, _, err)) = host.run(version, &["cp", "here", &there]) else { continue };
            assert_eq!(code, 0, "{version}: {err}");
            let back = format!("back-{version}");
            let (code, _, err) = host.run(version, &["cp", &there, &back]).unwrap();
            assert_eq!(code, 0, "{version}: {err}");
            assert!(std::fs::read(host.dir.join(back).join("file")).unwrap() == bytes, "{version}");
        }
    });
}

#[test]
fn ports_are_forwarded() {
    use std::io::{Read as _, Write as _};
    let script = "echo hello > /data/index.html; httpd -p 127.0.0.1:80 -h /data; nc -ll -p 81 -e cat";
    with_pods(&[pod("a", script, json!({}))], |host| {
        for (version, local) in VERSIONS.into_iter().zip([18_080, 18_090]) {
            let web = format!("{local}:80");
            let echo = format!("{}:81", local + 1);
            let nobody = format!("{}:82", local + 2);
            let arguments = ["port-forward", "pod/a", &web, &echo, &nobody];
            let Some(command) = host.kubectl(version, &arguments) else { continue };
            let mut forward = Terminal::start(command, 24, 80);
            forward.wait_for(&format!("127.0.0.1:{} -> 82", local + 2));
            let connect = move |port: u16| std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            let get = move || {
                let mut socket = connect(local);
                socket.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").unwrap();
                let mut text = String::new();
                socket.read_to_string(&mut text).unwrap();
                assert!(text.ends_with("\r\n\r\nhello\n"), "{text}");
            };
            let several: Vec<_> = (0..20).map(|_| std::thread::spawn(get)).collect();
            several.into_iter().for_each(|one| one.join().unwrap());
            let mut socket = connect(local + 1);
            let payload = vec![b'z'; 1_000_000];
            let mut writer = socket.try_clone().unwrap();
            let sent = payload.clone();
            let sending = std::thread::spawn(move || {
                writer.write_all(&sent).unwrap();
                writer.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let mut back = Vec::new();
            socket.read_to_end(&mut back).unwrap();
            sending.join().unwrap();
            assert!(back == payload, "{version}: {} bytes came back", back.len());
            drop(connect(local + 2));
            forward.wait_for("Connection refused");
        }
    });
}

fn once_name(version: &str) -> String {
    format!("once-{}", version.replace('.', "-"))
}

#[test]
fn a_running_container_is_attached_to() {
    let once = pod(
        "once",
        "echo before; while read line; do echo got $line; done; echo closed",
        json!({"stdin": true, "stdinOnce": true}),
    );
    let open = pod("open", "while read line; do echo got $line; done", json!({"stdin": true}));
    let tty = pod("tty", "sh", json!({"stdin": true, "tty": true}));
    let mut pods = vec![open, tty];
    for version in VERSIONS {
        let mut pod = once.clone();
        pod["metadata"]["name"] = json!(once_name(version));
        pods.push(pod);
    }
    with_pods(&pods, |host| {
        for version in VERSIONS {
            let name = once_name(version);
            let Some((code, out, err)) = host.feed(version, &["attach", "-i", &name], b"a\nb\n") else { continue };
            assert_eq!((code, out.as_str()), (0, "got a\ngot b\nclosed\n"), "{version}: {err}");
            let (_, out, _) = host.run(version, &["logs", &name]).unwrap();
            assert_eq!(out, "before\ngot a\ngot b\nclosed\n", "{version}");
            let mut first = host.attach(version, &["attach", "-i", "open"]);
            first.send("one\n");
            first.wait_for("got one");
            drop(first);
            let mut second = host.attach(version, &["attach", "-i", "open"]);
            second.send("two\n");
            second.wait_for("got two");
            let command = host.kubectl(version, &["attach", "-it", "tty"]).unwrap();
            let mut terminal = Terminal::start(command, 33, 77);
            terminal.send("stty size\n");
            terminal.wait_for("33 77");
        }
    });
}

#[test]
fn requests_reach_a_pod_s_server_and_its_usage_is_measured() {
    let script = "echo hello > /data/index.html; httpd -p 80 -h /data; yes > /dev/null";
    with_pods(&[pod("a", script, json!({"ports": [{"containerPort": 80}]}))], |_| {
        let started = std::time::Instant::now();
        while host::get_text("/api/v1/namespaces/default/pods/a/proxy/index.html").unwrap() != "hello\n" {
            assert!(started.elapsed() < host::PATIENCE, "the server in the pod does not answer");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let usage = host::get("/api/v1/namespaces/default/pods/a/usage").unwrap();
        assert_eq!(usage[0]["name"], "app");
        assert!(usage[0]["cpu"].as_u64().unwrap() > 1_000_000, "{usage}");
    });
}
