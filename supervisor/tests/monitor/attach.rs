//! Clients that see what a container writes, and write what it reads.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;

use super::STAY;
use super::harness::{Options, Pod, Stdin, run};
use supervisor::monitor::client::{ClientError, Descriptors};
use supervisor::monitor::protocol::{AttachSpec, Exit, MonitorError};
use supervisor::monitor::pump::MAX_ATTACHERS;

/// Reader of what the container writes, and the writer of what it reads.
async fn attach(pod: &Pod, id: &str, stdin: bool) -> Result<(File, Option<File>), ClientError> {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut fds = Descriptors::default();
    let stdout = fds.add(writer.into());
    let spec = AttachSpec { container: id.to_owned(), stdin, stdout, stderr: None };
    let input = pod.client().attach(spec, fds).await?;
    Ok((OwnedFd::from(reader).into(), input.map(File::from)))
}

fn rest(mut reader: File) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn an_attached_client_sees_what_comes_and_the_log_has_it_too() {
    run(async {
        let mut pod = Pod::new(STAY).await;
        let options = Options { stdin: Some(Stdin::Stays), ..Options::default() };
        pod.create("c", "read line; echo got $line; read line; echo got $line", options).await;
        pod.client().start_container("c").await.unwrap();
        let (first, input) = attach(&pod, "c", true).await.unwrap();
        let (second, other) = attach(&pod, "c", true).await.unwrap();
        input.unwrap().write_all(b"a\n").unwrap();
        // The first client's end is nobody else's.
        other.unwrap().write_all(b"b\n").unwrap();
        assert_eq!(pod.exited().await.exit, Exit::Code(0));
        assert_eq!((rest(first).as_str(), rest(second).as_str()), ("got a\ngot b\n", "got a\ngot b\n"));
        assert_eq!(pod.log("c"), ["stdout F got a", "stdout F got b"]);
    });
}

#[test]
fn standard_input_for_one_client_ends_with_it() {
    run(async {
        let mut pod = Pod::new(STAY).await;
        let options = Options { stdin: Some(Stdin::Once), ..Options::default() };
        pod.create("c", "cat; echo end", options).await;
        pod.client().start_container("c").await.unwrap();
        let (_output, input) = attach(&pod, "c", true).await.unwrap();
        let (_output, none) = attach(&pod, "c", true).await.unwrap();
        assert!(none.is_none());
        input.unwrap().write_all(b"x\n").unwrap();
        assert_eq!(pod.exited().await.exit, Exit::Code(0));
        assert_eq!(pod.log("c"), ["stdout F x", "stdout F end"]);
    });
}

#[test]
fn a_client_that_does_not_read_is_cut_off_and_holds_nobody_up() {
    run(async {
        let mut pod = Pod::new(STAY).await;
        let options = Options { stdin: Some(Stdin::Stays), ..Options::default() };
        pod.create("c", "read go; yes 123456789 | head -n 50000; echo end", options).await;
        pod.client().start_container("c").await.unwrap();
        let (slow, input) = attach(&pod, "c", true).await.unwrap();
        input.unwrap().write_all(b"\n").unwrap();
        assert_eq!(pod.exited().await.exit, Exit::Code(0));
        assert_eq!(pod.log("c").last().unwrap(), "stdout F end");
        let seen = rest(slow);
        assert!(seen.starts_with("123456789\n") && seen.len() < 500_000, "{} bytes", seen.len());
    });
}

#[test]
fn places_of_clients_that_left_are_free_again() {
    run(async {
        let mut pod = Pod::new(STAY).await;
        pod.start("c", "exec sleep 1000").await;
        let mut clients = Vec::new();
        for _ in 0..MAX_ATTACHERS {
            clients.push(attach(&pod, "c", false).await.unwrap());
        }
        let refused = attach(&pod, "c", false).await;
        assert!(matches!(refused, Err(ClientError::Monitor(MonitorError::WrongState { .. }))), "{refused:?}");
        clients.pop();
        attach(&pod, "c", false).await.unwrap();
    });
}

/// A failed exec says why, even when its child was gone before it was let go.
#[test]
fn an_exec_of_a_missing_program_says_so() {
    run(async {
        let mut pod = Pod::new(STAY).await;
        pod.start("c", "exec sleep 1000").await;
        for _ in 0..20 {
            let mut fds = Descriptors::default();
            let mut spec = pod.exec_spec("c", "", &mut fds);
            spec.process = fds.add(pod.plan_of(&["no-such-program"])).unwrap();
            let failed = pod.client().exec(spec, fds).await;
            assert!(matches!(failed, Err(ClientError::Monitor(MonitorError::Launch(_)))), "{failed:?}");
        }
    });
}
