//! The fetcher: `monopod __fetch`, with its job as descriptor 0 and lanes from 3 on.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::process::ExitCode;
use std::rc::Rc;

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::client::{Client, Sink};
use super::wire::{self, End, MAX_CONTENT_BYTES, Question};
use super::{Failure, Job, jail, tls};
use crate::sys;

/// The first argument that makes the program the fetcher.
pub const FETCH_ARGUMENT: &str = "__fetch";
/// Where it finds its job.
const JOB_FD: i32 = 0;
/// The first lane.
const FIRST_LANE_FD: i32 = 3;
/// Questions that are answered at a time.
pub const LANES: usize = 4;
/// Bytes of `/etc/resolv.conf` and of `/etc/hosts` that are read.
const MAX_NAMES_BYTES: u64 = 1 << 20;

/// Answers questions until the puller closes its lanes.
pub fn fetch_main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fetcher: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    // The puller's spawn blocks all signals.
    nix::sys::signal::SigSet::all().thread_unblock().map_err(|error| format!("unblock signals: {error}"))?;
    let text = |error: io::Error| error.to_string();
    let lanes: Vec<OwnedFd> =
        (FIRST_LANE_FD..).take(LANES).map(sys::unpack::inherited).collect::<Result<_, _>>().map_err(text)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)?;
    let client = {
        let _inside = runtime.enter();
        prepare()
    };
    // Two libraries look at devices before their first random byte: that of TLS, and, in a static program, that of names.
    aws_lc_rs::rand::fill(&mut [0; 1]).map_err(|_| "no random numbers".to_owned())?;
    let _first = uuid::Uuid::new_v4();
    let local = tokio::task::LocalSet::new();
    // Everything that needs a file is done.
    jail::enter().map_err(|error| format!("lock the fetcher in: {error}"))?;
    local.block_on(&runtime, async {
        let client = Rc::new(client);
        let lanes: Vec<_> =
            lanes.into_iter().map(|lane| tokio::task::spawn_local(serve(lane, Rc::clone(&client)))).collect();
        for lane in lanes {
            lane.await.map_err(|error| error.to_string())?.map_err(text)?;
        }
        Ok(())
    })
}

/// Reads all files that asking needs, before the way to them is closed.
fn prepare() -> Result<Client, String> {
    let mut text = Vec::new();
    let job = sys::unpack::inherited(JOB_FD).map_err(|error| format!("job: {error}"))?;
    File::from(job).read_to_end(&mut text).map_err(|error| format!("job: {error}"))?;
    let job: Job = serde_json::from_slice(&text).map_err(|error| format!("job: {error}"))?;
    Client::new(job, &tls::system_roots(), &names_file("/etc/resolv.conf"), &names_file("/etc/hosts"))
}

/// A file that is missing or unreadable has no names.
fn names_file(path: &str) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        file.take(MAX_NAMES_BYTES).read_to_end(&mut bytes).unwrap_or_default();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One lane: a question, its answer, the next question.
async fn serve(lane: OwnedFd, client: Rc<Result<Client, String>>) -> io::Result<()> {
    let lane = StdStream::from(lane);
    lane.set_nonblocking(true)?;
    let (questions, mut answers) = UnixStream::from_std(lane)?.into_split();
    let mut questions = BufReader::new(questions);
    while let Some(question) = wire::read_question(&mut questions).await? {
        let end = match &*client {
            Ok(client) => answer(client, &question, &mut answers).await,
            Err(text) => Err(Failure::Fetcher(text.clone())),
        };
        let end = end.map_or_else(End::Failed, End::Done);
        answers.write_all(&wire::end_frame(&end)?).await?;
    }
    Ok(())
}

async fn answer(client: &Client, question: &Question, to: &mut impl Sink) -> Result<wire::Facts, Failure> {
    match question {
        Question::Manifest { reference, limit } => client.manifest(reference, *limit, to).await,
        Question::Blob { digest, size, offset } => client.blob(digest, *size, *offset, to).await,
    }
}

impl Sink for tokio::net::unix::OwnedWriteHalf {
    async fn put(&mut self, content: &[u8]) -> io::Result<()> {
        for piece in content.chunks(MAX_CONTENT_BYTES) {
            self.write_all(&wire::content_head(piece.len())?).await?;
            self.write_all(piece).await?;
        }
        Ok(())
    }
}
